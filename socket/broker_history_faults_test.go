package socket_test

import (
	"encoding/binary"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// The directions of a proxied connection.
const (
	toServer = iota
	toClient
)

// faultyProxy passes connections on to a broker, and is a bad network to them once it is armed. What happens to
// a connection follows from the seed, the number of the connection and the bytes that were passed.
type faultyProxy struct {
	listener net.Listener
	target   string
	seed     uint64
	number   uint64

	armed atomic.Bool
	quiet chan struct{} // closed by calm
	once  sync.Once
	held  [2]atomic.Int64 // until when a direction is held, of all connections
	wg    sync.WaitGroup

	mu    sync.Mutex
	links map[*faultyLink]struct{} // nil once stopped
}

func newFaultyProxy(t *testing.T, target string, seed, number uint64) *faultyProxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultyProxy{
		listener: listener, target: target, seed: seed, number: number,
		quiet: make(chan struct{}), links: map[*faultyLink]struct{}{},
	}
	p.wg.Go(p.accept)
	t.Cleanup(p.stop)
	return p
}

func (p *faultyProxy) addr() string { return p.listener.Addr().String() }

// arm begins the faults.
func (p *faultyProxy) arm() {
	p.armed.Store(true)
	p.wg.Go(p.partition)
}

// calm ends them.
func (p *faultyProxy) calm() {
	p.armed.Store(false)
	p.once.Do(func() { close(p.quiet) })
}

// stop ends all connections.
func (p *faultyProxy) stop() {
	_ = p.listener.Close()
	p.mu.Lock()
	for l := range p.links {
		l.close()
	}
	p.links = nil
	p.mu.Unlock()
	p.wg.Wait()
}

// partition holds what is on its way, of all connections, in one direction or both, now and then.
func (p *faultyProxy) partition() {
	random := rand.New(rand.NewPCG(p.seed, 1<<50+p.number))
	for pause(between(random, 200*time.Millisecond, 1200*time.Millisecond), p.quiet) {
		d := between(random, 10*time.Millisecond, 300*time.Millisecond)
		directions := 1 + random.IntN(3)
		for direction := range p.held {
			if directions>>direction&1 != 0 {
				p.hold(direction, d)
			}
		}
	}
}

// hold holds one direction of all connections.
func (p *faultyProxy) hold(direction int, d time.Duration) {
	p.held[direction].Store(time.Now().Add(d).UnixNano())
}

func (p *faultyProxy) accept() {
	for number := uint64(0); ; number++ {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(conn.(*net.TCPConn), number) })
	}
}

func (p *faultyProxy) serve(client *net.TCPConn, number uint64) {
	conn, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	l := &faultyLink{proxy: p, ends: [2]*net.TCPConn{toServer: conn.(*net.TCPConn), toClient: client}, done: make(chan struct{})}
	defer l.close()
	p.mu.Lock()
	stopped := p.links == nil
	if !stopped {
		p.links[l] = struct{}{}
	}
	p.mu.Unlock()
	if stopped {
		return
	}
	var wg sync.WaitGroup
	for direction := range l.ends {
		random := rand.New(rand.NewPCG(p.seed, 1<<51+p.number<<40+number<<1+uint64(direction)))
		pump := &faultyPump{link: l, direction: direction, random: random}
		pump.draw()
		wg.Go(pump.run)
	}
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// faultyLink is one connection.
type faultyLink struct {
	proxy *faultyProxy
	ends  [2]*net.TCPConn // by the direction that writes to it
	held  [2]atomic.Int64
	torn  atomic.Bool // one end is gone, and the other is not told yet
	once  sync.Once
	done  chan struct{}
}

func (l *faultyLink) close() {
	l.once.Do(func() {
		close(l.done)
		for _, c := range l.ends {
			_ = c.Close()
		}
	})
}

// reset ends one end the hard way.
func (l *faultyLink) reset(direction int) {
	_ = l.ends[direction].SetLinger(0)
	_ = l.ends[direction].Close()
}

// fault is what happens to a connection at a certain byte.
type fault int

const (
	faultDelay     fault = iota // of what comes next, for some milliseconds
	faultTrickle                // what comes next goes byte by byte
	faultHold                   // this direction is held
	faultHoldBoth               // both are
	faultReset                  // the connection is reset, to both ends
	faultTear                   // it is reset to one end; the other learns it later
	faultHalfClose              // this direction is closed
	faultCut                    // the connection is closed in the middle of a frame
)

// faultyPump passes on one direction of a connection.
type faultyPump struct {
	link      *faultyLink
	direction int
	random    *rand.Rand
	frames    frameTracker

	next    fault
	left    int // bytes until it happens
	trickle int // bytes that go one by one
}

// draw chooses the next fault, and how many bytes later it comes: up to some MiB, now and then a few, which
// may be in the handshake.
func (p *faultyPump) draw() {
	p.next = fault(weighted(p.random, 35, 30, 12, 6, 4, 4, 4, 5))
	least := math.Log(1 << 10)
	if p.random.IntN(8) == 0 {
		least = 0
	}
	p.left = int(math.Exp(least + p.random.Float64()*(math.Log(8<<20)-least)))
}

func (p *faultyPump) run() {
	from, to := p.link.ends[1-p.direction], p.link.ends[p.direction]
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !p.pass(to, buf[:n]) {
			return
		}
		switch {
		case err == io.EOF:
			_ = to.CloseWrite() // the other direction goes on until its end
			return
		case err != nil:
			p.fail()
			return
		}
	}
}

