package socket_test

import (
	"context"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// stuckConn is a connection whose writes can be made to hang, as those to a peer that doesn't read do.
type stuckConn struct {
	net.Conn
	stuck   atomic.Bool
	takes   atomic.Int32  // bytes that a stuck write still lets through
	writing chan struct{} // capacity 1: a write hangs
	release chan error    // ends the write that hangs
	closed  chan struct{}
	once    sync.Once

	mu       sync.Mutex
	deadline *time.Timer
	expired  chan struct{} // capacity 1
}

func newStuckConn(c net.Conn) *stuckConn {
	return &stuckConn{
		Conn:    c,
		writing: make(chan struct{}, 1),
		release: make(chan error),
		closed:  make(chan struct{}),
		expired: make(chan struct{}, 1),
	}
}

func (c *stuckConn) Write(p []byte) (int, error) {
	if !c.stuck.Load() {
		return c.Conn.Write(p)
	}
	n := 0
	if takes := int(c.takes.Load()); takes > 0 {
		n, _ = c.Conn.Write(p[:takes])
	}
	c.writing <- struct{}{}
	select {
	case err := <-c.release:
		return n, err
	case <-c.expired:
		return n, os.ErrDeadlineExceeded
	case <-c.closed:
		return n, net.ErrClosed
	}
}

func (c *stuckConn) SetWriteDeadline(d time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.deadline != nil {
		c.deadline.Stop()
	}
	select {
	case <-c.expired:
	default:
	}
	c.deadline = time.AfterFunc(time.Until(d), func() {
		select {
		case c.expired <- struct{}{}:
		default:
		}
	})
	return c.Conn.SetWriteDeadline(d)
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.mu.Lock()
	if c.deadline != nil {
		c.deadline.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// stuckPool dials one connection whose writes can hang; every other dial waits for more to be closed.
type stuckPool struct {
	srv   *sockettest.Server
	first chan *stuckConn // capacity 1
	more  chan struct{}
	n     atomic.Int32
}

func newStuckPool(srv *sockettest.Server) *stuckPool {
	return &stuckPool{srv: srv, first: make(chan *stuckConn, 1), more: make(chan struct{})}
}

func (p *stuckPool) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if p.n.Add(1) == 1 {
		c, err := p.srv.Dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		stuck := newStuckConn(c)
		p.first <- stuck
		return stuck, nil
	}
	select {
	case <-p.more:
		return p.srv.Dial(ctx, network, addr)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hang makes the writes of c hang, and waits until one does that start has begun.
func (c *stuckConn) hang(t *testing.T, start func()) {
	t.Helper()
	c.stuck.Store(true)
	start()
	select {
	case <-c.writing:
	case <-time.After(10 * time.Second):
		t.Fatal("no write hangs")
	}
}
