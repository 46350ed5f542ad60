package sockettest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
)

// gateListener wraps accepted connections into gateConns.
type gateListener struct {
	net.Listener
	readBuffer int
}

func (l *gateListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok && l.readBuffer > 0 {
		_ = tcp.SetReadBuffer(l.readBuffer) // a hint, as documented
	}
	return &gateConn{Conn: c, done: make(chan struct{})}, nil
}

// gateConn is a connection whose reading can be stopped from outside.
type gateConn struct {
	net.Conn
	done      chan struct{} // closed by Close
	closeOnce sync.Once

	mu      sync.Mutex
	stopped chan struct{} // closed when reading goes on; nil while nothing is stopped
}

// Read holds back what a read that was under way when reading was stopped has brought: one buffer of it
// leaves the kernel, and goes no further.
func (c *gateConn) Read(p []byte) (int, error) {
	if !c.wait() {
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p)
	if n > 0 && !c.wait() {
		return 0, net.ErrClosed
	}
	return n, err
}

// Close is idempotent.
func (c *gateConn) Close() error {
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		close(c.done)
		err = c.Conn.Close()
	})
	return err
}

// reset closes the connection with an RST where there is TCP to send one.
func (c *gateConn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

func (c *gateConn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped == nil {
		c.stopped = make(chan struct{})
	}
}

func (c *gateConn) resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped != nil {
		close(c.stopped)
		c.stopped = nil
	}
}

// wait returns true when reading is allowed, and false when the connection was closed.
func (c *gateConn) wait() bool {
	for {
		c.mu.Lock()
		stopped := c.stopped
		c.mu.Unlock()
		if stopped == nil {
			return true
		}
		select {
		case <-stopped:
		case <-c.done:
			return false
		}
	}
}

// pipeListener is a listener whose connections are in-memory pipes.
type pipeListener struct {
	conns     chan net.Conn
	done      chan struct{}
	closeOnce sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.done:
		return nil, fmt.Errorf("sockettest: %w", syscall.ECONNREFUSED)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.closeOnce.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return inMemoryAddr }
