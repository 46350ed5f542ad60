package service

import (
	"bufio"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

const (
	// maxOutgoing is how many bytes may wait for a peer to read; one that lets more wait is closed.
	maxOutgoing = 4 << 20
	// writeWait bounds every write to a peer.
	writeWait = 10 * time.Second
	// replySize is what a reply that is not encoded yet counts in maxOutgoing.
	replySize = 512
)

// flushConn is a network connection whose writes wait in a buffer until flush, so that many frames go
// out in one system call. It is safe for concurrent use.
type flushConn struct {
	net.Conn
	mu  sync.Mutex
	buf []byte
}

// Write keeps p for the next flush.
func (c *flushConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// flush sends what is kept.
func (c *flushConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.buf) == 0 {
		return nil
	}
	if err := c.Conn.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	if cap(c.buf) > 1<<18 {
		c.buf = nil
	}
	return err
}

// SetWriteDeadline does nothing: flush sets the deadline of the write that it makes.
func (c *flushConn) SetWriteDeadline(time.Time) error { return nil }

// flushHijacker hands the WebSocket upgrade a flushConn instead of the connection itself.
type flushHijacker struct {
	http.ResponseWriter
	conn *flushConn
}

// Hijack implements http.Hijacker.
func (h *flushHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	h.conn = &flushConn{Conn: conn}
	return h.conn, rw, nil
}

// frame is something that waits to be written.
type frame struct {
	kind int // a websocket message type
	data []byte
	// reply makes the text, where data is nil: encoding it is the writer's work and not the ledger's.
	reply func() *socket.UsageFlowSocketResponse
}

func (f *frame) size() int {
	if f.reply != nil {
		return replySize
	}
	return len(f.data)
}

// outbox is what waits to be written to a peer, and the goroutine that writes it. All methods but
// write are safe for concurrent use and never block.
type outbox struct {
	ws    *websocket.Conn
	flush *flushConn
	wake  chan struct{} // holds one element while there may be something to do

	mu     sync.Mutex
	frames []frame
	size   int  // bytes in frames
	closed bool // the last frame is a close frame, or the peer is given up
	broken bool // nothing can be written
}

func newOutbox(ws *websocket.Conn, flush *flushConn) *outbox {
	return &outbox{ws: ws, flush: flush, wake: make(chan struct{}, 1)}
}

// text queues a message, unless the peer is on its way out. A peer that has let too much wait is given
// up here.
func (o *outbox) text(f frame) {
	o.mu.Lock()
	defer o.mu.Unlock()
	f.kind = websocket.TextMessage
	switch {
	case o.closed:
	case o.size+f.size() > maxOutgoing:
		o.closed, o.broken, o.frames = true, true, nil
		o.signal()
		_ = o.flush.Conn.Close() // unblocks both goroutines; they report what they see
	default:
		o.add(f)
	}
}

// control queues a pong. Peers that ask for too many get none.
func (o *outbox) control(kind int, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed && len(o.frames) < maxInFlight {
		o.add(frame{kind: kind, data: data})
	}
}

// close queues a close frame as the last one; false says that there is one already.
func (o *outbox) close(code int, reason string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	o.add(frame{kind: websocket.CloseMessage, data: websocket.FormatCloseMessage(code, reason)})
	o.closed = true
	return true
}

// discard drops what waits and lets nothing more in.
func (o *outbox) discard() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed, o.broken, o.frames = true, true, nil
	o.signal()
}

func (o *outbox) isClosed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.closed
}

// add needs mu.
func (o *outbox) add(f frame) {
	o.frames = append(o.frames, f)
	o.size += f.size()
	o.signal()
}

// signal needs mu.
func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// write is the connection's writer: whatever waits goes out in one system call. It returns when the
// close frame is written or nothing can be.
func (o *outbox) write() {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	var spare []frame
	for {
		select {
		case <-o.wake:
		case <-ping.C:
			o.control(websocket.PingMessage, nil)
		}
		o.mu.Lock()
		frames, last, broken := o.frames, o.closed, o.broken
		o.frames, o.size = spare[:0], 0
		o.mu.Unlock()
		if broken || o.writeAll(frames) != nil {
			o.discard()
			// The reader ends with the connection; its error is the one that is logged.
			_ = o.flush.Conn.Close()
			return
		}
		if last {
			return
		}
		clear(frames)
		spare = frames
	}
}

// writeAll writes frames and flushes; what was written before an error goes out too.
func (o *outbox) writeAll(frames []frame) error {
	var err error
	for i := 0; i < len(frames) && err == nil; i++ {
		data := frames[i].data
		if frames[i].reply != nil {
			if data, err = json.Marshal(frames[i].reply()); err != nil {
				break
			}
		}
		err = o.ws.WriteMessage(frames[i].kind, data)
	}
	return errors.Join(err, o.flush.flush())
}
