package socket

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// keepBuffer is the capacity in bytes up to which the reader keeps its buffer for the next message.
const keepBuffer = 64 << 10

// read is the reader. When it ends, everything that was pending has its error.
func (c *conn) read() {
	defer close(c.readDone)
	c.fail(c.readMessages())
	until := time.Now().Add(closeWait)
	c.net.limitWrites(until) // a writer that is held up by the peer must not hold up the end
	c.net.discard(make([]byte, 4096), until)
}

// readMessages hands every reply to the one who waits for it, until the connection fails.
func (c *conn) readMessages() error {
	var text []byte
	var reply wire.Reply
	for {
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return readError(err)
		}
		if text, err = readAll(r, text[:0]); err != nil {
			return readError(err)
		}
		switch err := reply.Parse(text); {
		case kind != websocket.TextMessage:
			c.skip("it is not a text message", len(text))
		case err != nil:
			c.skip("it is not a JSON object", len(text))
		default:
			c.deliver(&reply)
		}
		if cap(text) > keepBuffer {
			text = nil
		}
	}
}

// deliver completes the message that r answers. An answer to nobody is a late one: its caller has given up.
func (c *conn) deliver(r *wire.Reply) {
	c.strikes.Store(0)
	out := c.claim(r)
	if out == nil {
		return
	}
	post := out.post && out.free // read now: a call's message is its caller's again after Complete
	out.done.Complete(r, nil)
	if post {
		c.m.recyclePost(out)
	}
}

// skip logs a message that can't be understood: the 1st, 2nd, 4th, 8th and so on, so that a service that
// has gone mad can't fill the log.
func (c *conn) skip(reason string, size int) {
	c.skipped++
	if c.skipped&(c.skipped-1) == 0 {
		c.m.log.Warn("usageflow service sent a malformed message; skipped", "reason", reason, "bytes", size, "skipped_so_far", c.skipped)
	}
}

// readAll reads r into buf, whose memory it reuses. The connection's read limit bounds it.
func readAll(r io.Reader, buf []byte) ([]byte, error) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}

func readError(err error) error {
	var closed *websocket.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		return fmt.Errorf("socket: the service closed the connection: %w", err)
	case errors.Is(err, websocket.ErrReadLimit):
		return fmt.Errorf("socket: a message of the service is over the limit: %w", err)
	}
	return fmt.Errorf("socket: read: %w", err)
}
