package sockettest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"

	"github.com/gorilla/websocket"
)

// inMemoryAddr is the address in the URL of a server that has no port.
const inMemoryAddr = "sockettest.invalid:9000"

// A Server is a fake UsageFlow service. Its methods are safe for concurrent use.
type Server struct {
	// URL is what a client dials: ws://127.0.0.1:port/ws. It stays the same over Stop and Start.
	URL string

	// static after construction
	opts     options
	addr     string
	upgrader websocket.Upgrader

	wg sync.WaitGroup // every goroutine that serves

	life sync.Mutex // serialises Start, Stop and Close; taken before mu

	mu        sync.Mutex
	closed    bool
	http      *http.Server // nil while stopped
	serving   chan struct{}
	pipes     *pipeListener // with WithInMemory
	epoch     int           // counts Start and Stop: an upgrade that began in another epoch is dropped
	nextConn  int
	conns     map[int]*conn
	silent    map[*gateConn]struct{} // handshakes that are never answered
	handshake func(n int, r *http.Request) Handshake
	handler   func(Message) Reply
	deafPings bool
	catalog   catalog
	limits    map[string]*limit
	rec       Record
	changed   chan struct{} // closed at the next event; nil while nobody waits
}

// TB is the part of testing.TB that New needs.
type TB interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
}

// New starts a Server that is closed when the test ends. It fails the test if there is no port to be had.
func New(t TB, opts ...Option) *Server {
	t.Helper()
	s, err := NewServer(opts...)
	if err != nil {
		t.Fatalf("sockettest: %v", err)
		return nil
	}
	t.Cleanup(s.Close)
	return s
}

// NewServer starts a Server on a free port of 127.0.0.1. The caller closes it.
func NewServer(opts ...Option) (*Server, error) {
	s := &Server{
		addr:   "127.0.0.1:0",
		conns:  make(map[int]*conn),
		silent: make(map[*gateConn]struct{}),
		limits: make(map[string]*limit),
		rec:    newRecord(),
	}
	for _, opt := range opts {
		opt(&s.opts)
	}
	s.rec.keep = !s.opts.unrecorded
	if s.opts.inMemory {
		s.addr = inMemoryAddr
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	s.URL = "ws://" + s.addr + "/ws"
	return s, nil
}

// Start listens again after Stop, on the same port. On a server that listens it does nothing.
func (s *Server) Start() error {
	s.life.Lock()
	defer s.life.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errors.New("sockettest: server closed")
	}
	if s.http != nil {
		return nil
	}
	l, err := s.listen()
	if err != nil {
		return fmt.Errorf("sockettest: %w", err)
	}
	s.epoch++
	s.serve(l, s.epoch)
	return nil
}

// Stop is an outage: it closes the port, and drops every connection without a close frame. It returns
// when the port is closed and every connection has been told to end; unlike Close it does not wait for
// handlers, so that a handler may call it. Start ends the outage.
func (s *Server) Stop() {
	s.life.Lock()
	defer s.life.Unlock()
	s.stop()
}

// Close stops the server for good and waits until all its goroutines have ended, the ones that run
// handlers among them. It is idempotent. A handler must not call it.
func (s *Server) Close() {
	s.life.Lock()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.life.Unlock() // a handler that calls Stop must not wait for this Close
	s.wg.Wait()
}

// Dial connects to the server whatever network and address say, over TCP or, with WithInMemory, over a
// pipe. Its signature is that of socket.ManagerConfig.Dial. While the server is stopped it fails at once.
func (s *Server) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if !s.opts.inMemory {
		s.mu.Lock()
		addr := s.addr
		s.mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	}
	s.mu.Lock()
	pipes := s.pipes
	s.mu.Unlock()
	return pipes.dial(ctx)
}

// stop closes the listener and every connection. The caller holds life.
func (s *Server) stop() {
	s.mu.Lock()
	server, serving := s.http, s.serving
	s.http = nil
	s.epoch++
	s.mu.Unlock()
	if server != nil {
		// Twice: a connection accepted during the first Close is only known once Serve has returned.
		_ = server.Close()
		<-serving
		_ = server.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.gate.Close()
	}
	for g := range s.silent {
		_ = g.Close()
	}
}

// listen opens the port. The caller holds mu.
func (s *Server) listen() (net.Listener, error) {
	if s.opts.inMemory {
		s.pipes = newPipeListener()
		return s.pipes, nil
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", s.addr)
	if err != nil {
		return nil, err
	}
	s.addr = l.Addr().String() // the port that port 0 became is kept for the next Start
	return l, nil
}

// serve accepts connections on l in its own goroutine. The caller holds mu.
//
// This is not an httptest.Server because that one cannot listen on the same port again, and because its
// Close reaches into http.DefaultTransport, which belongs to the test.
func (s *Server) serve(l net.Listener, epoch int) {
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s.wg.Add(1) // net/http forgets a connection that was hijacked
			defer s.wg.Done()
			s.serveHTTP(w, r, epoch)
		}),
		ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, gateKey{}, c)
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.wg.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.wg.Done()
			}
		},
	}
	serving := make(chan struct{})
	s.http, s.serving = server, serving
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		defer close(serving)
		_ = server.Serve(&gateListener{Listener: l, readBuffer: s.opts.readBuffer}) // always http.ErrServerClosed
	}()
}

type gateKey struct{}
