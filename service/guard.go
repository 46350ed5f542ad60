package service

import (
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// guard refuses what another web site sends through a person's browser: requests with a foreign
// origin, and, where no token protects the data, requests that reached a loopback address under
// another name (DNS rebinding).
func (s *Service) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.token == "" && !isLoopbackHost(r.Host):
			writeError(w, http.StatusForbidden, "forbidden_host", "without "+AdminTokenEnv+" the service answers to loopback names only")
		case isForeign(r):
			writeError(w, http.StatusForbidden, "forbidden_origin", "requests from other origins are refused")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// authorized asks for the admin token, or a session of somebody who has it, where there is a token. What changes something needs
// the CSRF token too, unless it comes with the admin token or from no browser.
func (s *Service) authorized(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		safe := r.Method == http.MethodGet || r.Method == http.MethodHead
		switch cookie, signedIn := s.sessions.valid(r); {
		case !s.sessions.needed:
			if !safe && r.Header.Get(csrfHeader) == "" && fromBrowser(r) {
				forbidCSRF(w)
				return
			}
		case s.bearer(r):
		case r.Header.Get("Authorization") != "" || !signedIn:
			w.Header().Set("WWW-Authenticate", `Bearer realm="usageflow"`)
			writeError(w, http.StatusUnauthorized, "unauthorized", "this needs the admin token as a bearer token")
			return
		case !safe && !s.sessions.isCSRF(cookie, r.Header.Get(csrfHeader)):
			forbidCSRF(w)
			return
		}
		next(w, r)
	})
}

// bearer reports whether r has the admin token.
func (s *Service) bearer(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && s.sessions.isToken(strings.TrimSpace(token))
}

func forbidCSRF(w http.ResponseWriter) {
	writeError(w, http.StatusForbidden, "csrf", "this needs the header "+csrfHeader+" with what GET /api/v1/session says")
}

// fromBrowser reports whether r has what browsers put on requests of scripts and forms.
func fromBrowser(r *http.Request) bool {
	for _, name := range []string{"Origin", "Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest"} {
		if r.Header.Get(name) != "" {
			return true
		}
	}
	return false
}

func isLoopbackHost(hostport string) bool {
	host := (&url.URL{Host: hostport}).Hostname()
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// isForeign reports whether a browser sent r on behalf of another origin. Following a link to the page
// is no such thing: it shows nothing by itself.
func isForeign(r *http.Request) bool {
	if origin := r.Header.Get("Origin"); origin != "" {
		u, err := url.Parse(origin)
		return err != nil || !strings.EqualFold(u.Host, r.Host)
	}
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
		return false
	default:
		return !(r.URL.Path == "/" && r.Header.Get("Sec-Fetch-Mode") == "navigate")
	}
}

// writeJSON answers with value. The client may be gone: there is nobody to tell.
func writeJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		http.Error(w, `{"error":"internal","message":"the answer could not be encoded"}`, http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}

func writeError(w http.ResponseWriter, status int, code, message string) {
	writeJSON(w, status, map[string]string{"error": code, "message": message})
}
