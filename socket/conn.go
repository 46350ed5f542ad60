package socket

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// errUnsent: the connection ended before the message was written, so that another one may take it.
var errUnsent = fmt.Errorf("%w: the connection ended before the message was written", ErrNotConnected)

// conn is one WebSocket. Its slot's goroutine runs serve, which is the only writer; serve starts the only
// reader. Any goroutine may enqueue and forget.
type conn struct {
	// Static after construction.
	slot       *slot
	m          *UsageFlowSocketManager
	ws         *websocket.Conn
	net        *netConn
	wake       chan struct{} // capacity 1: there is something for the writer
	failed     chan struct{} // closed when err is set
	readDone   chan struct{} // closed when the reader has ended
	queueLimit int

	// Owned by the writer.
	spare  []*outgoing // the memory of the next queue
	frames []byte      // the memory of the next frames

	skipped int // owned by the reader: messages that were not understood

	load    atomic.Int64  // messages queued, or waiting for their reply
	strikes atomic.Int32  // calls that have timed out since the last sign of life
	copied  atomic.Uint64 // sequence number of the last message that the writer has no more use for

	mu       sync.Mutex // guards what follows; a leaf: nothing else is locked while it is held
	queue    []*outgoing
	queued   int    // bytes in queue
	enqueued uint64 // sequence number of the last message queued
	taken    uint64 // sequence number of the last message that may have been written
	pending  map[string]*outgoing
	pong     []byte // the data of a ping that is to be answered, the latest; nil: none
	closeOut []byte // the payload of the close frame that is to be sent; nil: none
	draining bool   // no more is taken; what is under way may finish
	err      error  // why the connection is over; nil while it is up
}

var _ wire.Lane = (*conn)(nil)

func newConn(s *slot, ws *websocket.Conn, nc *netConn) *conn {
	c := &conn{
		slot: s, m: s.m, ws: ws, net: nc, queueLimit: s.m.cfg.QueueLimit,
		wake:     make(chan struct{}, 1),
		failed:   make(chan struct{}),
		readDone: make(chan struct{}),
		pending:  make(map[string]*outgoing),
	}
	ws.SetReadLimit(s.m.cfg.ReadLimit)
	ws.SetPingHandler(func(data string) error {
		c.mu.Lock()
		c.pong = append([]byte{}, data...)
		c.mu.Unlock()
		c.signal()
		return nil
	})
	ws.SetPongHandler(func(string) error {
		c.strikes.Store(0)
		return nil
	})
	ws.SetCloseHandler(func(code int, _ string) error {
		c.mu.Lock()
		c.closeOut = closePayload(code)
		c.mu.Unlock()
		return nil // the writer sends it before it ends the connection
	})
	return c
}

// Post implements wire.Lane.
func (c *conn) Post(typ, id string, payload []byte, done wire.Completion) error {
	out := c.m.newPost(id, done)
	var err error
	if out.text, err = appendMessage(out.text, typ, wire.Raw(payload), id); err != nil {
		return err
	}
	return c.enqueue(out)
}

// Alive implements wire.Lane.
func (c *conn) Alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.draining
}

// busyLoad is the number of messages under way at which a lane is busy.
const busyLoad = 128

// Busy implements wire.Lane.
func (c *conn) Busy() bool { return c.load.Load() >= busyLoad }

// enqueue hands out to the writer. errUnsent means that the connection is over.
func (c *conn) enqueue(out *outgoing) error {
	c.mu.Lock()
	if c.err != nil || c.draining {
		c.mu.Unlock()
		return errUnsent
	}
	if c.queued+len(out.text) > c.queueLimit {
		c.mu.Unlock()
		return ErrQueueFull
	}
	if out.awaitsReply() {
		if old := c.pending[out.id]; old != nil {
			if old.done != out.done {
				c.mu.Unlock()
				return ErrDuplicateID
			}
			c.load.Add(-1)
		}
		c.pending[out.id] = out
	}
	c.enqueued++
	out.seq = c.enqueued
	c.queue = append(c.queue, out)
	c.queued += len(out.text)
	c.load.Add(1)
	c.mu.Unlock()
	c.signal()
	return nil
}

// signal wakes the writer. It never blocks.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// forget gives up on the reply to out. It reports false if out was completed, or is about to be.
func (c *conn) forget(out *outgoing) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[out.id] != out {
		return false
	}
	delete(c.pending, out.id)
	c.load.Add(-1)
	if out.seq > c.taken {
		// Still in the queue: nobody waits for it, so it need not be sent.
		c.queued -= len(out.text)
		out.text = nil
	}
	c.signalIdleLocked()
	return true
}

// claim takes the pending message that r answers, nil if there is none: the one that replyTo names, else
// the one that id names. A service may put its own id beside replyTo, so that id counts only without it.
func (c *conn) claim(r *wire.Reply) *outgoing {
	id := r.ReplyTo
	if len(id) == 0 {
		id = r.ID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.pending[string(id)]
	if out == nil {
		return nil
	}
	delete(c.pending, out.id)
	c.load.Add(-1)
	out.free = out.seq <= c.copied.Load()
	c.signalIdleLocked()
	return out
}

// signalIdleLocked tells the writer that there is nothing left to drain.
func (c *conn) signalIdleLocked() {
	if c.draining && len(c.pending) == 0 {
		c.signal()
	}
}

// fail ends the connection, once. The slot is empty when it returns, every pending message has its
// error, and messages that were not written go to another connection where they may.
func (c *conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	pending, queue, taken := c.pending, c.queue, c.taken
	c.pending, c.queue, c.queued = nil, nil, 0
	// Before anyone learns of the end: who is told to choose again must not find this connection.
	c.slot.conn.Store(nil)
	c.mu.Unlock()
	close(c.failed)
	c.m.slotDown(err)

	lost := fmt.Errorf("%w: %v", ErrConnectionLost, err) //nolint:errorlint // a caller must not take the cause, a deadline for one, for its own
	if errors.Is(err, ErrClosed) {
		lost = err
	}
	// First the queue: a message of it whose caller is told may be in use again a moment later.
	c.abandon(queue, false)
	for _, out := range pending {
		if out.seq > taken {
			out.done.Complete(nil, errUnsent)
		} else {
			out.done.Complete(nil, lost)
		}
	}
}

// abandon deals with the messages in outs that await no reply, after the end of the connection. written
// says whether a part of them may have arrived.
func (c *conn) abandon(outs []*outgoing, written bool) {
	err := errUnsent
	if written {
		err = ErrConnectionLost
	}
	lost := 0
	for _, out := range outs {
		switch {
		case out == nil || out.awaitsReply():
		case !written && out.moves && c.m.redispatch(out):
		case out.done != nil:
			out.done.Complete(nil, err)
		default:
			lost++
		}
	}
	if lost > 0 {
		c.m.log.Warn("usageflow one-way messages lost with their connection", "messages", lost, "error", err)
	}
}

// lost returns why the connection is over, nil while it is up.
func (c *conn) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// drain stops taking messages; the writer ends the connection when what is under way has finished.
func (c *conn) drain() {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	c.signal()
}

// idle reports whether nothing is queued and nothing waits for a reply.
func (c *conn) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) == 0 && len(c.pending) == 0
}
