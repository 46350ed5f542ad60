package brokersystem

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
)

// idsConn is the least that goroutines can share a connection with: who is the last to write sends what the others
// have left in the buffer, and one goroutine hands out the answers.
type idsConn struct {
	in      *bufio.Reader
	idle    sync.Pool    // of *idsCall
	writing atomic.Int32 // calls that write or wait to

	mu    sync.Mutex
	out   *bufio.Writer
	last  uint64
	calls map[uint64]*idsCall
	err   error // why nothing is read any more
}

type idsCall struct {
	answer []byte
	done   chan error
}

var _ brokerload.Caller = (*idsConn)(nil)

func dialIDs(cfg Config, at Endpoint) (brokerload.Client, error) {
	return brokerload.Connect(cfg.Conns, cfg.InFlight, func() (*idsConn, error) {
		nc, err := net.Dial("tcp", at.Clients)
		if err != nil {
			return nil, err
		}
		c := &idsConn{
			in: bufio.NewReaderSize(nc, bufferSize), out: bufio.NewWriterSize(nc, bufferSize),
			calls: make(map[uint64]*idsCall),
			idle:  sync.Pool{New: func() any { return &idsCall{done: make(chan error, 1)} }},
		}
		go func() {
			defer nc.Close()
			c.fail(c.receive())
		}()
		return c, nil
	})
}

// Call implements brokerload.Caller.
func (c *idsConn) Call(payload, answer []byte) error {
	call := c.idle.Get().(*idsCall)
	defer c.idle.Put(call)
	call.answer = answer
	if err := c.send(call, payload); err != nil {
		return err
	}
	return <-call.done
}

func (c *idsConn) send(call *idsCall, payload []byte) error {
	stream, err := c.open(call)
	if err != nil {
		return err
	}
	return c.write(header{flags: flagEnd, stream: stream}, payload)
}

func (c *idsConn) open(call *idsCall) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	c.last++
	c.calls[c.last] = call
	return c.last, nil
}

func (c *idsConn) write(h header, payload []byte) error {
	c.writing.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	err := writeFrame(c.out, h, payload)
	if c.writing.Add(-1) == 0 && err == nil {
		err = c.out.Flush()
	}
	return err
}

// Upload implements brokerload.Caller.
func (c *idsConn) Upload(size int64) (int64, error) {
	call := &idsCall{answer: make([]byte, countSize), done: make(chan error, 1)}
	stream, err := c.open(call)
	if err != nil {
		return 0, err
	}
	source, block := brokerload.Source(size), make([]byte, brokerload.Block)
	for left := size; left > 0; {
		n, err := io.ReadFull(source, block[:min(left, brokerload.Block)])
		if err != nil {
			return 0, err
		}
		left -= int64(n)
		h := header{stream: stream}
		if left == 0 {
			h.flags = flagEnd
		}
		if err := c.write(h, block[:n]); err != nil {
			return 0, err
		}
	}
	err = <-call.done
	return int64(binary.LittleEndian.Uint64(call.answer)), err
}

func (c *idsConn) receive() error {
	for {
		h, frame, err := peekFrame(c.in)
		if err != nil {
			return err
		}
		c.mu.Lock()
		call := c.calls[h.stream]
		delete(c.calls, h.stream)
		c.mu.Unlock()
		if call == nil {
			return fmt.Errorf("an answer to the unknown request %d", h.stream)
		}
		call.done <- fill(call.answer, frame[headerSize:])
		if _, err := c.in.Discard(len(frame)); err != nil {
			return err
		}
	}
}

// fail ends all calls.
func (c *idsConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = fmt.Errorf("read: %w", err)
	for _, call := range c.calls {
		call.done <- c.err
	}
	clear(c.calls)
}

// fill copies an answer to where it is wanted, if it has the size for that.
func fill(answer, got []byte) error {
	if len(got) != len(answer) {
		return fmt.Errorf("%d bytes were answered, not %d", len(got), len(answer))
	}
	copy(answer, got)
	return nil
}
