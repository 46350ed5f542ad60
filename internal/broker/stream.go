package broker

import (
	"io"
	"sync"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// maxMessage is how much of the message of a failure is kept, in bytes.
const maxMessage = 1 << 20

// Owner is what a stream belongs to.
type Owner interface {
	// Ended is called once, without locks, when the stream is over for the sender: the peer or the
	// relay has ended it, its time is over, or End was called.
	Ended(error)
}

// Stream is a client's side of a request: what it sends, and what it receives. Reading and sending may
// go on at once, each in one goroutine; End may be called at any time.
type Stream struct {
	ID       uuid.UUID
	Metadata map[string]string
	// Owner is told of the stream's end. Set before the stream is used; may be nil.
	Owner Owner

	endpoint *Endpoint
	deadline deadline // guarded by Endpoint.clock
	send     sender   // guarded by Endpoint.Out.mu

	mu      sync.Mutex
	changed sync.Cond // of what is below

	received segments
	began    bool   // a HEAD has come; true for a request from its OPEN on
	failing  bool   // the rest is the message of a failure
	message  []byte // of it
	fin      error  // how what is received ends, after what is in received
	err      error  // ended here: nothing more is received or sent
	failed   bool   // fail was called: nothing more is received

	granted int64 // bytes that the peer may still send
	window  int64 // bytes that it may send ahead of the reader
	eaten   int64 // bytes that were read and not granted again
	starved bool  // the reader has waited since the last grant
	allow   int64 // bytes that may be sent
	sealed  bool  // the last byte was sent
	over    bool  // the owner was told of the end, or is about to be
}

func (s *Stream) due() *deadline { return &s.deadline }

func (s *Stream) init(e *Endpoint, id uuid.UUID, at int64) {
	s.ID, s.endpoint, s.deadline.at = id, e, at
	s.changed.L = &s.mu
	s.granted, s.window, s.allow = frame.InitialWindow, frame.InitialWindow, frame.InitialWindow
}

// Deadline returns when the stream's time is over.
func (s *Stream) Deadline() int64 { return s.deadline.at }

// receive takes an OPEN's, HEAD's or DATA's data.
func (s *Stream) receive(f *Frame, b *Batch) error {
	n := int64(len(f.Payload))
	ended := f.Flags&frame.FlagEnd != 0
	over := ended && s.endpoint.role == frame.Consumer
	if over {
		s.leave() // before anybody can see the end, who may then send the next request
	}
	s.mu.Lock()
	if unread := s.err != nil || s.failed; unread {
		s.mu.Unlock()
		return nil
	}
	if err := s.check(f); err != nil {
		s.mu.Unlock()
		if over {
			s.fail(ErrLost) // the connection is about to end, and does not know it any more
		}
		return err
	}
	s.failing = s.failing || f.Flags&frame.FlagError != 0
	s.began = true
	s.granted -= n
	var grant uint32
	if s.failing {
		s.message = append(s.message, f.Payload[:min(len(f.Payload), maxMessage-len(s.message))]...)
		grant = s.eat(n)
	} else if n > 0 {
		s.keep(f)
	}
	if ended {
		s.fin = io.EOF
		if s.failing {
			s.fin = &Failure{Message: string(s.message)}
		}
	}
	s.changed.Broadcast()
	s.mu.Unlock()
	if grant > 0 && !ended {
		s.grant(grant)
		b.touch(&s.endpoint.Out)
	}
	if over {
		s.endpoint.clock.remove(s)
		s.ended(nil)
	}
	return nil
}

// check says what is wrong with a frame that is to be received. It needs mu.
func (s *Stream) check(f *Frame) error {
	consumer, failure := s.endpoint.role == frame.Consumer, f.Flags&frame.FlagError != 0
	switch {
	case s.fin != nil:
		return violation("%v after the end of stream", f.Type)
	case int64(len(f.Payload)) > s.granted:
		return violation("%v of %d bytes where credit is left for %d", f.Type, len(f.Payload), s.granted)
	case f.Type == frame.Head && (!consumer || s.failing || s.began && !failure):
		return violation("HEAD out of place")
	case f.Type == frame.Data && consumer && !s.began:
		return violation("DATA before HEAD")
	}
	return nil
}

// keep puts the data of f into the queue. It needs mu.
func (s *Stream) keep(f *Frame) {
	if len(f.Payload) >= passOn && f.buf != nil {
		f.buf.retain()
		s.received.push(segment{f.Payload, f.buf})
		return
	}
	if s.received.len() > 0 {
		if last := s.received.last(); last.buf == nil && len(last.data)+len(f.Payload) <= passOn {
			last.data = append(last.data, f.Payload...)
			return
		}
	}
	s.received.push(segment{append([]byte(nil), f.Payload...), nil})
}

// leave takes a stream out of the table: what it still had to send, nobody waits for.
func (s *Stream) leave() {
	s.endpoint.Out.mu.Lock()
	delete(s.endpoint.table, s.send.id)
	s.endpoint.Out.drop(&s.send)
	s.endpoint.Out.mu.Unlock()
}

// ended tells the owner of the end, once.
func (s *Stream) ended(err error) {
	s.mu.Lock()
	over := s.over
	s.over = true
	s.changed.Broadcast()
	s.mu.Unlock()
	if !over && s.Owner != nil {
		s.Owner.Ended(err)
	}
}

func (s *Stream) receiveCredit(n int64) {
	s.mu.Lock()
	s.allow = min(s.allow+n, 1<<32)
	s.changed.Broadcast()
	s.mu.Unlock()
}

func (s *Stream) receiveReset(err *Error) { s.fail(err) }

// fail ends the stream because of what the peer or the relay said, or because the connection is gone.
// What was received may still be read.
func (s *Stream) fail(err error) {
	s.leave() // as in receive
	s.mu.Lock()
	if s.fin == nil {
		s.fin = err
	}
	s.began, s.failed = true, true
	s.mu.Unlock()
	s.endpoint.clock.remove(s)
	s.ended(err)
}

// End ends the stream here, at once: what was received is dropped, and the peer is told the code if it
// does not know that the stream is over. Of several calls, the first counts.
func (s *Stream) End(err error, code frame.Code) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	s.received.drop()
	s.changed.Broadcast()
	s.mu.Unlock()
	e := s.endpoint
	e.Out.mu.Lock()
	open := e.table[s.send.id] == s
	delete(e.table, s.send.id)
	e.Out.drop(&s.send)
	tell := open && s.send.opened && !e.Out.closed
	if tell {
		e.Out.reset(s.send.id, code)
	}
	e.Out.mu.Unlock()
	e.clock.remove(s)
	if tell {
		e.Out.Flush()
	}
	s.ended(err)
}
