package sockettest

import (
	"io"
	"maps"
	"net/http"
)

// A Handshake is the server's answer to one WebSocket handshake: Accept, Reject or NeverAnswer. The zero
// value accepts.
type Handshake struct {
	status int
	header http.Header
	silent bool
}

// Accept lets the connection in.
func Accept() Handshake { return Handshake{} }

// Reject answers the handshake with an HTTP status and header, 503 with Retry-After for one; a nil header
// is allowed.
func Reject(status int, header http.Header) Handshake {
	return Handshake{status: status, header: header}
}

// NeverAnswer accepts the TCP connection and never answers the handshake.
func NeverAnswer() Handshake { return Handshake{silent: true} }

// HandleHandshake asks fn about every handshake from now on; n counts them from 1, over the server's
// whole life and refused ones included. A nil fn accepts them all. fn may be called concurrently.
func (s *Server) HandleHandshake(fn func(n int, r *http.Request) Handshake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handshake = fn
}

// RejectHandshake refuses every handshake from now on. Open connections stay as they are.
func (s *Server) RejectHandshake(status int, header http.Header) {
	s.HandleHandshake(func(int, *http.Request) Handshake { return Reject(status, header) })
}

// SilentHandshake leaves every handshake from now on without an answer. Those left waiting stay so until
// the client gives up or the server stops, also after AcceptHandshake.
func (s *Server) SilentHandshake() {
	s.HandleHandshake(func(int, *http.Request) Handshake { return NeverAnswer() })
}

// AcceptHandshake accepts every handshake from now on.
func (s *Server) AcceptHandshake() { s.HandleHandshake(nil) }

// serveHTTP answers one handshake and, where it is accepted, serves the connection to its end.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request, epoch int) {
	s.mu.Lock()
	s.rec.handshakes = append(s.rec.handshakes, r.Header.Clone())
	n, decide := len(s.rec.handshakes), s.handshake
	s.event()
	s.mu.Unlock()

	var h Handshake
	if decide != nil {
		h = decide(n, r)
	}
	if h.status == 0 && !h.silent && s.opts.key != "" && r.Header.Get("x-usage-key") != s.opts.key {
		h = Reject(http.StatusUnauthorized, nil)
	}
	gate, _ := r.Context().Value(gateKey{}).(*gateConn)
	switch {
	case h.silent:
		s.keepSilent(w, gate, epoch)
	case h.status != 0:
		maps.Copy(w.Header(), h.header)
		w.Header().Set("Connection", "close")
		w.WriteHeader(h.status)
	default:
		s.serveConn(w, r, gate, epoch)
	}
}

// keepSilent holds the connection until the client or the server ends it.
func (s *Server) keepSilent(w http.ResponseWriter, gate *gateConn, epoch int) {
	if _, _, err := http.NewResponseController(w).Hijack(); err != nil {
		return
	}
	defer func() { _ = gate.Close() }()
	s.mu.Lock()
	stale := epoch != s.epoch
	if !stale {
		s.silent[gate] = struct{}{}
	}
	s.mu.Unlock()
	if stale {
		return
	}
	_, _ = io.Copy(io.Discard, gate) // ends, with whatever error, when either side closes
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.silent, gate)
}
