package socket

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

const (
	// clientHandshake bounds connecting to a broker.
	clientHandshake = 10 * time.Second
	// clientRetry is the pause before the first try to reconnect, at most; it doubles up to clientRest.
	clientRetry = 100 * time.Millisecond
	clientRest  = 5 * time.Second
	// clientGoodbye is how long a broker may take to read what was answered before a client was closed.
	clientGoodbye = time.Second
	// forever is longer than a connection lives whose peer does nothing.
	forever = 24 * time.Hour
)

// client is what consumers and providers share: it keeps one connection to the broker up. One goroutine
// owns that (run): it waits for the connection to end, or for the broker to say that it is stopping, and
// then dials until it has the next.
type client struct {
	// Static after connect.
	cfg     clientConfig
	addr    string
	role    Role
	channel uuid.UUID
	events  sessionEvents

	current atomic.Pointer[session] // nil while there is none
	streams atomic.Int64            // what the last WELCOME allows

	mu       sync.Mutex
	closed   bool
	retired  bool // no next session is wanted
	sessions map[*session]struct{}

	life   context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup // of run and the sessions; Add needs mu
}

// sessionEvents are what a session tells its client.
type sessionEvents struct {
	make   func() *broker.Stream // see broker.EndpointConfig
	accept func(*broker.Stream)
}

// session is one connection of a client, after the handshake.
type session struct {
	link     *link
	endpoint *broker.Endpoint
	clock    *clock
	ended    chan struct{} // closed when nothing of it runs any more
	leaving  chan struct{} // closed when the broker says that it takes no new requests here
	leave    sync.Once
}

func newClient(addr string, role Role, channel uuid.UUID, opts []ClientOption) *client {
	c := &client{addr: addr, role: role, channel: channel, sessions: map[*session]struct{}{}}
	c.cfg.log = slog.Default()
	for _, opt := range opts {
		if opt != nil {
			opt.applyToClient(&c.cfg)
		}
	}
	c.life, c.cancel = context.WithCancel(context.Background())
	return c
}

// connect makes the first connection.
func (c *client) connect() error {
	if len(c.cfg.token) > frame.MaxToken {
		c.cancel()
		return fmt.Errorf("socket: token of %d bytes: %d are allowed", len(c.cfg.token), frame.MaxToken)
	}
	s, err := c.dial()
	if err != nil {
		c.cancel()
		return fmt.Errorf("socket: connect to %s: %w", c.addr, err)
	}
	c.current.Store(s)
	c.wg.Go(func() { c.run(s) })
	return nil
}

// run keeps a session up until close.
func (c *client) run(s *session) {
	for {
		select {
		case <-s.ended:
			c.current.CompareAndSwap(s, nil)
		case <-s.leaving:
		case <-c.life.Done():
			return
		}
		next := c.redial(s)
		if next == nil {
			return
		}
		c.current.Store(next)
		s = next
	}
}

// redial dials until there is a session, or the client is closed: then it returns nil.
func (c *client) redial(last *session) *session {
	for try := 0; !c.ending(); try++ {
		longest := min(clientRetry<<min(try, 6), clientRest)
		timer := time.NewTimer(longest/10 + rand.N(longest))
		ended := last.ended // of one that was leaving
		for waiting := true; waiting; {
			select {
			case <-c.life.Done():
				timer.Stop()
				return nil
			case <-ended:
				c.current.CompareAndSwap(last, nil)
				ended = nil
			case <-timer.C:
				waiting = false
			}
		}
		s, err := c.dial()
		if err == nil {
			c.cfg.log.Info("connected to the broker again", "address", c.addr, "role", c.role.String(), "tries", try+1)
			return s
		}
		if c.ending() {
			return nil
		}
		if try == 0 {
			c.cfg.log.Warn("the broker is lost", "address", c.addr, "role", c.role.String(), "error", err)
		}
	}
	return nil
}

// ending says whether no next session is wanted.
func (c *client) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || c.retired
}

// dial makes a connection and starts its session.
func (c *client) dial() (*session, error) {
	ctx, cancel := context.WithTimeout(c.life, clientHandshake)
	defer cancel()
	conn, err := dialNet(ctx, c.cfg.dial, "tcp", c.addr)
	if err != nil {
		return nil, err
	}
	guard := closeAtEnd(ctx, conn)
	conn, welcome, err := c.greet(ctx, conn)
	if alive := guard(); !alive {
		err = cmp.Or(c.life.Err(), ctx.Err())
	}
	if c.life.Err() != nil {
		err = ErrClosed
	}
	if err != nil {
		_ = conn.Close() // never used
		return nil, brokerError(err)
	}
	return c.begin(conn, welcome)
}

