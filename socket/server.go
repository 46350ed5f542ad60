package socket

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// stopPatience is how long Stop lets running requests go on.
const stopPatience = 500 * time.Millisecond

// Server is the broker: consumers send it requests, and it gives each to one provider of the same channel
// and passes the answer back. It holds no request whole, and keeps nothing when it stops. All methods are
// safe for concurrent use.
//
//	server := socket.NewServer("9090")
//	if err := server.Start(); err != nil { … }
//	defer server.Stop()
type Server struct {
	// Static after NewServer.
	cfg   serverConfig
	relay *broker.Relay
	clock *clock

	mu         sync.Mutex
	state      serverState
	listener   net.Listener
	conns      map[*serverConn]struct{}
	links      int            // of conns: to and from other servers
	handshakes *list.List     // of *serverConn, the oldest first
	wg         sync.WaitGroup // of goroutines; Add needs mu

	leaving  chan struct{}   // closed when the server begins to stop
	patience context.Context // ends when nobody has patience any more
	hurry    context.CancelFunc
	cutOff   bool          // a request was cut off; static once stopped is closed
	stopped  chan struct{} // closed when the server has stopped

	authorizing atomic.Int64 // calls of the authorizer that have not returned
	counts      serverCounts
}

type serverState int

const (
	serverNew serverState = iota
	serverRunning
	serverLeaving // listens no more
)

// NewServer returns a server that does nothing until Start. It listens on 127.0.0.1:port; port "0" picks
// a free one. See WithAddress for other interfaces.
func NewServer(port string, opts ...ServerOption) *Server {
	s := &Server{conns: map[*serverConn]struct{}{}, handshakes: list.New(), leaving: make(chan struct{}), stopped: make(chan struct{})}
	s.patience, s.hurry = context.WithCancel(context.Background())
	s.cfg.address = net.JoinHostPort("127.0.0.1", port)
	s.cfg.log = slog.Default()
	for _, opt := range opts {
		if opt != nil {
			opt.applyToServer(&s.cfg)
		}
	}
	s.cfg.limits = s.cfg.limits.withDefaults()
	s.clock = newClock(func(now int64) int64 { return s.relay.Expire(now) }, s.watch)
	limits := broker.Limits{Streams: s.cfg.limits.Streams, Window: s.cfg.limits.Window, Memory: s.cfg.limits.Memory}
	s.relay = broker.NewRelay(limits, 4*runtime.GOMAXPROCS(0), s.clock.alarm)
	if s.cfg.mesh != nil {
		s.relay.Seek = s.seek
	}
	return s
}

// Start listens, and serves in goroutines of its own until Stop or Shutdown. A server starts once. Where
// the port is taken the error says "in use", and errors.Is(err, syscall.EADDRINUSE) is true; where the
// server was stopped before it is ErrClosed.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state {
	case serverRunning:
		return errStarted
	case serverLeaving:
		return ErrClosed
	}
	if err := checkAddress(s.cfg.address); err != nil {
		return err
	}
	if len(s.cfg.token) > frame.MaxToken {
		return fmt.Errorf("socket: token of %d bytes: %d are allowed", len(s.cfg.token), frame.MaxToken)
	}
	ln, err := new(net.ListenConfig).Listen(context.Background(), "tcp", s.cfg.address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("socket: %s is in use: %w", s.cfg.address, err)
	}
	if err != nil {
		return fmt.Errorf("socket: listen on %s: %w", s.cfg.address, err)
	}
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok && !tcp.IP.IsLoopback() && s.cfg.token == "" && s.cfg.authorize == nil && s.cfg.tls == nil {
		s.cfg.log.Warn("the broker lets anyone in who can reach it: use WithToken, WithAuthorizer or mutual TLS", "address", ln.Addr().String())
	}
	if s.cfg.mesh != nil {
		if err := s.cfg.mesh.Join(meshNode{s}); err != nil {
			return errors.Join(fmt.Errorf("socket: join the mesh: %w", err), ln.Close())
		}
	}
	s.listener, s.state = ln, serverRunning
	s.clock.start()
	s.wg.Go(func() { s.accept(ln) })
	return nil
}

func checkAddress(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("socket: address %q: %w", addr, err)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("socket: %q is no port: 0 to 65535 are", port)
	}
	return nil
}

