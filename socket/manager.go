package socket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// UsageFlowSocketManager is a pool of WebSockets to a UsageFlow service. Each slot of the pool keeps one
// connection up by itself, whatever happens to it; a message goes to the connection with the least to
// do. Safe for concurrent use.
type UsageFlowSocketManager struct {
	// Static after construction.
	cfg        ManagerConfig
	configErr  error // why nothing can work; every call returns it
	slots      []*slot
	idPrefix   string
	log        *slog.Logger
	dialing    context.Context // ends when Close begins
	stopDials  context.CancelFunc
	drainUntil time.Time       // set by Close before closing is closed, and read after
	closing    <-chan struct{} // dialing's Done
	ready      chan struct{}   // closed when a slot is connected, or each has been tried once

	rotation  atomic.Uint32
	nextID    atomic.Uint64
	untried   atomic.Int32 // slots that have not been tried since the start
	up        atomic.Int32 // slots that are connected
	readyOnce sync.Once

	// Per manager, for their channels and timers must not cross the border of a testing/synctest bubble.
	calls  sync.Pool // of *call
	posts  sync.Pool // of *outgoing
	timers sync.Pool // of *time.Timer

	mu       sync.Mutex // guards what follows; no other lock is taken while it is held
	started  bool
	closed   bool
	closeErr error
	done     chan struct{} // closed when Close is over
}

var (
	_ Transport          = (*UsageFlowSocketManager)(nil)
	_ wire.LaneTransport = (*UsageFlowSocketManager)(nil)
)

// NewUsageFlowSocketManager makes a pool for the service at USAGEFLOW_URL, or at ws://localhost:9000/ws, and starts
// connecting; it does not block. The default pool size is 10. A key that can't be used is reported by every call.
func NewUsageFlowSocketManager(apiKey string, poolSize ...int) *UsageFlowSocketManager {
	cfg := ManagerConfig{APIKey: apiKey}
	if len(poolSize) > 0 {
		cfg.PoolSize = poolSize[0]
	}
	m, err := NewManager(cfg)
	if err != nil {
		m = newManager(ManagerConfig{Logger: slog.Default()})
		m.configErr = err
		m.log.Error("usageflow pool cannot start", "error", err)
		return m
	}
	_ = m.start() // a new manager is not closed
	return m
}

// NewManager makes a pool. It neither dials nor blocks: Connect, or the first message, starts it.
func NewManager(cfg ManagerConfig) (*UsageFlowSocketManager, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return newManager(cfg), nil
}

func newManager(cfg ManagerConfig) *UsageFlowSocketManager {
	m := &UsageFlowSocketManager{
		cfg:      cfg,
		log:      cfg.Logger,
		idPrefix: strconv.FormatUint(rand.Uint64()>>8, 36) + "-",
		ready:    make(chan struct{}),
		done:     make(chan struct{}),
	}
	m.calls.New, m.posts.New, m.timers.New = newCall, newPost, newTimer
	m.dialing, m.stopDials = context.WithCancel(context.Background())
	m.closing = m.dialing.Done()
	m.untried.Store(int32(cfg.PoolSize))
	for i := range cfg.PoolSize {
		m.slots = append(m.slots, newSlot(m, i))
	}
	return m
}

// start starts the slots, the first time.
func (m *UsageFlowSocketManager) start() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return ErrClosed
	case m.configErr != nil:
		return m.configErr
	case m.started:
		return nil
	}
	m.started = true
	for _, s := range m.slots {
		go s.run()
	}
	return nil
}

// Connect tries every slot that is not connected, all in parallel, and returns once each has been tried
// once. It fails only if nothing is connected then: with ErrUnauthorized where the service refused the
// key in every slot. The slots go on trying by themselves in any case.
func (m *UsageFlowSocketManager) Connect() error {
	// Twice at most: a connection that was up at the first look may be lost by the end of it.
	for range 2 {
		if all, err := m.tryAll(); err != nil {
			return err
		} else if m.IsConnected() {
			return nil
		} else if all {
			break
		}
	}
	return m.notConnected()
}

