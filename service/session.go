package service

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	sessionCookie = "usageflow_session"
	sessionLife   = 12 * time.Hour
	csrfHeader    = "X-CSRF-Token"
	// openCSRF is the CSRF token where there is no admin token: any would do.
	openCSRF = "loopback"

	// signInBurst failures are let pass, and then one each signInEvery, for each address.
	signInBurst = 10
	signInEvery = 6 * time.Second
	// maxSignIns bounds the addresses that are told apart.
	maxSignIns = 1024
)

// sessions signs people in who have the admin token. A session is a cookie with its expiry and a nonce, signed: nothing is kept,
// and all sessions end when the token changes. It is safe for concurrent use.
type sessions struct {
	token, key, csrfKey [sha256.Size]byte
	needed              bool
	now                 func() time.Time

	mu     sync.Mutex
	failed map[netip.Prefix]*rate.Limiter
}

func newSessions(token string) *sessions {
	derive := func(purpose string) [sha256.Size]byte {
		return [sha256.Size]byte(sign([]byte(token), []byte("usageflow "+purpose)))
	}
	return &sessions{
		token: sha256.Sum256([]byte(token)), key: derive("session"), csrfKey: derive("csrf"), needed: token != "",
		now: time.Now, failed: map[netip.Prefix]*rate.Limiter{},
	}
}

func sign(key, data []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	return mac.Sum(nil)
}

// isToken compares in constant time.
func (s *sessions) isToken(text string) bool {
	got := sha256.Sum256([]byte(text))
	return subtle.ConstantTimeCompare(got[:], s.token[:]) == 1
}

// issue makes the value of a cookie.
func (s *sessions) issue() string {
	value := make([]byte, 8+16, 8+16+sha256.Size)
	binary.BigEndian.PutUint64(value, uint64(s.now().Add(sessionLife).Unix()))
	_, _ = rand.Read(value[8:]) // it never fails
	return base64.RawURLEncoding.EncodeToString(append(value, sign(s.key[:], value)...))
}

// valid returns the cookie of r where it is one that issue has made, and that is not over.
func (s *sessions) valid(r *http.Request) (cookie string, ok bool) {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return "", false
	}
	data, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil || len(data) != 8+16+sha256.Size {
		return "", false
	}
	value, mac := data[:24], data[24:]
	if !hmac.Equal(mac, sign(s.key[:], value)) || int64(binary.BigEndian.Uint64(value)) <= s.now().Unix() {
		return "", false
	}
	return c.Value, true
}

// csrf is the token that goes with a cookie. Other sites can make a browser send the cookie, but they can't read this.
func (s *sessions) csrf(cookie string) string {
	return base64.RawURLEncoding.EncodeToString(sign(s.csrfKey[:], []byte(cookie)))
}

func (s *sessions) isCSRF(cookie, token string) bool {
	return hmac.Equal([]byte(s.csrf(cookie)), []byte(token))
}

// attempt says how long an address has to wait before it may try to sign in; 0: it has taken one of its tries.
func (s *sessions) attempt(address string) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := network(address)
	limiter := s.failed[from]
	if limiter == nil {
		if len(s.failed) >= maxSignIns {
			s.forget()
		}
		if len(s.failed) >= maxSignIns {
			from = netip.Prefix{} // the rest share one
		}
		if limiter = s.failed[from]; limiter == nil {
			limiter = rate.NewLimiter(rate.Every(signInEvery), signInBurst)
			s.failed[from] = limiter
		}
	}
	now := s.now()
	reservation := limiter.ReserveN(now, 1)
	wait := reservation.DelayFrom(now)
	if wait > 0 {
		reservation.CancelAt(now)
	}
	return wait
}

// forget drops the addresses that have all their tries again. It runs with mu held.
func (s *sessions) forget() {
	for from, limiter := range s.failed {
		if limiter.TokensAt(s.now()) >= signInBurst {
			delete(s.failed, from)
		}
	}
}

// succeeded gives an address its tries back.
func (s *sessions) succeeded(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.failed, network(address))
}

// network is whom a remote address belongs to: of IPv6, a /64 is one customer's.
func network(address string) netip.Prefix {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return netip.Prefix{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	prefix, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return prefix
}

// sessionView is the answer of /api/v1/session.
type sessionView struct {
	Authenticated bool   `json:"authenticated"`
	TokenRequired bool   `json:"tokenRequired"`
	CSRF          string `json:"csrf,omitempty"`
}

// serveSession answers whether the caller is signed in. It needs no token.
func (s *Service) serveSession(w http.ResponseWriter, r *http.Request) {
	view := sessionView{TokenRequired: s.sessions.needed}
	switch cookie, ok := s.sessions.valid(r); {
	case !s.sessions.needed:
		view.Authenticated, view.CSRF = true, openCSRF
	case r.Header.Get("Authorization") != "":
		view.Authenticated = s.bearer(r)
	case ok:
		view.Authenticated, view.CSRF = true, s.sessions.csrf(cookie)
	}
	writeJSON(w, http.StatusOK, view)
}

// serveSignIn takes {"token"} and answers with a cookie.
func (s *Service) serveSignIn(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Token string `json:"token"`
	}
	if !readJSON(w, r, &body) {
		return
	}
	if !s.sessions.needed {
		writeJSON(w, http.StatusOK, sessionView{Authenticated: true, CSRF: openCSRF})
		return
	}
	if wait := s.sessions.attempt(r.RemoteAddr); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
		writeError(w, http.StatusTooManyRequests, "too_many_attempts", "too many tries to sign in; wait a little")
		return
	}
	if !s.sessions.isToken(body.Token) {
		s.log.Warn("somebody failed to sign in", "from", r.RemoteAddr)
		writeError(w, http.StatusUnauthorized, "unauthorized", "this is not the admin token")
		return
	}
	s.sessions.succeeded(r.RemoteAddr)
	value := s.sessions.issue()
	setSession(w, r, value, int(sessionLife/time.Second))
	writeJSON(w, http.StatusOK, sessionView{Authenticated: true, TokenRequired: true, CSRF: s.sessions.csrf(value)})
}

// serveSignOut takes the cookie away.
func (s *Service) serveSignOut(w http.ResponseWriter, r *http.Request) {
	setSession(w, r, "", -1)
	w.WriteHeader(http.StatusNoContent)
}

func setSession(w http.ResponseWriter, r *http.Request, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: sessionCookie, Value: value, Path: "/", MaxAge: maxAge, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	})
}
