package socket

import (
	"fmt"
	"runtime"
	"time"
)

// flushThreshold is the number of bytes that are gathered at most before they are written.
const flushThreshold = 64 << 10

// serve runs the connection until it ends, and returns why.
func (c *conn) serve() error {
	go c.read()
	c.fail(c.write())
	_ = c.net.Close() // whatever it says, the connection is over
	<-c.readDone
	return c.lost()
}

// write is the writer: it sends whatever is queued in one system call, and never waits to gather more.
func (c *conn) write() error {
	ping := time.NewTicker(pingPeriod)
	defer ping.Stop()
	for {
		select {
		case <-c.wake:
			// Those who are about to send run first: their messages go out in the same call. Where others
			// use this connection too, a second time: the first one is over at once if another
			// processor was idle. Without them this costs nothing worth measuring.
			runtime.Gosched()
			if c.load.Load() > 1 {
				runtime.Gosched()
			}
			if c.m.isClosing() {
				continue // finish bounds its writes more closely
			}
			if err := c.flush(); err != nil {
				return err
			}
		case <-ping.C:
			if _, err := c.send(appendFrame(c.frames[:0], opPing, nil)); err != nil {
				return fmt.Errorf("socket: ping: %w", err)
			}
		case <-c.failed:
			c.sayGoodbye()
			return c.lost()
		case <-c.m.closing:
			return c.finish()
		}
	}
}

// flush writes all that is queued, in one system call up to flushThreshold.
func (c *conn) flush() error {
	c.mu.Lock()
	batch, pong, last := c.queue, c.pong, c.taken
	c.queue, c.queued, c.pong = c.spare, 0, nil
	c.taken = c.enqueued
	c.mu.Unlock()
	c.spare = nil

	frames := c.frames[:0]
	if pong != nil {
		frames = appendFrame(frames, opPong, pong)
	}
	from := 0 // batch[:from] is written
	for i, out := range batch {
		if out.text != nil { // not given up while it was in the queue
			frames = appendFrame(frames, opText, out.text)
		}
		seq := out.seq
		if out.awaitsReply() {
			batch[i] = nil // it belongs to the reader from the moment of the write
		}
		if len(frames) < flushThreshold && i+1 < len(batch) {
			continue
		}
		c.copied.Store(seq)
		if n, err := c.send(frames); err != nil {
			return c.writeFailed(n, last, seq, batch[from:i+1], batch[i+1:], err)
		}
		c.settle(batch[from : i+1])
		frames, from, last = frames[:0], i+1, seq
	}
	if len(frames) > 0 { // a pong alone
		if _, err := c.send(frames); err != nil {
			return fmt.Errorf("socket: write: %w", err)
		}
	}
	if cap(frames) <= 4*flushThreshold {
		c.frames = frames[:0]
	}
	if cap(batch) <= 4096 {
		c.spare = batch[:0]
	}
	return nil
}

// send writes whole frames, through TLS where there is any, in one system call. n is zero if none of it
// can have arrived.
func (c *conn) send(frames []byte) (n int, err error) {
	if _, err := c.ws.NetConn().Write(frames); err != nil {
		return 0, err // TLS has given up; nothing was flushed
	}
	return c.net.Flush()
}

// settle completes the messages that await no reply: they are written.
func (c *conn) settle(batch []*outgoing) {
	for i, out := range batch {
		if out == nil {
			continue
		}
		batch[i] = nil
		c.load.Add(-1)
		if out.done != nil {
			out.done.Complete(nil, nil)
		}
		c.m.recyclePost(out)
	}
}

// writeFailed ends the connection after a failed write, of which the system took n bytes. tried are the
// messages of that write, which end at sequence number seq; rest those after it; last is the last one before.
func (c *conn) writeFailed(n int, last, seq uint64, tried, rest []*outgoing, err error) error {
	err = fmt.Errorf("socket: write: %w", err)
	if n > 0 {
		last = seq // nobody knows how far it got
	}
	c.mu.Lock()
	c.taken = last
	c.mu.Unlock()
	c.fail(err)
	c.abandon(tried, n > 0)
	c.abandon(rest, false)
	return err
}

// finish drains: what is queued is written and what is pending gets its reply, within the drain timeout.
func (c *conn) finish() error {
	c.beginDrain()
	deadline := time.NewTimer(time.Until(c.m.drainUntil))
	defer deadline.Stop()
	for !c.idle() {
		if err := c.flush(); err != nil {
			return err
		}
		if c.idle() {
			break
		}
		select {
		case <-c.wake:
		case <-c.failed:
		case <-deadline.C:
			c.fail(ErrClosed)
		}
	}
	c.mu.Lock()
	if c.closeOut == nil {
		c.closeOut = closePayload(1000) // normal closure
	}
	c.mu.Unlock()
	c.sayGoodbye()
	return ErrClosed
}

// beginDrain stops the taking of messages, and bounds the writes so that the pool can close in time.
func (c *conn) beginDrain() {
	c.drain()
	c.net.limitWrites(c.m.drainUntil.Add(closeWait))
}

// sayGoodbye sends the close frame: ours, the echo of the peer's, or the one by which the WebSocket library
// answered a protocol error. Then the peer has until the end of closeWait to close its end.
func (c *conn) sayGoodbye() {
	wait := time.NewTimer(closeWait)
	defer wait.Stop()
	c.net.limitWrites(time.Now().Add(closeWait))
	c.mu.Lock()
	payload := c.closeOut
	c.mu.Unlock()
	var frames []byte
	if payload != nil {
		frames = appendFrame(frames, opClose, payload)
	}
	if _, err := c.send(frames); err != nil {
		return // the peer is gone already
	}
	select {
	case <-c.readDone:
	case <-wait.C:
	}
}
