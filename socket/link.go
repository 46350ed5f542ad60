package socket

import (
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

const (
	// linkPing is how long a connection may be silent before the peer is asked whether it is there.
	linkPing = 15 * time.Second
	// linkPatience is how long a peer may be silent, or take to read a piece of what it is sent.
	linkPatience = 60 * time.Second
	// maxBacklog is the backlog of a broker's connection, in bytes.
	maxBacklog = 256 << 10
	// linkFarewell is how long a peer may take to read why its connection is closed.
	linkFarewell = 250 * time.Millisecond
	// inlineTurns is how often the goroutine that puts a frame in writes, before it leaves the rest to the
	// connection's writer.
	inlineTurns = 4
)

// epoch is the moment that the broker's times count from.
var epoch = time.Now()

func sinceEpoch() int64 { return int64(time.Since(epoch)) }

// link does the I/O of a broker's or client's connection. Whoever has put something into the outbox calls
// flush, which writes at once as far as the system takes it without waiting; the rest is left to the
// writer goroutine. So the usual message costs no switch of goroutines, and a peer that does not read
// stops nobody but its writer. At any time one goroutine holds the right to write: the outbox gives it, and
// handing over to the writer passes it on.
type link struct {
	conn net.Conn
	tls  *tlsTransport // below conn; nil without TLS
	out  *broker.Outbox

	parcel broker.Parcel                   // of who may write
	try    func([]byte) (n int, err error) // writes without waiting; nil where that is not possible

	// backlog is how many bytes of small frames may wait before nothing more is read: a peer that does not
	// read its refusals gets no more of them. 0 for no limit. Static after the handshake.
	backlog int

	handOver chan struct{} // to the writer; it has room for one
	done     chan struct{} // closed by close
	once     sync.Once
	writer   sync.WaitGroup

	heard atomic.Int64 // when something was read last
	bytes atomic.Uint64
}

// newLink starts the writer of a connection whose handshake is over. out is not yet in use.
func newLink(conn net.Conn, out *broker.Outbox) *link {
	l := &link{conn: conn, tls: transportOf(conn), out: out, try: tryWriter(conn), handOver: make(chan struct{}, 1), done: make(chan struct{})}
	if c, ok := conn.(interface {
		TryWrite(b []byte) (n int, err error)
	}); ok {
		l.try = c.TryWrite
	}
	l.heard.Store(sinceEpoch())
	l.writer.Go(l.write)
	return l
}

// flush makes somebody write what the outbox holds. It does not wait for the network.
func (l *link) flush() {
	ok, shared := l.out.Begin()
	if !ok {
		return
	}
	if l.try == nil {
		l.handOver <- struct{}{}
		return
	}
	if shared {
		runtime.Gosched() // those that are about to put something in do so, and one write takes it all
	}
	for range inlineTurns {
		if !l.out.Take(&l.parcel) {
			return
		}
		for b := l.parcel.Next(0); b != nil; {
			n, err := l.try(b)
			if err != nil {
				l.parcel.Drop()
				l.close() // the reader sees it
				return
			}
			if b = l.parcel.Next(n); n == 0 {
				l.handOver <- struct{}{}
				return
			}
		}
	}
	l.handOver <- struct{}{}
}

// write is the writer: it goes on where flush had to stop.
func (l *link) write() {
	for {
		select {
		case <-l.done:
			return
		case <-l.handOver:
		}
		for more := true; more; more = l.out.Take(&l.parcel) {
			if err := l.writeParcel(); err != nil {
				l.parcel.Drop()
				l.close()
				return
			}
		}
		_ = l.conn.SetWriteDeadline(time.Time{}) // flush sets none, and TLS may write when it reads
	}
}

// writeParcel writes what is left of the parcel.
func (l *link) writeParcel() error {
	// An error means that the connection is closed: the write will say so.
	_ = l.conn.SetWriteDeadline(time.Now().Add(linkPatience))
	if l.tls != nil {
		return l.tls.writeAll(l.conn, l.parcel.Next)
	}
	for b := l.parcel.Next(0); b != nil; {
		n, err := l.conn.Write(b)
		if err != nil {
			return err
		}
		if b = l.parcel.Next(n); b != nil {
			_ = l.conn.SetWriteDeadline(time.Now().Add(linkPatience)) // as above
		}
	}
	return nil
}

// pusher is a connection that hands over what arrives, and is not read. Receive calls take with each piece, one at a time and perhaps from another
// goroutine, until the connection ends or take returns an error, which it returns.
type pusher interface {
	Receive(take func(piece []byte) error) error
}

// read gives every frame that arrives to receive, until the connection ends or receive returns an error.
// What all the frames of one read have put into outboxes goes out at once.
func (l *link) read(receive func(f *broker.Frame, now int64, b *broker.Batch) error) error {
	r := linkReader{link: l, receive: receive}
	defer r.in.Close()
	if p, ok := l.conn.(pusher); ok {
		return p.Receive(r.take)
	}
	for {
		n, err := l.conn.Read(r.in.Space())
		if n > 0 {
			if err := r.arrived(n); err != nil {
				return err
			}
			l.awaitWriter()
		}
		if err != nil {
			return err
		}
	}
}

// linkReader cuts what arrives into frames, and delivers them. One goroutine at a time uses it.
type linkReader struct {
	link    *link
	receive func(f *broker.Frame, now int64, b *broker.Batch) error
	in      broker.Inbox
	batch   broker.Batch
	frame   broker.Frame
}

// take takes a piece of what arrives.
func (r *linkReader) take(piece []byte) error {
	for len(piece) > 0 {
		n := copy(r.in.Space(), piece)
		piece = piece[n:]
		if err := r.arrived(n); err != nil {
			return err
		}
	}
	return nil
}

// arrived delivers the frames that are whole with the n bytes that were read into in's space.
func (r *linkReader) arrived(n int) error {
	now := sinceEpoch()
	r.link.heard.Store(now)
	r.link.bytes.Add(uint64(n))
	r.in.Filled(n)
	err := r.deliver(now)
	r.batch.Flush()
	return err
}

func (r *linkReader) deliver(now int64) error {
	for {
		ok, err := r.in.Next(&r.frame)
		if err != nil || !ok {
			return err
		}
		if err := r.receive(&r.frame, now, &r.batch); err != nil {
			return err
		}
	}
}

// awaitWriter waits while too much waits to be written to this peer.
func (l *link) awaitWriter() {
	for l.backlog > 0 && l.out.Backlog() > l.backlog {
		select {
		case <-l.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// watch looks after a connection that nothing may have come from for a while. It is called now and then.
func (l *link) watch(now int64) {
	silent := time.Duration(now - l.heard.Load())
	switch {
	case silent > linkPatience:
		l.out.Control(frame.GoAway, frame.AppendEnd(nil, frame.Unresponsive, "nothing was heard for "+linkPatience.String()))
		l.flush()
		l.close()
	case silent >= linkPing:
		l.out.Ping()
		l.flush()
	default:
		l.out.Idle() // gives memory back
	}
}

// farewell tells the peer why the connection is closed, and returns when it is likely to have read it. It
// is called by the goroutine that reads.
func (l *link) farewell(code frame.Code, reason string) {
	l.out.Control(frame.GoAway, frame.AppendEnd(nil, code, reason))
	l.flush()
	if l.finish() {
		awaitEnd(l.conn)
	}
}

// awaitEnd says that nothing more comes and waits, not for long, until the peer says so too. A connection
// that is closed with unread bytes is reset, and what was sent last is lost.
func awaitEnd(conn net.Conn) {
	closeWrite(conn)
	_ = conn.SetReadDeadline(time.Now().Add(linkFarewell)) // an error means that it is closed
	_, _ = io.Copy(io.Discard, io.LimitReader(conn, 4<<20))
}

func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // whatever it says, the connection is closed next
	}
}

// finish waits, not for long, until all that was put in is written, and then says that nothing more comes.
// It returns false where the peer does not take it.
func (l *link) finish() bool {
	if !l.await(linkFarewell, l.out.Finish) {
		return false
	}
	closeWrite(l.conn)
	return true
}

// awaitWritten waits until all that was put in is written, and returns false where the peer does not take it in time.
func (l *link) awaitWritten(patience time.Duration) bool { return l.await(patience, l.out.Idle) }

// await waits until idle returns true. It returns false when the patience, or the connection, is over before.
func (l *link) await(patience time.Duration, idle func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !idle(); {
		select {
		case <-tick.C:
		case <-l.done:
			return false
		}
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// close closes the connection, which ends both goroutines.
func (l *link) close() {
	l.once.Do(func() {
		close(l.done)
		if l.tls != nil { // tls.Conn's Close may wait for the peer, to tell it what finish has told it
			_ = l.tls.Close() // nothing depends on it any more
			return
		}
		_ = l.conn.Close() // as above
	})
}

// wait waits for the writer, after close.
func (l *link) wait() { l.writer.Wait() }