// fail ends the connection because one end has failed.
func (p *faultyPump) fail() {
	if !p.link.torn.Load() {
		p.link.close()
	}
}

// pass writes b, and lets happen what is due meanwhile. It says whether the direction goes on.
func (p *faultyPump) pass(to *net.TCPConn, b []byte) bool {
	for len(b) > 0 {
		p.wait()
		n := len(b)
		if p.link.proxy.armed.Load() {
			n = min(n, p.left)
			p.left -= n
			if p.trickle > 0 && n > 1 {
				p.left += n - 1
				n = 1
				p.trickle--
			}
			if p.left == 0 && p.next == faultCut {
				n = p.frames.insideOf(b[:n])
			}
		}
		if _, err := to.Write(b[:n]); err != nil {
			p.fail()
			return false
		}
		p.frames.feed(b[:n])
		b = b[n:]
		if p.link.proxy.armed.Load() && p.left == 0 {
			if !p.happen() {
				return false
			}
			p.draw()
		}
	}
	return true
}

// wait waits while the direction is held.
func (p *faultyPump) wait() {
	for {
		until := max(p.link.held[p.direction].Load(), p.link.proxy.held[p.direction].Load())
		left := time.Until(time.Unix(0, until))
		if left <= 0 || !pause(left, p.link.done) {
			return
		}
	}
}

// happen makes the next fault happen, and says whether the direction goes on.
func (p *faultyPump) happen() bool {
	l := p.link
	hold := between(p.random, 10*time.Millisecond, 300*time.Millisecond)
	switch p.next {
	case faultDelay:
		l.held[p.direction].Store(time.Now().Add(hold / 15).UnixNano())
	case faultTrickle:
		p.trickle = 1 + p.random.IntN(100)
	case faultHold:
		l.held[p.direction].Store(time.Now().Add(hold).UnixNano())
	case faultHoldBoth:
		for direction := range l.held {
			l.held[direction].Store(time.Now().Add(hold).UnixNano())
		}
	case faultReset:
		l.reset(toServer)
		l.reset(toClient)
		return false
	case faultTear:
		l.torn.Store(true)
		l.reset(p.random.IntN(2))
		pause(hold, l.proxy.quiet)
		l.close()
		return false
	case faultHalfClose:
		_ = l.ends[p.direction].CloseWrite()
		return false
	case faultCut:
		l.close()
		return false
	}
	return true
}

// frameTracker knows where in a frame a stream of bytes is.
type frameTracker struct {
	header []byte // what has come of one
	left   int    // of the payload
}

func (f *frameTracker) feed(b []byte) {
	for len(b) > 0 {
		n := min(f.left, len(b))
		if f.left -= n; n == 0 {
			n = min(frame.HeaderSize-len(f.header), len(b))
			f.header = append(f.header, b[:n]...)
			if len(f.header) == frame.HeaderSize {
				f.left, f.header = int(binary.BigEndian.Uint32(f.header)), f.header[:0]
			}
		}
		b = b[n:]
	}
}

// insideOf returns how much of b to write to stop inside a frame: all of it, or one byte less.
func (f *frameTracker) insideOf(b []byte) int {
	after := frameTracker{header: slices.Clone(f.header), left: f.left}
	after.feed(b)
	if after.left == 0 && len(after.header) == 0 {
		return len(b) - 1
	}
	return len(b)
}
