package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// AdminTokenEnv is the environment variable that programs read Options.AdminToken from.
const AdminTokenEnv = "USAGEFLOW_ADMIN_TOKEN"

// ErrNotLoopback is returned by Listen and Serve for an address that others can reach, without a token.
var ErrNotLoopback = errors.New("without " + AdminTokenEnv + " the service listens on loopback addresses only")

var (
	errLeaving = errors.New("the service is stopping")
	errRevoked = errors.New("the key is not valid any more")
)

// Options say what a Service is made of. Ledger is needed, and one of Config and Documents.
type Options struct {
	// Config is what the configuration file says. Where there are Documents, it is applied to what they hold, as Reconfigure does.
	Config *Config
	// Documents keep the configuration, which the HTTP API can change then. They stay the caller's: close them after Shutdown.
	Documents DocumentStore
	// Ledger stays the caller's: close it after Shutdown.
	Ledger Ledger
	// AdminToken is the bearer token of /api/v1. Without one the service serves loopback only.
	AdminToken string
	// Logger is slog.Default() by default.
	Logger *slog.Logger
	// MaxConnections bounds the agents' connections; 10,000 by default.
	MaxConnections int
}

// Service serves agents and the page. All methods are safe for concurrent use.
type Service struct {
	// Static after New.
	ledger   Ledger
	token    string
	log      *slog.Logger
	started  time.Time
	maxConns int
	handler  http.Handler
	server   *http.Server
	upgrader websocket.Upgrader
	metrics  *metrics

	registry *registry // nil where there is no store for the configuration
	sessions *sessions
	lastUsed sync.Map // of a keyHash, its *atomic.Int64 in Unix ms

	config atomic.Pointer[Config] // written with mu held
	counts counts
	events *eventLog
	rates  rates

	mu      sync.Mutex
	places  int // of maxConns that are taken: conns, and handshakes that will be
	conns   map[*conn]struct{}
	leaving bool
	polling bool
	end     context.CancelFunc // of what goes on until Shutdown: streams, polling
	ended   context.Context
	cutOnce sync.Once
	cut     chan struct{}  // closed when Shutdown waits no longer
	wg      sync.WaitGroup // of places and polling; Add needs mu
}

// counts count what the service itself has seen.
type counts struct {
	refused      atomic.Uint64 // messages that were answered with an error other than a denial
	oneWayErrors atomic.Uint64 // those of them that had no id to answer to
	oneWayLogged atomic.Int64  // when the last of them was logged, Unix seconds
	failures     atomic.Uint64 // operations that the ledger failed
	unauthorized atomic.Uint64 // handshakes without a key that is known
}

// New returns a service that serves nothing yet. It starts no goroutine. Where there are Documents, it waits for them, 10 s at
// most.
func New(opts Options) (*Service, error) {
	if opts.Config == nil && opts.Documents == nil || opts.Ledger == nil {
		return nil, errors.New("service: Options.Ledger is needed, and Options.Config or Options.Documents")
	}
	s := &Service{
		ledger: opts.Ledger, token: opts.AdminToken,
		log: cmp.Or(opts.Logger, slog.Default()), started: time.Now(),
		maxConns: cmp.Or(opts.MaxConnections, 10_000), conns: map[*conn]struct{}{}, cut: make(chan struct{}),
		sessions: newSessions(opts.AdminToken), events: newEventLog(),
	}
	s.ended, s.end = context.WithCancel(context.Background())
	if err := s.configure(opts); err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	s.metrics = newMetrics(s)
	// Origins are checked by guard; buffers are per connection, so they are small.
	s.upgrader = websocket.Upgrader{
		HandshakeTimeout: 10 * time.Second, ReadBufferSize: 8 << 10, WriteBufferSize: 1 << 10,
		CheckOrigin: func(*http.Request) bool { return true },
	}
	s.handler = s.routes()
	s.server = &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	return s, nil
}

// Handler returns everything that the service serves. It is what Serve uses.
func (s *Service) Handler() http.Handler { return s.handler }

// Listen listens on addr (host:port). Without an admin token the address must be a loopback one: the
// error is then ErrNotLoopback. Where the port is taken, errors.Is(err, syscall.EADDRINUSE) is true.
func (s *Service) Listen(addr string) (net.Listener, error) {
	resolved, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	if err := s.allowed(resolved); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	ln, err := net.ListenTCP("tcp", resolved)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", addr, err)
	}
	return ln, nil
}

