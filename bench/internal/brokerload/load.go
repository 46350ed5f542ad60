// Package brokerload is what the broker benchmark does to every system: it keeps requests in flight, times
// each of them, and compares each answer with what was sent.
package brokerload

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// A Client is the client's side of a system, connected.
type Client interface {
	// Echo starts the workers of a lap with Lap.Go. They are to end soon after Lap.Stopped.
	Echo(lap *Lap)
	// Upload sends size bytes one way, over one connection, and returns how many of them the provider has seen.
	Upload(size int64) (int64, error)
}

// A Result counts requests with the right answer; a lap with any other has none. Elapsed runs until the last answer.
type Result struct {
	Requests int
	Elapsed  time.Duration
	P50, P99 time.Duration
}

// Run makes a lap of about d with payloads of size bytes.
func Run(c Client, size int, d time.Duration) (Result, error) {
	lap := &Lap{size: size}
	timer := time.AfterFunc(d, lap.end)
	defer timer.Stop()
	start := time.Now()
	c.Echo(lap)
	lap.wg.Wait()
	elapsed := time.Since(start)
	var (
		all  Latencies
		errs []error
	)
	for _, w := range lap.workers {
		errs = append(errs, w.err)
		all.Merge(&w.latencies)
	}
	if err := errors.Join(errs...); err != nil {
		return Result{}, err
	}
	return Result{Requests: all.Count(), Elapsed: elapsed, P50: all.Quantile(0.50), P99: all.Quantile(0.99)}, nil
}

// A Lap is one run of all workers.
type Lap struct {
	size    int
	workers []*Worker
	wg      sync.WaitGroup
	stopped atomic.Bool
}

// Stopped reports whether no more requests are to be sent: time is up, or a worker has failed.
func (l *Lap) Stopped() bool { return l.stopped.Load() }

func (l *Lap) end() { l.stopped.Store(true) }

// Go runs fn on a goroutine with a worker of its own. It is called by one goroutine, before any wait.
func (l *Lap) Go(fn func(w *Worker) error) {
	w := newWorker(len(l.workers), l.size)
	l.workers = append(l.workers, w)
	l.wg.Go(func() {
		if w.err = fn(w); w.err != nil {
			l.end()
		}
	})
}

// A Caller is a connection that goroutines share.
type Caller interface {
	// Call sends payload and fills answer, which has payload's length and capacity for one byte more. It fails if the
	// answer that came has another length. It is safe for concurrent use, and keeps neither slice.
	Call(payload, answer []byte) error
	// Upload is Client.Upload.
	Upload(size int64) (int64, error)
}

// Calls is a Client of Callers, with InFlight goroutines on each that call one after the other.
type Calls struct {
	Conns    []Caller
	InFlight int
}

var _ Client = Calls{}

// Connect calls dial for each of n connections.
func Connect[C Caller](n, inFlight int, dial func() (C, error)) (Client, error) {
	c := Calls{InFlight: inFlight}
	for i := range n {
		conn, err := dial()
		if err != nil {
			return nil, fmt.Errorf("connection %d: %w", i, err)
		}
		c.Conns = append(c.Conns, conn)
	}
	return c, nil
}

// Echo implements Client.
func (c Calls) Echo(lap *Lap) {
	for _, conn := range c.Conns {
		for range c.InFlight {
			lap.Go(func(w *Worker) error {
				for !lap.Stopped() {
					if err := w.call(conn); err != nil {
						return err
					}
				}
				return nil
			})
		}
	}
}

// Upload implements Client.
func (c Calls) Upload(size int64) (int64, error) { return c.Conns[0].Upload(size) }

// Block is the size of the pieces in which bulk data is made and read.
const Block = 64 << 10

// Source is size bytes to upload.
func Source(size int64) io.Reader {
	p := &pattern{}
	for i := range p.block {
		p.block[i] = byte(i*7 + i>>8)
	}
	return io.LimitReader(p, size)
}

// pattern repeats one block for ever, copied from memory as a cached file would be.
type pattern struct {
	block [Block]byte
	at    int
}

func (p *pattern) Read(b []byte) (int, error) {
	n := copy(b, p.block[p.at:])
	p.at = (p.at + n) % Block
	return n, nil
}

// Drain reads r to its end and returns how much there was. It reads as an application would that looks at what it gets: into
// a buffer, where io.Copy could hand the bytes to a short-cut of the reader.
func Drain(r io.Reader, buf []byte) (int64, error) {
	var total int64
	for {
		n, err := r.Read(buf)
		total += int64(n)
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}