// greet is the handshake. It returns the connection to use, also with an error.
func (c *client) greet(ctx context.Context, conn net.Conn) (net.Conn, frame.WelcomePayload, error) {
	none := frame.WelcomePayload{}
	if c.cfg.tls != nil {
		cfg := c.cfg.tls
		if cfg.ServerName == "" && !cfg.InsecureSkipVerify {
			host, _, err := net.SplitHostPort(c.addr)
			if err != nil {
				return conn, none, err
			}
			cfg = cfg.Clone()
			cfg.ServerName = host
		}
		secured := tls.Client(secure(conn), cfg)
		if err := secured.HandshakeContext(ctx); err != nil {
			return conn, none, err
		}
		conn = secured
	}
	if err := writeHandshake(conn, frame.Hello, hello(c.role, c.channel, c.cfg.token)); err != nil {
		return conn, none, err
	}
	payload, err := readHandshake(conn, frame.Welcome)
	if errors.Is(err, io.EOF) && c.cfg.tls == nil {
		err = fmt.Errorf("the broker has closed the connection; perhaps it wants TLS: %w", err)
	}
	if err != nil {
		return conn, none, err
	}
	welcome, err := frame.ParseWelcome(payload)
	if err == nil && welcome.Version != frame.ProtocolVersion {
		err = fmt.Errorf("the broker speaks version %d", welcome.Version)
	}
	return conn, welcome, err
}

// begin starts the session of a connection whose handshake is over.
func (c *client) begin(conn net.Conn, welcome frame.WelcomePayload) (*session, error) {
	s := &session{ended: make(chan struct{}), leaving: make(chan struct{})}
	s.clock = newClock(func(now int64) int64 { return s.endpoint.Expire(now) }, func(now int64) { s.link.watch(now) })
	s.endpoint = broker.NewEndpoint(broker.EndpointConfig{
		Role: frame.Role(c.role), Welcome: welcome, Make: c.events.make, Accept: c.events.accept, Alarm: s.clock.alarm,
		Drained: func() { s.leave.Do(func() { close(s.leaving) }) },
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.retired {
		_ = conn.Close() // never used
		return nil, ErrClosed
	}
	c.streams.Store(int64(welcome.Streams))
	s.link = newLink(conn, &s.endpoint.Out)
	s.endpoint.Out.Flush = s.link.flush
	s.clock.start()
	c.sessions[s] = struct{}{}
	c.wg.Go(func() { c.serve(s) })
	return s, nil
}

// serve reads until the connection ends.
func (c *client) serve(s *session) {
	err := s.link.read(s.endpoint.Receive)
	var said *broker.Error
	switch {
	case errors.As(err, &said):
		c.cfg.log.Debug("the broker ended the connection", "reason", err)
	case brokeProtocol(err):
		c.cfg.log.Error("the broker broke the protocol", "address", c.addr, "error", err)
	}
	lost := broker.ErrLost
	c.mu.Lock()
	if c.closed {
		lost = ErrClosed
	}
	c.mu.Unlock()
	s.endpoint.Close(lost)
	s.link.close()
	s.link.wait()
	s.clock.stop()
	c.mu.Lock()
	delete(c.sessions, s)
	c.mu.Unlock()
	close(s.ended)
}

// close ends everything and waits for it. What was answered before still reaches the broker, unless that
// does not read.
func (c *client) close() {
	c.mu.Lock()
	c.closed = true
	sessions := slices.Collect(maps.Keys(c.sessions))
	c.mu.Unlock()
	c.cancel()
	var wg sync.WaitGroup
	for _, s := range sessions {
		wg.Go(func() { s.sayGoodbye(clientGoodbye, linkFarewell) })
	}
	wg.Wait()
	c.wg.Wait()
	c.current.Store(nil)
}

// sayGoodbye ends the session. Its connection is closed when the broker has closed it: before, what that
// has not read might be lost with it. The broker has the given times to let everything be written, and to
// read it.
func (s *session) sayGoodbye(toWrite, toRead time.Duration) {
	defer s.link.close()
	s.endpoint.Abandon(ErrClosed)
	s.link.flush()
	if !s.link.awaitWritten(toWrite) {
		return
	}
	s.endpoint.Out.Control(frame.GoAway, frame.AppendEnd(nil, frame.Stopped, ""))
	s.link.flush()
	patience := time.NewTimer(toRead)
	defer patience.Stop()
	select {
	case <-s.link.done:
	case <-s.ended:
	case <-patience.C:
	}
}

// session returns the session to use.
func (c *client) session() (*session, error) {
	if s := c.current.Load(); s != nil {
		return s, nil
	}
	if c.life.Err() != nil {
		return nil, ErrClosed
	}
	return nil, ErrNotConnected
}
