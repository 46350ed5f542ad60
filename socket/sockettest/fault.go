package sockettest

import (
	"fmt"
	"slices"
)

// StopReading makes the given connections, or all open ones if none is given, read nothing more: the
// client's bytes pile up in the kernel, then in the client. Pings go unanswered too. At most the message
// that is being handled at the time is still answered. Connections made later read.
func (s *Server) StopReading(conns ...int) {
	for _, c := range s.pick(conns) {
		c.gate.stop()
	}
}

// ResumeReading undoes StopReading.
func (s *Server) ResumeReading(conns ...int) {
	for _, c := range s.pick(conns) {
		c.gate.resume()
	}
}

// DropAll closes all connections at once, without a close frame. The port stays open.
func (s *Server) DropAll() {
	for _, c := range s.pick(nil) {
		_ = c.gate.Close()
	}
}

// ResetAll is DropAll with a TCP reset.
func (s *Server) ResetAll() {
	for _, c := range s.pick(nil) {
		c.gate.reset()
	}
}

// CloseAll sends a close frame on all connections. Each ends when its client has echoed it.
func (s *Server) CloseAll(code int, reason string) {
	for _, c := range s.pick(nil) {
		c.enqueue(action{close: true, code: code, reason: reason})
	}
}

// IgnorePings leaves pings without a pong while ignore is true. They are still counted.
func (s *Server) IgnorePings(ignore bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deafPings = ignore
}

// Push sends frame as one text frame on connection conn, unasked.
func (s *Server) Push(conn int, frame []byte) error {
	s.mu.Lock()
	c := s.conns[conn]
	s.mu.Unlock()
	if c == nil {
		return fmt.Errorf("sockettest: connection %d is not open", conn)
	}
	c.enqueue(action{frame: frame})
	return nil
}

// OpenConns lists the numbers of the open connections, oldest first.
func (s *Server) OpenConns() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]int, 0, len(s.conns))
	for id := range s.conns {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// pick returns the open connections among ids, or all of them where ids is empty.
func (s *Server) pick(ids []int) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	var picked []*conn
	for id, c := range s.conns {
		if len(ids) == 0 || slices.Contains(ids, id) {
			picked = append(picked, c)
		}
	}
	return picked
}
