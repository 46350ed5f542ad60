package natsmesh

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
)

const (
	// window is how many bytes of a tunnel may be on their way: what the other broker has not read waits at the NATS server,
	// which cuts off a client that has too much there.
	window = 1 << 20
	// ackEvery is how many bytes are read before that is said, if no data goes back that says it too.
	ackEvery = window / 16
	// chunk is the size of the largest message.
	chunk = 64 << 10
	// inline is the size of the largest message that is dealt with where it arrives.
	inline = 8 << 10
	// prompt is how many bytes the whole mesh may have on their way where a goroutine writes that must not wait: the connection
	// to NATS takes that much without.
	prompt = 64 << 10
)

var (
	errGap          = errors.New("natsmesh: a message is missing")
	errDisconnected = errors.New("natsmesh: the connection to NATS is lost")
	errSilent       = errors.New("natsmesh: nothing was heard of the other broker")
	errLeft         = errors.New("natsmesh: the broker leaves the mesh")
)

// tunnel is a connection to another broker for one channel. Its messages are numbered: one that is missing ends it.
type tunnel struct {
	// Static after construction.
	mesh     *Mesh
	id       uint64
	peer     uuid.UUID
	subject  string // of the other end
	outgoing bool   // this broker sends requests

	mu       sync.Mutex
	moved    sync.Cond          // for Receive and Read: there is something to do
	room     sync.Cond          // for Write: the window has room, or the tunnel has ended
	in       [][]byte           // not yet read
	expected uint64             // number of the next DATA
	take     func([]byte) error // what arrives goes to it; nil before Receive
	taking   bool               // somebody is in take
	refused  error              // what take has returned: nothing more goes to it
	read     uint64             // bytes
	told     uint64             // how many of them the other end knows of
	seq      uint64             // of the last DATA
	sent     uint64             // bytes
	acked    uint64
	err      error // why it has ended
	readBy   time.Time
	writeBy  time.Time

	// Owned by who may write.
	scratch []byte
}

var _ net.Conn = (*tunnel)(nil)

func newTunnel(m *Mesh, id uint64, peer uuid.UUID, outgoing bool) *tunnel {
	t := &tunnel{mesh: m, id: id, peer: peer, subject: m.subjectOf(peer, id), outgoing: outgoing, expected: 1}
	t.moved.L, t.room.L = &t.mu, &t.mu
	return t
}

// receive takes a DATA. A small one, with none before it, is dealt with at once; others are left to the goroutine in Receive: so no
// tunnel holds up the others for long.
func (t *tunnel) receive(h header, data []byte) {
	t.mu.Lock()
	if t.err != nil {
		t.mu.Unlock()
		return
	}
	if h.seq != t.expected {
		t.failLocked(errGap)
		t.mu.Unlock()
		go t.sayClose()
		return
	}
	t.expected++
	t.ackLocked(h.ack)
	if t.take == nil || t.taking || t.refused != nil || len(t.in) > 0 || len(data) > inline {
		if len(data) > 0 {
			t.in = append(t.in, data)
			t.moved.Signal()
		}
		t.mu.Unlock()
		return
	}
	t.taking = true
	t.mu.Unlock()
	t.taken(len(data), t.take(data))
}

// taken notes that somebody has come back from take, and what came of it. It says so to the other end, now and then.
func (t *tunnel) taken(n int, err error) {
	t.mu.Lock()
	t.taking = false
	t.read += uint64(n)
	if err != nil {
		t.refused = err
	}
	tell := t.read-t.told >= ackEvery && t.err == nil
	if tell {
		t.told = t.read
	}
	h := header{kind: kindAck, tunnel: t.id, ack: t.read}
	if err != nil || len(t.in) > 0 || t.err != nil {
		t.moved.Signal()
	}
	t.mu.Unlock()
	if tell {
		if err := t.mesh.publish(t.subject, h.append(nil)); err != nil {
			t.fail(err)
		}
	}
}

// Receive gives everything that arrives to take, until the tunnel has ended, or the deadline of reads is over: it is what reads a tunnel, and called once.
func (t *tunnel) Receive(take func(piece []byte) error) error {
	t.mu.Lock()
	t.take = take
	for {
		for t.taking || t.refused == nil && len(t.in) == 0 && t.err == nil {
			if !t.waitLocked(&t.moved, &t.readBy) {
				t.take = nil
				t.mu.Unlock()
				return os.ErrDeadlineExceeded
			}
		}
		if t.refused != nil || len(t.in) == 0 {
			defer t.mu.Unlock()
			t.take = nil
			return cmp.Or(t.refused, t.err)
		}
		piece := t.in[0]
		t.in[0] = nil
		t.in = t.in[1:]
		t.taking = true
		t.mu.Unlock()
		t.taken(len(piece), take(piece))
		t.mu.Lock()
	}
}

// ack takes what the other end says of what it has read.
func (t *tunnel) ack(n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ackLocked(n)
}