// tryAll waits for one try of every slot that may try. It reports whether it asked all of them: none was
// left out because it was connected.
func (m *UsageFlowSocketManager) tryAll() (all bool, err error) {
	all = true
	// Asked before the start: then a first try, however fast it fails, is the one that was asked for.
	attempts := make([]<-chan struct{}, 0, len(m.slots))
	for _, s := range m.slots {
		attempt, connected := s.tryNow()
		if connected {
			all = false
		} else if attempt != nil {
			attempts = append(attempts, attempt)
		}
	}
	if err := m.start(); err != nil {
		return all, err
	}
	for _, attempt := range attempts {
		select {
		case <-attempt:
		case <-m.closing:
			return all, ErrClosed
		}
	}
	return all, nil
}

// notConnected is ErrNotConnected with the reason, which counts as ErrUnauthorized where it is that for every
// slot. Other reasons are text only: an error that says "never sent" must not match a timeout as well.
func (m *UsageFlowSocketManager) notConnected() error {
	var last error
	refused := 0
	for _, s := range m.slots {
		if err := s.lastError(); err != nil {
			last = err
			if errors.Is(err, ErrUnauthorized) {
				refused++
			}
		}
	}
	switch {
	case last == nil:
		return ErrNotConnected
	case refused == len(m.slots):
		return fmt.Errorf("%w: %w", ErrNotConnected, last)
	}
	return fmt.Errorf("%w: %v", ErrNotConnected, last) //nolint:errorlint // one slot's refusal is not the pool's
}

// IsConnected reports whether at least one connection is up.
func (m *UsageFlowSocketManager) IsConnected() bool { return m.up.Load() > 0 }

// SlotStatus is the state of one slot of the pool.
type SlotStatus struct {
	Connected bool
	// Err is why there is no connection: why the last one ended, or could not be made. Nil before the first try.
	// errors.Is(Err, ErrUnauthorized) says that the service refused the key.
	Err error
	// Pending is the number of messages that are queued or wait for their reply.
	Pending int
}

// Status returns the state of every slot.
func (m *UsageFlowSocketManager) Status() []SlotStatus {
	status := make([]SlotStatus, len(m.slots))
	for i, s := range m.slots {
		if c := s.conn.Load(); c != nil {
			status[i].Connected = true
			status[i].Pending = int(c.load.Load())
		} else {
			status[i].Err = s.lastError()
		}
	}
	return status
}

// Close lets what is under way finish (for at most 3 s), then closes every connection. It returns within
// 5 s, when every goroutine has ended; it fails if one has not, which takes a ManagerConfig.Dial whose
// connections do not close. Afterwards every call and Connect gives ErrClosed. Later calls of Close wait for the
// first one and return the same.
func (m *UsageFlowSocketManager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		<-m.done
		return m.closeErr
	}
	m.closed = true
	started := m.started
	m.mu.Unlock()
	defer close(m.done)

	limit := time.NewTimer(closeTimeout)
	defer limit.Stop()
	m.drainUntil = time.Now().Add(m.drainTimeout())
	m.stopDials()
	m.markReady()
	if !started {
		return nil
	}
	for _, s := range m.slots {
		if c := s.conn.Load(); c != nil {
			c.beginDrain() // at once: its writer may be held up by its peer
		}
	}
	for _, s := range m.slots {
		select {
		case <-s.done:
		case <-limit.C:
			m.closeErr = errors.New("socket: close: a connection did not end in time")
			return m.closeErr
		}
	}
	return nil
}

func (m *UsageFlowSocketManager) isClosing() bool {
	select {
	case <-m.closing:
		return true
	default:
		return false
	}
}

func (m *UsageFlowSocketManager) drainTimeout() time.Duration {
	return min(m.cfg.RequestTimeout, maxDrainTimeout)
}

func (m *UsageFlowSocketManager) markReady() {
	m.readyOnce.Do(func() { close(m.ready) })
}

// slotTried is called by each slot after its first try.
func (m *UsageFlowSocketManager) slotTried() {
	if m.untried.Add(-1) > 0 {
		return
	}
	if !m.IsConnected() && !m.isClosing() {
		m.log.Warn("usageflow service not connected; trying on", "url", m.cfg.endpoint(), "error", m.notConnected())
	}
	m.markReady()
}

func (m *UsageFlowSocketManager) slotUp() {
	if m.up.Add(1) == 1 {
		m.log.Info("usageflow service connected", "url", m.cfg.endpoint())
	}
	m.markReady()
}

func (m *UsageFlowSocketManager) slotDown(err error) {
	if m.up.Add(-1) == 0 && !m.isClosing() {
		m.log.Warn("usageflow service disconnected; reconnecting", "url", m.cfg.endpoint(), "error", err)
	}
}
