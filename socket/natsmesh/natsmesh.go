package natsmesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/usageflow/usageflow-go-middleware/internal/mesh"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

const (
	// beatEvery is how often each broker says that it is there, and what it has.
	beatEvery = 500 * time.Millisecond
	// silence is how long nothing may be heard of a broker, or of NATS, before what runs there is given up.
	silence = 3500 * time.Millisecond
	// findTimeout bounds the search for a broker.
	findTimeout = 2 * time.Second
	// maxDials is how many brokers are asked for one search.
	maxDials = 3
	// subscribeTimeout is how long a provider may wait in its handshake until others find it.
	subscribeTimeout = 500 * time.Millisecond
	// writeTimeout bounds a write to NATS: one that takes longer ends the connection.
	writeTimeout = 3 * time.Second
	// linkRest is how long a connection to another broker is kept that nobody here has a use for.
	linkRest = 30 * time.Second
)

// Config says where the mesh is. The zero value of all but URL works.
type Config struct {
	// URL of the NATS servers, separated by commas, with user and password or token if need be.
	URL string
	// Subject begins the subjects of the mesh, "usageflow.mesh" by default. Brokers with different ones don't meet.
	Subject string
	// Options are further ones of the connection: credentials, TLS. What makes the mesh safe (reconnecting, pings, no
	// buffer while disconnected) is set after them.
	Options []nats.Option
	// Logger takes state changes; slog.Default() otherwise.
	Logger *slog.Logger
}

// Mesh is a broker's part in a mesh. Its methods are socket.Server's to call.
type Mesh struct {
	cfg     Config
	id      uuid.UUID
	calls   chan *nats.Msg // DIALs for a channel
	flying  atomic.Int64   // bytes of all tunnels that the other ends have not read
	nc      *nats.Conn     // static after Join
	node    mesh.Node      // likewise
	chunk   atomic.Int64   // bytes of the largest message
	joined  chan struct{}  // closed when that is so
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	// subscribing orders the changes of what the broker is subscribed to. mu may be locked under it.
	subscribing sync.Mutex
	serving     map[uuid.UUID]*nats.Subscription

	// mu is never held while NATS is called, which may take writeTimeout; the node may be asked under it.
	mu       sync.Mutex
	up       bool // connected to NATS
	draining bool
	heard    map[uuid.UUID]time.Time // brokers; this one for NATS itself
	finds    map[uuid.UUID]*find     // by channel
	dials    map[uint64]*dial        // by tunnel
	tunnels  map[uint64]*tunnel
	links    map[linkKey]*link
	wanted   map[uuid.UUID]struct{} // channels with consumers here that looked for a provider
}

var _ socket.Mesh = (*Mesh)(nil)