// allowed says whether the service may serve on addr.
func (s *Service) allowed(addr net.Addr) error {
	tcp, ok := addr.(*net.TCPAddr)
	if s.token == "" && ok && !tcp.IP.IsLoopback() {
		return ErrNotLoopback
	}
	return nil
}

// Serve serves on ln until Shutdown, after which it returns nil. It closes ln.
func (s *Service) Serve(ln net.Listener) error {
	if err := s.allowed(ln.Addr()); err != nil {
		return errors.Join(fmt.Errorf("serve on %s: %w", ln.Addr(), err), ln.Close())
	}
	s.startPolling()
	if err := s.server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// startPolling looks for what other replicas change, until Shutdown.
func (s *Service) startPolling() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registry == nil || s.polling || s.leaving {
		return
	}
	s.polling = true
	s.wg.Go(func() { s.registry.poll(s.ended) })
}

// Shutdown stops listening, answers what is in flight, tells every agent to go elsewhere (close 1001)
// and returns when all connections and their goroutines have ended. When ctx ends first, connections
// are cut and its error is returned. It is idempotent; the ledger stays open.
func (s *Service) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.leaving = true
	s.end()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()

	var leaving sync.WaitGroup
	for _, c := range conns {
		leaving.Go(func() { c.leave(ctx) })
	}
	err := s.server.Shutdown(ctx)
	gone := make(chan struct{})
	leaving.Go(func() {
		s.wg.Wait()
		close(gone)
	})
	select {
	case <-gone:
	case <-ctx.Done():
		err = errors.Join(err, ctx.Err(), s.server.Close())
		s.cutOnce.Do(func() { close(s.cut) })
		for _, c := range conns {
			c.abort()
		}
	}
	leaving.Wait()
	return err
}

// serveAgent is /ws.
func (s *Service) serveAgent(w http.ResponseWriter, r *http.Request) {
	key := hashKey(r.Header.Get("x-usage-key"))
	app := s.config.Load().byKey[key]
	if app == nil {
		s.counts.unauthorized.Add(1)
		writeError(w, http.StatusUnauthorized, "unauthorized", "the header x-usage-key holds no key of this service")
		return
	}
	if reason := s.take(); reason != nil {
		w.Header().Set("Retry-After", "5")
		writeError(w, http.StatusServiceUnavailable, "unavailable", reason.Error())
		return
	}
	defer s.give()
	hijacker := &flushHijacker{ResponseWriter: w}
	ws, err := s.upgrader.Upgrade(hijacker, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	c := newConn(s, key, app, ws, hijacker.conn)
	// The agent learns that it is in when it is: from then on Shutdown and Reconfigure tell it why it has to go.
	if err := errors.Join(s.add(c), hijacker.conn.flush()); err != nil {
		s.remove(c)
		s.log.Debug("a connection came to nothing", "error", errors.Join(err, ws.Close()))
		return
	}
	defer s.remove(c)
	c.serve()
}

// take takes the place of a connection, before its handshake is answered: nobody is let in whose place
// another has. The error says why there is none.
func (s *Service) take() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.leaving:
		return errLeaving
	case s.places >= s.maxConns:
		return errors.New("the service has as many connections as it may")
	}
	s.places++
	s.wg.Add(1)
	return nil
}

// give gives back what take took.
func (s *Service) give() {
	s.mu.Lock()
	s.places--
	s.mu.Unlock()
	s.wg.Done()
}

// add makes c known to Shutdown and Reconfigure.
func (s *Service) add(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving {
		return errLeaving
	}
	if !c.adopt(s.config.Load()) {
		return errRevoked
	}
	s.conns[c] = struct{}{}
	c.used(time.Now())
	return nil
}

func (s *Service) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

func (s *Service) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// oneWayError counts a refusal that has nobody to be told to, and logs it, at most once a second.
func (s *Service) oneWayError(app, kind string, r *refusal) {
	n := s.counts.oneWayErrors.Add(1)
	now := time.Now().Unix()
	if last := s.counts.oneWayLogged.Load(); last == now || !s.counts.oneWayLogged.CompareAndSwap(last, now) {
		return
	}
	s.log.Warn("a one-way message was refused", "application", app, "type", kind, "error", r.code, "reason", r.message, "refused_so_far", n)
}
