package broker

import (
	"errors"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// ErrOver says that nobody waits for what would be sent: the stream is over, or its end was sent.
var ErrOver = errors.New("broker: the stream is over")

// WaitCredit waits until something may be sent and returns how many bytes, at most a frame's. The error
// is ErrOver.
func (s *Stream) WaitCredit() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.over && !s.sealed {
		if s.allow > 0 {
			return int(min(s.allow, frame.MaxPayload)), nil
		}
		s.changed.Wait()
	}
	return 0, ErrOver
}

// WaitSent waits for what is sent to sent, whose sender calls Wake after it, and returns it. Where the stream
// is over before, it returns ErrOver.
func (s *Stream) WaitSent(sent <-chan error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		select {
		case err := <-sent:
			return err
		default:
		}
		if s.over && !s.sealed { // else sent is about to come
			return ErrOver
		}
		s.changed.Wait()
	}
}

// Wake makes everybody who waits look again.
func (s *Stream) Wake() {
	s.mu.Lock()
	s.changed.Broadcast()
	s.mu.Unlock()
}

// Over says whether nobody waits any more for what would be sent.
func (s *Stream) Over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// spend takes n bytes of credit for a frame with those flags.
func (s *Stream) spend(n int, flags frame.Flags) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.sealed {
		return ErrOver
	}
	s.allow -= int64(n)
	s.sealed = flags&frame.FlagEnd != 0
	return nil
}

// Send sends a copy of data, for which there is credit: as a HEAD where t says so, else as DATA. The
// outbox is to be flushed after it. The error is ErrOver.
func (s *Stream) Send(t frame.Type, flags frame.Flags, data []byte) error {
	if err := s.spend(len(data), flags); err != nil {
		return err
	}
	e := s.endpoint
	e.Out.mu.Lock()
	ok := e.table[s.send.id] == s && !e.Out.closed
	if ok {
		e.Out.putCopy(&s.send, t, flags, nil, data)
		s.sent(flags)
	}
	e.Out.mu.Unlock()
	return s.afterSend(ok, flags)
}

// SendBuffer sends the n bytes of buf after the room for a header, for which there is credit, as DATA,
// and takes buf over. The outbox is to be flushed after it. The error is ErrOver.
func (s *Stream) SendBuffer(buf *Buffer, n int) error {
	if n < passOn {
		defer buf.Release()
		return s.Send(frame.Data, 0, buf.B[frame.HeaderSize:frame.HeaderSize+n])
	}
	if err := s.spend(n, 0); err != nil {
		buf.Release()
		return err
	}
	frame.Header{Length: uint32(n), Type: frame.Data}.Put(buf.B)
	e := s.endpoint
	e.Out.mu.Lock()
	ok := e.table[s.send.id] == s && !e.Out.closed
	if ok {
		e.Out.putWhole(&s.send, buf.B[:frame.HeaderSize+n], 0, buf)
	}
	e.Out.mu.Unlock()
	if !ok {
		buf.Release()
	}
	return s.afterSend(ok, 0)
}

// sent takes a provider's stream whose answer is complete out of the table. It needs Out.mu.
func (s *Stream) sent(flags frame.Flags) {
	if flags&frame.FlagEnd != 0 && s.endpoint.role == frame.Provider {
		delete(s.endpoint.table, s.send.id)
	}
}

func (s *Stream) afterSend(ok bool, flags frame.Flags) error {
	if !ok {
		return ErrOver
	}
	if flags&frame.FlagEnd != 0 && s.endpoint.role == frame.Provider {
		s.endpoint.clock.remove(s)
		s.mu.Lock()
		s.received.drop()
		if s.err == nil {
			s.err = ErrOver
		}
		s.mu.Unlock()
		s.ended(nil)
	}
	return nil
}

// Flush makes what was sent go out.
func (s *Stream) Flush() { s.endpoint.Out.Flush() }
