package socket

import (
	"context"
	"errors"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// outgoing is one message on its way. A connection that has taken it owns it until it completes it, or
// until the maker forgets it.
type outgoing struct {
	text  []byte          // JSON; nil if it was given up in the queue
	id    string          // empty: no reply is expected
	done  wire.Completion // nil: nobody is told
	moves bool            // another connection may take it, unless it was written
	post  bool            // made by newPost
	seq   uint64          // set by enqueue, guarded by the connection's mu
	free  bool            // set at the reply: nobody else refers to this memory
}

func (o *outgoing) awaitsReply() bool { return o.id != "" && o.done != nil }

// keepText is the capacity in bytes up to which a message's memory is kept for the next message.
const keepText = 4096

// newPost makes a message for a lane, or a one-way message.
func (m *UsageFlowSocketManager) newPost(id string, done wire.Completion) *outgoing {
	out := m.posts.Get().(*outgoing)
	out.id, out.done = id, done
	return out
}

func newPost() any { return &outgoing{post: true, text: make([]byte, 0, 512)} }

// recyclePost keeps the memory of a message that nobody refers to any more.
func (m *UsageFlowSocketManager) recyclePost(out *outgoing) {
	if cap(out.text) > keepText || cap(out.text) == 0 {
		return
	}
	*out = outgoing{post: true, text: out.text[:0]}
	m.posts.Put(out)
}

// redispatch gives a one-way message that its connection could not write any more to another one. It
// reports false if none would have it.
func (m *UsageFlowSocketManager) redispatch(out *outgoing) bool {
	for range m.slots {
		c := m.pick()
		if c == nil {
			return false
		}
		if err := c.enqueue(out); !errors.Is(err, errUnsent) {
			return err == nil
		}
	}
	return false
}

// call is a message whose sender waits for the reply. It is used again only after a reply that came when
// its connection had no more use for it; in all other cases it is left to the garbage collector.
type call struct {
	outgoing
	resp   *UsageFlowSocketResponse
	result chan error // capacity 1
}

var _ wire.Completion = (*call)(nil)

func newCall() any {
	c := &call{result: make(chan error, 1)}
	c.text = make([]byte, 0, 256)
	c.done = c
	return c
}

func newTimer() any { return time.NewTimer(time.Hour) }

// recycle keeps the call for another one, where nobody refers to it.
func (m *UsageFlowSocketManager) recycle(c *call) {
	if !c.free || cap(c.text) > keepText {
		return
	}
	c.text, c.id, c.seq, c.free, c.resp = c.text[:0], "", 0, false, nil
	m.calls.Put(c)
}

// Complete implements wire.Completion.
func (c *call) Complete(r *wire.Reply, err error) {
	if err == nil {
		c.resp, err = newResponse(r, c.id)
	}
	c.result <- err
}

// wait returns the result of the call, which on has taken.
func (c *call) wait(ctx context.Context, expired <-chan time.Time, on *conn) error {
	var err error
	select {
	case err = <-c.result:
		return err
	case <-expired:
		err = ErrTimeout
	case <-ctx.Done():
		err = timeoutOr(ctx.Err())
	}
	if !on.forget(&c.outgoing) {
		return <-c.result // it is on its way already
	}
	c.free = false
	if errors.Is(err, ErrTimeout) {
		on.strikes.Add(1)
	}
	return err
}
