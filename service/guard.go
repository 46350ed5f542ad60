package service

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net"
	"net/http"
	"net/url"
	"strings"
)

// routes puts the service's handlers behind what protects them.
func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.Handle("GET /metrics", s.guard(s.authorized(s.metrics.ServeHTTP)))
	mux.Handle("GET /ws", s.guard(http.HandlerFunc(s.serveAgent)))
	for pattern, handler := range map[string]http.HandlerFunc{
		"GET /api/v1/ledgers":     s.serveLedgers,
		"GET /api/v1/allocations": s.serveAllocations,
		"GET /api/v1/stats":       s.serveStats,
		"POST /api/v1/backup":     s.serveBackup,
	} {
		mux.Handle(pattern, s.guard(s.authorized(handler)))
	}
	mux.Handle("/api/v1/", s.guard(s.authorized(func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "not_found", "there is no such route or method")
	})))
	mux.Handle("/", s.guard(page()))
	return mux
}

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

// authorized asks for the admin token, where there is one.
func (s *Service) authorized(next http.HandlerFunc) http.Handler {
	want := sha256.Sum256([]byte(s.token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(strings.TrimSpace(token)))
		if s.token != "" && (!strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], want[:]) != 1) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="usageflow"`)
			writeError(w, http.StatusUnauthorized, "unauthorized", "this needs the admin token as a bearer token")
			return
		}
		next(w, r)
	})
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