// New returns a mesh for socket.WithMesh. It does not connect.
func New(cfg Config) (*Mesh, error) {
	cfg.Subject = cmp.Or(cfg.Subject, "usageflow.mesh")
	switch {
	case cfg.URL == "":
		return nil, errors.New("natsmesh: no URL")
	case strings.ContainsAny(cfg.Subject, "*> \t\r\n") || strings.HasPrefix(cfg.Subject, ".") || strings.HasSuffix(cfg.Subject, ".") || strings.Contains(cfg.Subject, ".."):
		return nil, fmt.Errorf("natsmesh: %q can't begin a subject", cfg.Subject)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	m := &Mesh{
		cfg: cfg, id: uuid.New(), joined: make(chan struct{}), calls: make(chan *nats.Msg, 4096),
		heard: map[uuid.UUID]time.Time{}, serving: map[uuid.UUID]*nats.Subscription{}, finds: map[uuid.UUID]*find{},
		dials: map[uint64]*dial{}, tunnels: map[uint64]*tunnel{}, links: map[linkKey]*link{}, wanted: map[uuid.UUID]struct{}{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// Join implements mesh.Mesh. Where NATS is not there yet it tries on.
func (m *Mesh) Join(n mesh.Node) error {
	if m.node != nil {
		return errors.New("natsmesh: a mesh is of one server")
	}
	m.node = n
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	opts := []nats.Option{nats.Name("usageflow broker " + m.id.String())}
	opts = append(opts, m.cfg.Options...)
	opts = append(opts,
		nats.SetCustomDialer(boundedDialer{dialer}), nats.Timeout(2*time.Second),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectWait(250*time.Millisecond), nats.ReconnectJitter(250*time.Millisecond, 250*time.Millisecond),
		nats.ReconnectBufSize(-1), // what was not sent is not sent later: its tunnel is gone
		nats.WriteBufferSize(1),   // written at once: what a connection sends is put together before
		nats.PingInterval(time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { m.whenJoined(func() { m.lost(err) }) }),
		nats.ConnectHandler(func(*nats.Conn) { m.whenJoined(m.connected) }), nats.ReconnectHandler(func(*nats.Conn) { m.whenJoined(m.connected) }),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			m.cfg.Logger.Warn("the mesh has lost messages", "error", err)
		}),
	)
	nc, err := nats.Connect(m.cfg.URL, opts...)
	if bad := (*url.Error)(nil); errors.As(err, &bad) {
		return fmt.Errorf("natsmesh: the URL: %w", bad.Err) // which may hold a password, and is left out
	}
	if err != nil {
		return err
	}
	m.nc = nc
	m.chunk.Store(chunk)
	for _, s := range []struct {
		subject string
		handler nats.MsgHandler
	}{{m.subjectOfAll(m.id), m.receive}, {m.cfg.Subject + ".beat", m.receiveBeat}} {
		sub, err := nc.Subscribe(s.subject, s.handler)
		if err == nil {
			err = sub.SetPendingLimits(-1, -1) // tunnels have windows
		}
		if err != nil {
			m.cancel()
			nc.Close()
			return err
		}
	}
	m.mu.Lock()
	m.up = nc.IsConnected()
	m.mu.Unlock()
	close(m.joined)
	m.running.Go(m.beat)
	m.running.Go(m.watch)
	m.running.Go(m.answerCalls)
	return nil
}

// whenJoined calls f, which NATS has asked for, once Join is over.
func (m *Mesh) whenJoined(f func()) {
	select {
	case <-m.joined:
		f()
	case <-m.ctx.Done():
	}
}

// boundedDialer makes connections on which no write waits for ever.
type boundedDialer struct{ *net.Dialer }

func (d boundedDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := d.Dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return boundedConn{conn}, nil
}

type boundedConn struct{ net.Conn }

func (c boundedConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// Leave implements mesh.Mesh.
func (m *Mesh) Leave() {
	m.cancel()
	m.failTunnels(errLeft, func(*tunnel) bool { return true }, true)
	_ = m.nc.FlushTimeout(time.Second) // others are told, if NATS is there
	m.nc.Close()
	m.running.Wait()
}

// Drain implements mesh.Mesh.
func (m *Mesh) Drain() {
	m.mu.Lock()
	m.draining = true
	m.mu.Unlock()
	m.subscribing.Lock()
	defer m.subscribing.Unlock()
	for _, s := range m.serving {
		_ = s.Unsubscribe() // without NATS there is nothing to end
	}
	clear(m.serving)
}

// Changed implements mesh.Mesh.
func (m *Mesh) Changed(channel uuid.UUID) {
	m.subscribing.Lock()
	defer m.subscribing.Unlock()
	m.mu.Lock()
	up, draining := m.up, m.draining
	m.mu.Unlock()
	load := m.node.Load(channel)
	provides, sub := load.Providers > 0 && !draining, m.serving[channel]
	switch {
	case provides && sub == nil:
		sub, err := m.nc.ChanQueueSubscribe(m.channelSubject(channel), "brokers", m.calls)
		if err != nil {
			m.cfg.Logger.Warn("others do not find a provider", "channel", channel, "error", err)
			return
		}
		m.serving[channel] = sub
		if up {
			_ = m.nc.FlushTimeout(subscribeTimeout) // it is found a little later
		}
	case !provides && sub != nil:
		delete(m.serving, channel)
		_ = sub.Unsubscribe() // as in Drain
	}
	if provides && up {
		m.publishBeat([]mesh.Load{load})
	}
}

func (m *Mesh) channelSubject(channel uuid.UUID) string {
	return m.cfg.Subject + ".channel." + channel.String()
}

func (m *Mesh) subjectOfAll(broker uuid.UUID) string {
	return m.cfg.Subject + ".broker." + broker.String() + ".*"
}

// subjectOf is where a broker gets the messages of one tunnel.
func (m *Mesh) subjectOf(broker uuid.UUID, tunnel uint64) string {
	return m.cfg.Subject + ".broker." + broker.String() + "." + strconv.FormatUint(tunnel, 16)
}

func (m *Mesh) publish(subject string, data []byte) error {
	if err := m.nc.Publish(subject, data); err != nil {
		return fmt.Errorf("natsmesh: %w", err)
	}
	return nil
}

// connected is called when NATS is there, for the first time or again.
func (m *Mesh) connected() {
	m.mu.Lock()
	m.up = true
	m.heard[m.id] = time.Now()
	m.mu.Unlock()
	if most := m.nc.MaxPayload() - headerSize; most > 0 {
		m.chunk.Store(min(chunk, most))
	}
	m.cfg.Logger.Info("the mesh is connected", "broker", m.id.String())
	m.publishBeat(m.node.Loads())
}

// lost is called when NATS is lost: what went over it has ended, also if it comes back.
func (m *Mesh) lost(err error) {
	m.mu.Lock()
	was := m.up
	m.up = false
	delete(m.heard, m.id)
	finds := m.finds
	m.finds, m.dials = map[uuid.UUID]*find{}, map[uint64]*dial{}
	m.mu.Unlock()
	m.failTunnels(errDisconnected, func(*tunnel) bool { return true }, false)
	for channel, f := range finds {
		f.timer.Stop()
		m.node.Absent(channel)
	}
	if was && m.ctx.Err() == nil {
		m.cfg.Logger.Warn("the mesh is disconnected: only providers of this broker are found", "error", err)
	}
}

// failTunnels ends those tunnels that which says, and tells the other ends, if told.
func (m *Mesh) failTunnels(err error, which func(*tunnel) bool, told bool) {
	m.mu.Lock()
	var list []*tunnel
	for _, t := range m.tunnels {
		if which(t) {
			list = append(list, t)
		}
	}
	m.mu.Unlock()
	for _, t := range list {
		t.fail(err)
	}
	if told {
		for _, t := range list {
			t.sayClose()
		}
	}
}

// forget is called by a tunnel that has ended.
func (m *Mesh) forget(t *tunnel) {
	go func() { // a tunnel's lock is held
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.tunnels[t.id] == t {
			delete(m.tunnels, t.id)
		}
		for key, l := range m.links {
			if l.tunnel == t {
				delete(m.links, key)
			}
		}
	}()
}

// receive takes a message to this broker.
func (m *Mesh) receive(msg *nats.Msg) {
	if len(msg.Data) == 0 && msg.Header.Get("Status") == "503" {
		m.nobody(msg.Subject)
		return
	}
	h, rest, err := parseHeader(msg.Data)
	if err != nil {
		m.cfg.Logger.Warn("the mesh got a message that is none", "subject", msg.Subject)
		return
	}
	m.mu.Lock()
	t := m.tunnels[h.tunnel]
	if t != nil {
		m.heard[t.peer] = time.Now()
	}
	m.mu.Unlock()
	switch h.kind {
	case kindDial:
		m.answer(h, rest)
	case kindAccept:
		m.accepted(h, rest)
	case kindData:
		if t != nil {
			t.receive(h, rest)
		}
	case kindAck:
		if t != nil {
			t.ack(h.ack)
		}
	case kindClose:
		if t != nil {
			t.end()
		} else {
			m.refused(h.tunnel)
		}
	}
}

// newTunnelID returns an id that no other tunnel has.
func newTunnelID() uint64 { return rand.Uint64() }
