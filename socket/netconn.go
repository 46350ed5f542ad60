package socket

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

var errLongHandshake = errors.New("socket: the answer to the handshake is too long")

// netConn is the network connection below a WebSocket, and below its TLS where there is any. During the
// handshake it is transparent. After start, Write only gathers and never blocks; Flush makes one system
// call of all that was gathered. So the reader's side may write too (the WebSocket library answers a
// protocol error with a close frame, TLS a key update) and is never held up by a peer that doesn't read.
// Every system call that writes has writeWait, and every one that reads has pongWait to finish.
type netConn struct {
	net.Conn

	started       atomic.Bool
	handshakeLeft int    // bytes that the handshake may still read; owned by the reader
	spare         []byte // owned by Flush: the memory of the next buf

	mu     sync.Mutex // guards what follows; never held during a system call that can block
	buf    []byte
	latest time.Time // all writing ends by then, unless it is zero
}

// start begins the gathering: the handshake is over.
func (c *netConn) start() { c.started.Store(true) }

// Write gathers p. During the handshake it writes p.
func (c *netConn) Write(p []byte) (int, error) {
	if !c.started.Load() {
		return c.Conn.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// Flush writes what was gathered, and returns how many bytes the operating system took. Only one
// goroutine may call it.
func (c *netConn) Flush() (int, error) {
	c.mu.Lock()
	buf := c.buf
	if len(buf) == 0 {
		c.mu.Unlock()
		return 0, nil
	}
	c.buf, c.spare = c.spare, nil
	err := c.setWriteDeadlineLocked()
	c.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := c.Conn.Write(buf)
	if cap(buf) <= 4*flushThreshold {
		c.spare = buf[:0]
	}
	return n, err
}

// setWriteDeadlineLocked is called with mu held, so that it can't undo what limitWrites sets.
func (c *netConn) setWriteDeadlineLocked() error {
	deadline := time.Now().Add(writeWait)
	if !c.latest.IsZero() && c.latest.Before(deadline) {
		deadline = c.latest
	}
	return c.Conn.SetWriteDeadline(deadline)
}

// limitWrites bounds all later writes and the one under way. A limit only ever gets closer.
func (c *netConn) limitWrites(latest time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.latest.IsZero() && c.latest.Before(latest) {
		return
	}
	c.latest = latest
	_ = c.Conn.SetWriteDeadline(latest) // where it fails, the connection is over already
}

// Read has pongWait for each system call: a peer that is silent for longer is gone.
func (c *netConn) Read(p []byte) (int, error) {
	if c.started.Load() {
		if err := c.Conn.SetReadDeadline(time.Now().Add(pongWait)); err != nil {
			return 0, err
		}
		return c.Conn.Read(p)
	}
	if c.handshakeLeft <= 0 {
		return 0, errLongHandshake
	}
	n, err := c.Conn.Read(p[:min(len(p), c.handshakeLeft)])
	c.handshakeLeft -= n
	return n, err
}

// discard reads and forgets what still comes, until the peer closes its end or the time is over. To
// close a connection with bytes unread would reset it, and the peer might never see why.
func (c *netConn) discard(buf []byte, until time.Time) {
	if err := c.Conn.SetReadDeadline(until); err != nil {
		return
	}
	for {
		if _, err := c.Conn.Read(buf); err != nil {
			return // the end, or the time is over
		}
	}
}

// SetWriteDeadline is for the handshake; afterwards Flush sets its own.
func (c *netConn) SetWriteDeadline(t time.Time) error {
	if c.started.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetReadDeadline is for the handshake; afterwards Read sets its own.
func (c *netConn) SetReadDeadline(t time.Time) error {
	if c.started.Load() {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}