// Addr returns the address that the server listens on, or listened on last; nil before Start.
func (s *Server) Addr() net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Port returns the port that the server listens on; before Start, the one that it was made with.
func (s *Server) Port() string {
	addr := s.cfg.address
	if a := s.Addr(); a != nil {
		addr = a.String()
	}
	_, port, _ := net.SplitHostPort(addr) // "" for what is no address, as Start will say
	return port
}

// Stop stops the server: it takes no new requests, gives the running ones half a second to finish, ends
// all connections and returns when every goroutine has ended, but for one that is in the authorizer. It is idempotent, may be called while a
// Shutdown waits, which then ends too, and always returns nil.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	_ = s.Shutdown(ctx) // the patience is over, or not: stopped it is
	return nil
}

// Shutdown stops the server like Stop, but gives running requests, and clients that still read their answers,
// until ctx ends. It returns an error if that, or the end of another call's context or patience, cut any of
// them off. Clients are told at once to go elsewhere; what they send meanwhile gets ErrDraining.
func (s *Server) Shutdown(ctx context.Context) error {
	if ctx == nil {
		return errNilContext
	}
	s.mu.Lock()
	if s.state != serverLeaving {
		running := s.state == serverRunning
		s.state = serverLeaving
		close(s.leaving)
		go s.drain(running)
	}
	s.mu.Unlock()
	select {
	case <-s.stopped:
	case <-ctx.Done():
		s.hurry()
		<-s.stopped
	}
	if s.cutOff {
		return cmp.Or(ctx.Err(), ErrClosed)
	}
	return nil
}

// drain stops the server. It has time until hurry is called.
func (s *Server) drain(running bool) {
	defer close(s.stopped)
	defer s.hurry()
	if !running {
		return
	}
	if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.cfg.log.Warn("closing the broker's listener failed", "error", err)
	}
	if s.cfg.mesh != nil {
		s.cfg.mesh.Drain()
	}
	s.relay.Drain()
	s.cutOff = !s.waitIdle()
	s.cut()
	s.wg.Wait()
	if s.cfg.mesh != nil {
		s.cfg.mesh.Leave()
	}
	s.clock.stop()
}

// waitIdle waits until no request is running and everything is written. It returns false when hurry is called before.
func (s *Server) waitIdle() bool {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for s.relay.Running() > 0 || !s.written() {
		select {
		case <-s.patience.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// written says whether nothing waits to be written.
func (s *Server) written() bool {
	for _, c := range s.connections() {
		if !c.node.Out.Idle() {
			return false
		}
	}
	return true
}

func (s *Server) connections() []*serverConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}

// cut ends every connection, once what it has to say was written.
func (s *Server) cut() {
	s.mu.Lock()
	for e := s.handshakes.Front(); e != nil; e = e.Next() {
		e.Value.(*serverConn).abort()
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, c := range s.connections() {
		wg.Go(func() { c.dismiss(frame.Stopped, "the broker has stopped") })
	}
	wg.Wait()
}

// watch is called by the clock now and then.
func (s *Server) watch(now int64) {
	for _, c := range s.connections() {
		c.link.watch(now)
	}
}

// accept takes connections until the listener is closed.
func (s *Server) accept(ln net.Listener) {
	var pause time.Duration
	for {
		conn, err := ln.Accept()
		if err == nil {
			pause = 0
			s.begin(conn)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		// Out of descriptors, most likely: what is there is served on.
		pause = min(cmp.Or(2*pause, 5*time.Millisecond), time.Second)
		s.cfg.log.Warn("accepting a connection failed", "error", err, "retry_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.leaving:
		}
		timer.Stop()
	}
}

// begin starts the handshake of a connection. Where too many are in theirs, the oldest gives way.
func (s *Server) begin(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != serverRunning {
		_ = conn.Close() // nothing was said on it
		return
	}
	if s.handshakes.Len() >= s.cfg.limits.Connections {
		s.handshakes.Front().Value.(*serverConn).abort()
		s.handshakes.Remove(s.handshakes.Front())
		s.counts.evicted.Add(1)
	}
	c := &serverConn{server: s, raw: conn, ended: make(chan struct{})}
	c.handshake = s.handshakes.PushBack(c)
	s.wg.Go(c.serve)
}
