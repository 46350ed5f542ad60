package broker

import (
	"errors"
	"io"
)

// WaitHead waits until the answer, or its failure, has begun. The error is what Read would return before
// any byte, but for io.EOF; the message of a failure is complete.
func (s *Stream) WaitHead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return s.err
		case s.received.len() > 0:
			return nil
		case errors.Is(s.fin, io.EOF):
			return nil
		case s.fin != nil:
			return s.fin
		case s.began && !s.failing:
			return nil
		}
		s.changed.Wait()
	}
}

// next waits for data, for the end of it or for the end of the stream. It needs mu.
func (s *Stream) next() error {
	for {
		switch {
		case s.err != nil:
			return s.err
		case s.received.len() > 0:
			return nil
		case s.fin != nil:
			return s.fin
		}
		s.starved = true
		s.changed.Wait()
	}
}

// Read reads what the peer sent. After the end it returns io.EOF, a *Failure, or why the stream ended.
func (s *Stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	if err := s.next(); err != nil {
		s.mu.Unlock()
		return 0, err
	}
	n := 0
	for n < len(p) && s.received.len() > 0 {
		first := s.received.first()
		m := copy(p[n:], first.data)
		n += m
		if first.data = first.data[m:]; len(first.data) == 0 {
			s.received.pop().buf.Release()
		}
	}
	grant := s.eat(int64(n))
	s.mu.Unlock()
	s.grantNow(grant)
	return n, nil
}

// WriteTo writes what the peer sent to w, until the end. It copies nothing.
func (s *Stream) WriteTo(w io.Writer) (total int64, err error) {
	for {
		s.mu.Lock()
		if err := s.next(); err != nil {
			s.mu.Unlock()
			if errors.Is(err, io.EOF) {
				return total, nil
			}
			return total, err
		}
		seg := s.received.pop()
		s.mu.Unlock()
		n, err := w.Write(seg.data)
		total += int64(n)
		if err == nil && n < len(seg.data) {
			err = io.ErrShortWrite
		}
		size := int64(len(seg.data))
		seg.buf.Release()
		if err != nil {
			return total, err
		}
		s.mu.Lock()
		grant := s.eat(size)
		s.mu.Unlock()
		s.grantNow(grant)
	}
}

// eat notes that n bytes were read and returns the credit that is to be granted for them: nothing until
// it is worth a frame. The window grows while the reader is faster than what arrives. It needs mu.
func (s *Stream) eat(n int64) uint32 {
	s.eaten += n
	if s.eaten < s.window/4 || s.fin != nil || s.err != nil {
		return 0
	}
	if s.starved && s.window < int64(s.endpoint.window) {
		more := min(s.window, int64(s.endpoint.window)-s.window)
		s.window += more
		s.eaten += more
	}
	s.starved = false
	n, s.eaten = s.eaten, 0
	s.granted += n
	return uint32(n)
}

// grant puts a CREDIT into the outbox.
func (s *Stream) grant(n uint32) {
	e := s.endpoint
	e.Out.mu.Lock()
	if e.table[s.send.id] == s && !e.Out.closed {
		e.Out.grant(&s.send, n)
	}
	e.Out.mu.Unlock()
}

func (s *Stream) grantNow(n uint32) {
	if n > 0 {
		s.grant(n)
		s.endpoint.Out.Flush()
	}
}

// Whole says whether all that the peer sends has come and nothing went wrong, and how many bytes of it
// have not been read.
func (s *Stream) Whole() (unread int, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || !errors.Is(s.fin, io.EOF) {
		return 0, false
	}
	for _, seg := range s.received.list[s.received.head:] {
		unread += len(seg.data)
	}
	return unread, true
}
