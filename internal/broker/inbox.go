package broker

import "github.com/usageflow/usageflow-go-middleware/internal/frame"

// Frame is one that was read. It is valid until the next call of Inbox.Space.
type Frame struct {
	frame.Header
	Payload []byte
	raw     []byte  // header and payload
	buf     *Buffer // that raw is in; nil for one that cannot be retained
}

const (
	// smallSpace is the size of the buffer that a quiet connection is read into.
	smallSpace = 2 << 10
	// quietReads is how many small reads in a row make a connection quiet.
	quietReads = 16
)

// Inbox cuts what is read from a connection into frames. It belongs to the goroutine that reads.
//
//	n, err := conn.Read(in.Space())
//	in.Filled(n)
//	for { ok, err := in.Next(&f) … }
type Inbox struct {
	space []byte  // what is read into: small, or buf.B
	buf   *Buffer // nil while quiet
	r, w  int     // space[r:w] is unread
	small int     // small reads in a row
	quiet []byte
}

// Space returns where to read to, never empty.
func (in *Inbox) Space() []byte {
	left := in.space[in.r:in.w]
	switch {
	case in.buf == nil && len(left) == 0 && in.small >= 0:
		if in.quiet == nil {
			in.quiet = make([]byte, smallSpace)
		}
		in.space, in.r, in.w = in.quiet, 0, 0
	case in.buf == nil || in.buf.shared():
		next := NewBuffer()
		in.w = copy(next.B, left)
		in.buf.Release()
		in.buf, in.space, in.r = next, next.B, 0
	case len(left) == 0 && in.small >= quietReads:
		in.Close()
		in.small = 0
		return in.Space()
	case in.r > 0:
		in.r, in.w = 0, copy(in.space, left)
	}
	return in.space[in.w:]
}

// Filled says that n bytes were read into what Space returned.
func (in *Inbox) Filled(n int) {
	in.w += n
	switch {
	case in.buf == nil && in.w == len(in.space):
		in.small = -1 // there is more than fits
	case in.buf == nil:
		in.small = 0
	case n < smallSpace/2:
		in.small++
	default:
		in.small = 0
	}
}

// Next reads the next whole frame into f and says whether there was one. An error means that what
// arrives is not of the protocol.
func (in *Inbox) Next(f *Frame) (ok bool, err error) {
	b := in.space[in.r:in.w]
	if len(b) < frame.HeaderSize {
		return false, nil
	}
	if f.Header, err = frame.ParseHeader(b); err != nil {
		return false, err
	}
	size := frame.HeaderSize + int(f.Length)
	if len(b) < size {
		return false, nil
	}
	f.raw, f.buf = b[:size:size], in.buf
	f.Payload = f.raw[frame.HeaderSize:]
	in.r += size
	return true, nil
}

// Close gives the memory back.
func (in *Inbox) Close() {
	in.buf.Release()
	in.buf, in.space, in.r, in.w = nil, nil, 0, 0
}
