package socket

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

var errNoMessage = errors.New("socket: no message")

// A connection with this many unanswered calls more is chosen before one on which a call has timed out since
// its last reply.
const strikePenalty = 64

// SendAsync sends p and waits for its reply, for at most the manager's request timeout (2 s). During the
// very first round of connecting it waits for that round, within the same time.
func (m *UsageFlowSocketManager) SendAsync(p *UsageFlowSocketMessage) (*UsageFlowSocketResponse, error) {
	return m.roundTrip(context.Background(), m.cfg.RequestTimeout, p)
}

// Send queues p without waiting for a reply: a nil error means queued, not delivered.
func (m *UsageFlowSocketManager) Send(p *UsageFlowSocketMessage) error {
	ctx, cancel := context.WithTimeout(context.Background(), max(m.cfg.RequestTimeout, time.Second))
	defer cancel()
	return m.Notify(ctx, p)
}

// Call sends p and waits for its reply until ctx ends; without a deadline in ctx, for at most the
// manager's request timeout. A call that was not yet written when its connection ended moves to another one.
func (m *UsageFlowSocketManager) Call(ctx context.Context, p *UsageFlowSocketMessage) (*UsageFlowSocketResponse, error) {
	if _, ok := ctx.Deadline(); ok {
		return m.roundTrip(ctx, 0, p)
	}
	return m.roundTrip(ctx, m.cfg.RequestTimeout, p)
}

// Notify queues p without waiting for a reply. It waits only for the very first round of connecting. A
// message that was not yet written when its connection ended moves to another one.
func (m *UsageFlowSocketManager) Notify(ctx context.Context, p *UsageFlowSocketMessage) error {
	if p == nil {
		return errNoMessage
	}
	if err := ctx.Err(); err != nil {
		return timeoutOr(err)
	}
	out := m.newPost(p.ID, nil) // where the service answers to the ID, that answer finds nobody
	out.moves = true
	var err error
	if out.text, err = appendMessage(out.text, p.Type, p.Payload, p.ID); err != nil {
		return err
	}
	for {
		c, err := m.acquire(ctx, nil)
		if err != nil {
			return err
		}
		if err = c.enqueue(out); !errors.Is(err, errUnsent) {
			return err
		}
	}
}

// Self implements wire.LaneTransport.
func (m *UsageFlowSocketManager) Self() any { return m }

// Lane implements wire.LaneTransport.
func (m *UsageFlowSocketManager) Lane(ctx context.Context) (wire.Lane, error) {
	c, err := m.acquire(ctx, nil)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// roundTrip sends p and waits for its reply until ctx ends, and where timeout is not zero for no longer than that.
func (m *UsageFlowSocketManager) roundTrip(ctx context.Context, timeout time.Duration, p *UsageFlowSocketMessage) (*UsageFlowSocketResponse, error) {
	if p == nil {
		return nil, errNoMessage
	}
	if err := ctx.Err(); err != nil {
		return nil, timeoutOr(err)
	}
	call := m.calls.Get().(*call)
	if call.id = p.ID; call.id == "" {
		call.id = m.newID()
	}
	var err error
	if call.text, err = appendMessage(call.text, p.Type, p.Payload, call.id); err != nil {
		return nil, err
	}
	var expired <-chan time.Time
	if timeout > 0 {
		timer := m.timers.Get().(*time.Timer)
		timer.Reset(timeout)
		defer func() {
			timer.Stop()
			m.timers.Put(timer)
		}()
		expired = timer.C
	}
	for {
		c, err := m.acquire(ctx, expired)
		if err != nil {
			return nil, err
		}
		if err = c.enqueue(&call.outgoing); err == nil {
			err = call.wait(ctx, expired, c)
		}
		if errors.Is(err, errUnsent) {
			continue // each time on another connection, for this one has left its slot
		}
		resp := call.resp
		m.recycle(call)
		return resp, err
	}
}

// newID makes an id that no other call of this process uses.
func (m *UsageFlowSocketManager) newID() string {
	var buf [32]byte
	return string(strconv.AppendUint(append(buf[:0], m.idPrefix...), m.nextID.Add(1), 36))
}

// acquire selects a connection. It waits only while the first round of connecting is going on.
func (m *UsageFlowSocketManager) acquire(ctx context.Context, expired <-chan time.Time) (*conn, error) {
	select {
	case <-m.ready:
	default:
		if err := m.start(); err != nil {
			return nil, err
		}
		select {
		case <-m.ready:
		case <-expired:
			return nil, ErrTimeout
		case <-ctx.Done():
			return nil, timeoutOr(ctx.Err())
		}
	}
	if m.isClosing() {
		return nil, ErrClosed
	}
	if c := m.pick(); c != nil {
		return c, nil
	}
	for _, s := range m.slots {
		s.wakeFromRest()
	}
	return nil, m.notConnected()
}

// pick returns the connection with the least to do, in rotation among equals; nil if none is up.
func (m *UsageFlowSocketManager) pick() *conn {
	var best *conn
	var bestLoad int64
	start := int(m.rotation.Add(1) % uint32(len(m.slots)))
	for i := range m.slots {
		j := start + i
		if j >= len(m.slots) {
			j -= len(m.slots)
		}
		c := m.slots[j].conn.Load()
		if c == nil {
			continue
		}
		load := c.load.Load() + strikePenalty*int64(c.strikes.Load())
		if load == 0 {
			return c
		}
		if best == nil || load < bestLoad {
			best, bestLoad = c, load
		}
	}
	return best
}

// timeoutOr is ErrTimeout for a deadline, and err for a cancellation.
func timeoutOr(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return ErrTimeout
	}
	return err
}
