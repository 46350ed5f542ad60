//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// mishap is what the proxy does to connections. The zero value does nothing.
type mishap struct {
	refuse    bool          // nobody listens, and what was connected is cut off
	silent    bool          // nothing is forwarded, and no connection is closed; when it is over, half of them are, and what they were to forward is lost
	delay     time.Duration // of everything, each way
	scatter   time.Duration // up to that much is added for each connection, so that they overtake each other
	bandwidth int           // bytes a second, each way and connection
	slowReads int           // the same from the client alone
	resets    time.Duration // a connection is reset that often
	status    int           // what a handshake is answered with
	hangUp    bool          // a connection is closed as soon as it was accepted
	garbage   bool          // what the service sends is followed by nonsense

	lifted chan struct{} // closed when it is over
}

// proxy stands between the app and the service.
type proxy struct {
	ctx      context.Context
	addr, to string
	mishap   atomic.Pointer[mishap]

	mu       sync.Mutex // guards what follows
	listener net.Listener
	pairs    map[*pair]struct{}
	running  sync.WaitGroup
}

// pair is a connection of the app and the one to the service that belongs to it.
type pair struct {
	client, server net.Conn
	extra          float64 // its part of scatter
}

func newProxy(ctx context.Context, to string) (*proxy, error) {
	p := &proxy{ctx: ctx, to: to, pairs: make(map[*pair]struct{})}
	p.mishap.Store(&mishap{lifted: make(chan struct{})})
	var err error
	if p.listener, err = listen(ctx, "127.0.0.1:0"); err != nil {
		return nil, err
	}
	p.addr = p.listener.Addr().String()
	listener := p.listener
	p.running.Go(func() { p.accept(listener) })
	return p, nil
}

// suffer puts m in force, in the place of what was.
func (p *proxy) suffer(m mishap) error {
	m.lifted = make(chan struct{})
	old := p.mishap.Swap(&m)
	close(old.lifted)
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.refuse && p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
	}
	if m.refuse || m.status != 0 || m.hangUp { // so that it is noticed
		for c := range p.pairs {
			c.close()
		}
	}
	if !m.refuse && p.listener == nil {
		listener, err := listen(p.ctx, p.addr)
		if err != nil {
			return fmt.Errorf("the proxy can't listen again: %w", err)
		}
		p.listener = listener
		p.running.Go(func() { p.accept(listener) })
	}
	if m.resets > 0 {
		p.running.Go(func() { p.reset(&m) })
	}
	return nil
}

func (p *proxy) close() {
	_ = p.suffer(mishap{refuse: true})
	p.running.Wait()
}

func (p *proxy) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(client) })
	}
}

func (p *proxy) serve(client net.Conn) {
	defer func() { _ = client.Close() }() // the faults are ours
	m := p.mishap.Load()
	switch {
	case m.hangUp:
		return
	case m.status != 0:
		if _, err := http.ReadRequest(bufio.NewReader(client)); err == nil {
			_, _ = fmt.Fprintf(client, "HTTP/1.1 %d %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", m.status, http.StatusText(m.status))
		}
		return
	}
	var dialer net.Dialer
	server, err := dialer.DialContext(p.ctx, "tcp", p.to)
	if err != nil {
		return
	}
	c := &pair{client: client, server: server, extra: rand.Float64()}
	p.mu.Lock()
	if p.mishap.Load().refuse {
		p.mu.Unlock()
		_ = server.Close()
		return
	}
	p.pairs[c] = struct{}{}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pump(c, server, client, false) })
	both.Go(func() { p.pump(c, client, server, true) })
	both.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, c)
}

func (c *pair) close() {
	_ = c.client.Close()
	_ = c.server.Close()
}

// chunk is bytes that are to be forwarded at a time.
type chunk struct {
	data []byte
	due  time.Time
}

// pump forwards from one end to the other.
func (p *proxy) pump(c *pair, to, from net.Conn, fromServer bool) {
	defer c.close()
	chunks := make(chan chunk, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer close(chunks)
		for {
			m := p.mishap.Load()
			size := 32 << 10
			if m.bandwidth > 0 || (m.slowReads > 0 && !fromServer) {
				size = 512
			}
			buf := make([]byte, size)
			n, err := from.Read(buf)
			if n > 0 {
				m = p.mishap.Load()
				due := time.Now().Add(m.delay + time.Duration(c.extra*float64(m.scatter)))
				select {
				case chunks <- chunk{buf[:n], due}:
				case <-ctx.Done():
					return
				}
				p.pace(ctx, n, m.bandwidth)
				if !fromServer {
					p.pace(ctx, n, m.slowReads)
				}
			}
			if err != nil {
				return
			}
		}
	}()
	for next := range chunks {
		wait(ctx, time.Until(next.due))
		for m := p.mishap.Load(); m.silent; m = p.mishap.Load() {
			<-m.lifted
			if c.extra < 0.5 {
				return
			}
		}
		if _, err := to.Write(next.data); err != nil {
			return
		}
		if fromServer && p.mishap.Load().garbage {
			if _, err := to.Write(nonsense()); err != nil {
				return
			}
		}
	}
}

// pace waits as long as n bytes take.
func (p *proxy) pace(ctx context.Context, n, perSecond int) {
	if perSecond > 0 {
		wait(ctx, time.Duration(n)*time.Second/time.Duration(perSecond))
	}
}

// nonsense is a frame that says nothing, or no frame at all.
func nonsense() []byte {
	texts := []string{`{"type":`, `[]`, `null`, `{"replyTo":{},"type":7}`, `{"replyTo":"nobody","type":"error","error":"rate_limit_exceeded"}`}
	switch rand.IntN(20) {
	case 0:
		junk := make([]byte, 64)
		for i := range junk {
			junk[i] = byte(rand.Uint32())
		}
		return junk
	default:
		text := texts[rand.IntN(len(texts))]
		return append([]byte{0x81, byte(len(text))}, text...)
	}
}

// reset resets a connection now and then, as long as m lasts.
func (p *proxy) reset(m *mishap) {
	again := time.NewTicker(m.resets)
	defer again.Stop()
	for {
		select {
		case <-m.lifted:
			return
		case <-again.C:
		}
		p.mu.Lock()
		for c := range p.pairs { // any
			for _, end := range []net.Conn{c.client, c.server} {
				if tcp, ok := end.(*net.TCPConn); ok {
					_ = tcp.SetLinger(0)
				}
			}
			c.close()
			break
		}
		p.mu.Unlock()
	}
}

// wait waits for d, or for ctx.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", addr)
}

// freePort is one that nobody listens on.
func freePort(ctx context.Context) (addr string, err error) {
	listener, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
