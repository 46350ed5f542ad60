package socket

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
)

// tlsTransport is the connection below a tls.Conn. TLS reads and writes one record of at most 16 KiB at a
// time; a tlsTransport reads ahead while there is much to read, and lets many records go out at once.
type tlsTransport struct {
	net.Conn

	// Of the goroutine that reads.
	busy  bool           // the last read brought as much as was asked for
	buf   *broker.Buffer // nil while not busy
	ahead []byte         // unread, in buf

	mu   sync.Mutex
	cork bool
	held []byte // written while corked
}

// secure returns conn as what a tls.Conn is made of.
func secure(conn net.Conn) *tlsTransport { return &tlsTransport{Conn: conn} }

// transportOf returns what is below conn, nil for one without TLS.
func transportOf(conn net.Conn) *tlsTransport {
	if c, ok := conn.(*tls.Conn); ok {
		t, _ := c.NetConn().(*tlsTransport)
		return t
	}
	return nil
}

// Read reads what was read ahead, or what arrives.
func (t *tlsTransport) Read(p []byte) (int, error) {
	if len(t.ahead) == 0 {
		if !t.busy {
			n, err := t.Conn.Read(p)
			t.busy = n == len(p)
			return n, err
		}
		if t.buf == nil {
			t.buf = broker.NewBuffer()
		}
		n, err := t.Conn.Read(t.buf.B)
		if n == 0 {
			return 0, err
		}
		t.ahead, t.busy = t.buf.B[:n], n > len(p)
	}
	n := copy(p, t.ahead)
	if t.ahead = t.ahead[n:]; len(t.ahead) == 0 && !t.busy {
		t.buf.Release()
		t.buf = nil
	}
	return n, nil
}

// corkBuffers hold what is held back: up to a parcel and the records' own bytes.
var corkBuffers = sync.Pool{New: func() any { return new([]byte) }}

// Write writes p, or keeps it while t is corked.
func (t *tlsTransport) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cork {
		t.held = append(t.held, p...)
		return len(p), nil
	}
	return t.Conn.Write(p)
}

// writeAll writes the pieces that next returns through conn, whose transport t is, in one write of the system.
func (t *tlsTransport) writeAll(conn net.Conn, next func(written int) []byte) error {
	buf := corkBuffers.Get().(*[]byte)
	t.mu.Lock()
	t.cork, t.held = true, (*buf)[:0]
	t.mu.Unlock()
	var err error
	for b := next(0); b != nil && err == nil; b = next(len(b)) {
		_, err = conn.Write(b)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.held) > 0 {
		_, writeErr := t.Conn.Write(t.held)
		err = errors.Join(err, writeErr)
	}
	*buf = t.held
	t.cork, t.held = false, nil
	corkBuffers.Put(buf)
	return err
}