func (t *tunnel) ackLocked(n uint64) {
	if n > t.acked && n <= t.sent {
		t.mesh.flying.Add(int64(t.acked) - int64(n))
		t.acked = n
		t.room.Signal()
	}
}

// end is called when the other end has closed; what came before can be read.
func (t *tunnel) end() { t.fail(io.EOF) }

// fail ends the tunnel. Of several errors the first counts.
func (t *tunnel) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failLocked(err)
}

func (t *tunnel) failLocked(err error) {
	if t.err != nil {
		return
	}
	t.err = err
	if err != io.EOF { //nolint:errorlint // it is ours
		t.in = nil
	}
	t.mesh.flying.Add(int64(t.acked) - int64(t.sent))
	t.acked = t.sent
	t.moved.Signal()
	t.room.Signal()
	t.mesh.forget(t)
}

// Read implements net.Conn, for who waits for the other end to close: nothing is read but that. Receive is what reads.
func (t *tunnel) Read([]byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.err == nil {
		if !t.waitLocked(&t.moved, &t.readBy) {
			return 0, os.ErrDeadlineExceeded
		}
		t.in = nil
	}
	return 0, t.err
}

// waitLocked waits for c. It returns false when the deadline is over.
func (t *tunnel) waitLocked(c *sync.Cond, deadline *time.Time) bool {
	if deadline.IsZero() {
		c.Wait()
		return true
	}
	left := time.Until(*deadline)
	if left <= 0 {
		return false
	}
	timer := time.AfterFunc(left, func() {
		t.mu.Lock()
		c.Signal()
		t.mu.Unlock()
	})
	c.Wait()
	timer.Stop()
	return true
}

// Write implements net.Conn. One goroutine calls it, or TryWrite, at a time.
func (t *tunnel) Write(p []byte) (n int, err error) {
	for n < len(p) {
		t.mu.Lock()
		for t.err == nil && t.sent-t.acked >= window {
			if !t.waitLocked(&t.room, &t.writeBy) {
				t.mu.Unlock()
				return n, os.ErrDeadlineExceeded
			}
		}
		m, err := t.sendLocked(p[n:])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// TryWrite writes what can be written without waiting, 0 bytes where that is nothing.
func (t *tunnel) TryWrite(p []byte) (n int, err error) {
	t.mu.Lock()
	if t.err == nil && (t.sent-t.acked >= window || t.mesh.flying.Load()+int64(len(p)) > prompt) {
		t.mu.Unlock()
		return 0, nil
	}
	return t.sendLocked(p)
}

// sendLocked sends the first of p in one message. It gives mu back.
func (t *tunnel) sendLocked(p []byte) (n int, err error) {
	if t.err != nil {
		defer t.mu.Unlock()
		if t.err == io.EOF { //nolint:errorlint // it is ours
			return 0, net.ErrClosed
		}
		return 0, t.err
	}
	n = min(len(p), int(t.mesh.chunk.Load()), int(window-(t.sent-t.acked)))
	t.seq++
	t.sent += uint64(n)
	t.told = t.read
	t.mesh.flying.Add(int64(n))
	t.scratch = append(header{kindData, t.id, t.seq, t.read}.append(t.scratch[:0]), p[:n]...)
	t.mu.Unlock()
	if err := t.mesh.publish(t.subject, t.scratch); err != nil {
		t.fail(err)
		return 0, err
	}
	return n, nil
}

// Close implements net.Conn. It tells the other end, and does not wait for NATS.
func (t *tunnel) Close() error {
	t.mu.Lock()
	open := t.err == nil
	t.failLocked(net.ErrClosed)
	t.mu.Unlock()
	if open {
		go t.sayClose()
	}
	return nil
}

func (t *tunnel) sayClose() {
	_ = t.mesh.publish(t.subject, header{kind: kindClose, tunnel: t.id}.append(nil)) // without NATS the other end knows by itself
}

// SetDeadline implements net.Conn.
func (t *tunnel) SetDeadline(at time.Time) error {
	return errors.Join(t.SetReadDeadline(at), t.SetWriteDeadline(at))
}

// SetReadDeadline implements net.Conn.
func (t *tunnel) SetReadDeadline(at time.Time) error { return t.setDeadline(&t.moved, &t.readBy, at) }

// SetWriteDeadline implements net.Conn.
func (t *tunnel) SetWriteDeadline(at time.Time) error { return t.setDeadline(&t.room, &t.writeBy, at) }

func (t *tunnel) setDeadline(c *sync.Cond, which *time.Time, at time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	*which = at
	c.Signal()
	return nil
}

// LocalAddr implements net.Conn.
func (t *tunnel) LocalAddr() net.Addr { return addr(t.mesh.id) }

// RemoteAddr implements net.Conn.
func (t *tunnel) RemoteAddr() net.Addr { return addr(t.peer) }

// addr is a broker of the mesh.
type addr uuid.UUID

func (addr) Network() string  { return "nats" }
func (a addr) String() string { return fmt.Sprint("broker ", uuid.UUID(a)) }
