package load

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
	"time"
)

// silence is how long all connections together may go without an answer.
const silence = 20 * time.Second

// generator owns the sockets. They block: one is read only when there is something to read, and the
// server takes what is written.
type generator struct {
	epoll   int
	clients map[int32]*client // by descriptor
	buf     []byte
	done    int
	busy    int // requests without an answer
}

type client struct {
	fd      int
	request []byte
	partial []byte // the beginning of a response
}

func dial(c Client) (*generator, error) {
	addr, err := net.ResolveTCPAddr("tcp4", c.Addr)
	if err != nil {
		return nil, err
	}
	to := &syscall.SockaddrInet4{Port: addr.Port}
	copy(to.Addr[:], addr.IP.To4())
	g := &generator{clients: make(map[int32]*client), buf: make([]byte, 64<<10)}
	if g.epoll, err = syscall.EpollCreate1(syscall.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	for i := range c.Conns {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			g.close()
			return nil, fmt.Errorf("socket: %w", err)
		}
		g.clients[int32(fd)] = &client{fd: fd, request: c.Requests[i%len(c.Requests)]}
		err = errors.Join(
			syscall.Connect(fd, to),
			syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1),
			syscall.EpollCtl(g.epoll, syscall.EPOLL_CTL_ADD, fd, &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(fd)}),
		)
		if err != nil {
			g.close()
			return nil, fmt.Errorf("connect: %w", err)
		}
	}
	return g, nil
}

func (g *generator) close() {
	for _, c := range g.clients {
		_ = syscall.Close(c.fd)
	}
	_ = syscall.Close(g.epoll)
}

// run sends until d has passed; every request that was sent by then is still answered.
func (g *generator) run(d time.Duration) (Result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, start := g.done, time.Now()
	err := g.exchange(start.Add(d))
	end := time.Now()
	return Result{Requests: g.done - before, Elapsed: end.Sub(start), End: end}, err
}

func (g *generator) exchange(end time.Time) error {
	for _, c := range g.clients {
		if err := g.send(c); err != nil {
			return err
		}
	}
	events := make([]syscall.EpollEvent, len(g.clients))
	for g.busy > 0 {
		n, err := syscall.EpollWait(g.epoll, events, int(silence.Milliseconds()))
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		if n == 0 {
			return fmt.Errorf("no answer in %v", silence)
		}
		again := time.Now().Before(end)
		for _, e := range events[:n] {
			c := g.clients[e.Fd]
			answered, err := g.receive(c)
			if err == nil && answered && again {
				err = g.send(c)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (g *generator) send(c *client) error {
	g.busy++
	for rest := c.request; len(rest) > 0; {
		n, err := syscall.Write(c.fd, rest)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return fmt.Errorf("write: %w", err)
		}
		rest = rest[max(n, 0):]
	}
	return nil
}

// receive reads once, and reports whether the response is complete.
func (g *generator) receive(c *client) (bool, error) {
	n, err := syscall.Read(c.fd, g.buf)
	if errors.Is(err, syscall.EINTR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	if n == 0 {
		return false, errors.New("the server has closed a connection")
	}
	response := g.buf[:n]
	if len(c.partial) > 0 {
		c.partial = append(c.partial, response...)
		response = c.partial
	}
	size, err := responseSize(response)
	if err != nil {
		return false, err
	}
	if size < 0 || len(response) < size {
		if len(c.partial) == 0 {
			c.partial = append(c.partial, response...)
		}
		return false, nil
	}
	if len(response) > size {
		return false, errors.New("bytes after the response")
	}
	c.partial = c.partial[:0]
	g.done++
	g.busy--
	return true, nil
}
