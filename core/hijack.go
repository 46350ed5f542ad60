package core

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"runtime"
	"sync"
	"syscall"
)

// Hijack takes over the connection below w. The call then lasts until the connection is closed, also when the
// handler has returned before. What is said on the connection is not HTTP any more: the call's status is 101, unless another
// went out before.
func (c *Call) Hijack(w http.ResponseWriter) (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil || c == nil {
		return conn, rw, err
	}
	c.Answered(http.StatusSwitchingProtocols)
	c.mu.Lock()
	c.hijacked = true
	c.mu.Unlock()
	h := &hijackedConn{Conn: conn, call: c}
	// A connection that is thrown away without a Close, after a panic for one, is closed by the collector.
	runtime.AddCleanup(h, (*Call).connectionClosed, c)
	return h, rw, nil
}

func (c *Call) connectionClosed() {
	c.mu.Lock()
	c.hijacked = false
	c.finishLocked()
}

// hijackedConn is a connection whose Close ends its call.
type hijackedConn struct {
	net.Conn
	call *Call
	once sync.Once
}

func (h *hijackedConn) Close() error {
	err := h.Conn.Close()
	h.once.Do(h.call.connectionClosed)
	return err
}

// NetConn returns the connection below, as tls.Conn does. Closing that one does not end the call.
func (h *hijackedConn) NetConn() net.Conn { return h.Conn }

// ReadFrom keeps the system's fast path for copies into the connection.
func (h *hijackedConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(h.Conn, r) }

// CloseWrite closes the sending half, where the connection has one.
func (h *hijackedConn) CloseWrite() error {
	if half, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return http.ErrNotSupported
}

// SyscallConn implements syscall.Conn, where the connection does.
func (h *hijackedConn) SyscallConn() (syscall.RawConn, error) {
	if c, ok := h.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, http.ErrNotSupported
}
