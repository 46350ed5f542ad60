package broker

import (
	"sync"
	"sync/atomic"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// frameSize is the size of the largest frame, and of every pooled Buffer: while large frames follow one
// another each fills a buffer exactly, so that it is passed on as it was read.
const frameSize = frame.HeaderSize + frame.MaxPayload

// passOn is the size in bytes from which a payload is passed on with the buffer that it was read into. A
// smaller one is copied, so that what waits to be sent holds at most twice its own size.
const passOn = 32 << 10

// Buffer is a piece of memory that several goroutines may read and that returns to the pool when the last
// of them has released it.
type Buffer struct {
	B    []byte // frameSize bytes
	refs atomic.Int32
}

var buffers = sync.Pool{New: func() any { return &Buffer{B: make([]byte, frameSize)} }}

// NewBuffer returns a buffer with one reference. What it holds is undefined.
func NewBuffer() *Buffer {
	b := buffers.Get().(*Buffer)
	b.refs.Store(1)
	return b
}

func (b *Buffer) retain() { b.refs.Add(1) }

// Release gives up one reference. b may be nil.
func (b *Buffer) Release() {
	if b != nil && b.refs.Add(-1) == 0 {
		buffers.Put(b)
	}
}

func (b *Buffer) shared() bool { return b.refs.Load() > 1 }

// segment is a piece of a queue: bytes, and the buffer that they are in, if it is a pooled one.
type segment struct {
	data []byte
	buf  *Buffer
}

// segments is a queue of segments that keeps its memory. It is not to be copied.
type segments struct {
	list  []segment
	head  int
	small [1]segment // the first list, enough for most
}

func (q *segments) len() int        { return len(q.list) - q.head }
func (q *segments) first() *segment { return &q.list[q.head] }
func (q *segments) last() *segment  { return &q.list[len(q.list)-1] }

func (q *segments) push(s segment) {
	if q.head > 0 && len(q.list) == cap(q.list) {
		n := copy(q.list, q.list[q.head:])
		clear(q.list[n:])
		q.list, q.head = q.list[:n], 0
	}
	if q.list == nil {
		q.list = q.small[:0]
	}
	q.list = append(q.list, s)
	if len(q.list) == 2 {
		q.small[0] = segment{} // the list has moved
	}
}

func (q *segments) pop() segment {
	s := q.list[q.head]
	q.list[q.head] = segment{}
	if q.head++; q.head == len(q.list) {
		q.list, q.head = q.list[:0], 0
	}
	return s
}

func (q *segments) drop() {
	for q.len() > 0 {
		q.pop().buf.Release()
	}
	q.list = nil
}
