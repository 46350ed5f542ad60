package sockettest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// maxWait bounds a wait whose context has no deadline.
const maxWait = 10 * time.Second

// maxProblems is how many problems CheckOrder and CheckProtocol name.
const maxProblems = 10

// A Record is what a server has seen so far. WaitFor lends one to its condition, for the time of the
// call; the methods of Server answer the same questions at any time.
type Record struct {
	keep        bool
	messages    []Message
	total       int
	counts      map[string]int // by type
	handshakes  []http.Header
	conns       int
	pings       int
	closeFrames []CloseFrame
	reserved    map[string]int // ids that replies gave to reservations which brought none, to their Seq
	problems    []error
}

// A CloseFrame is a close frame that a client sent, whether of its own accord or as an echo. A frame
// without a code has code 1005.
type CloseFrame struct {
	Conn, Code int
	Text       string
}

func newRecord() Record {
	return Record{counts: make(map[string]int), reserved: make(map[string]int)}
}

// Messages returns the messages of the given types, or all of them, in the order of Seq.
func (r *Record) Messages(types ...string) []Message {
	if len(types) == 0 {
		return slices.Clone(r.messages)
	}
	var found []Message
	for _, m := range r.messages {
		if slices.Contains(types, m.Type) {
			found = append(found, m)
		}
	}
	return found
}

// Count says how many messages of the given types, or of any type, have come.
func (r *Record) Count(types ...string) int {
	if len(types) == 0 {
		return r.total
	}
	n := 0
	for _, t := range types {
		n += r.counts[t]
	}
	return n
}

// Handshakes says how many handshakes have come, refused and unanswered ones included.
func (r *Record) Handshakes() int { return len(r.handshakes) }

// Conns says how many connections are open.
func (r *Record) Conns() int { return r.conns }

// Pings says how many pings have come.
func (r *Record) Pings() int { return r.pings }

// CloseFrames returns the close frames that clients sent, in order.
func (r *Record) CloseFrames() []CloseFrame { return slices.Clone(r.closeFrames) }

// String is the record in a line, for a test's failure message.
func (r *Record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d handshakes, %d open connections, %d pings, %d close frames, %d messages",
		len(r.handshakes), r.conns, r.pings, len(r.closeFrames), r.total)
	for _, t := range slices.Sorted(maps.Keys(r.counts)) {
		fmt.Fprintf(&b, ", %d %s", r.counts[t], t)
	}
	return b.String()
}

// add records m and returns its Seq.
func (r *Record) add(m Message, bad error) int {
	r.total++
	r.counts[m.Type]++
	if r.keep {
		m.Seq = r.total
		r.messages = append(r.messages, m)
		if bad != nil {
			r.problems = append(r.problems, fmt.Errorf("message %d (connection %d, type %q): %w", m.Seq, m.Conn, m.Type, bad))
		}
	}
	return r.total
}

// Messages returns the messages of the given types, or all of them, in the order of Seq.
func (s *Server) Messages(types ...string) []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Messages(types...)
}

// Count says how many messages of the given types, or of any type, have come.
func (s *Server) Count(types ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Count(types...)
}

// Handshakes says how many handshakes have come, refused and unanswered ones included.
func (s *Server) Handshakes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Handshakes()
}

// HandshakeHeaders returns the request headers of all handshakes, in order.
func (s *Server) HandshakeHeaders() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rec.handshakes)
}

// Conns says how many connections are open.
func (s *Server) Conns() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Conns()
}

// Pings says how many pings have come.
func (s *Server) Pings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.Pings()
}

// CloseFrames returns the close frames that clients sent, in order.
func (s *Server) CloseFrames() []CloseFrame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rec.CloseFrames()
}

// WaitFor returns nil as soon as cond holds, and an error that tells what the server has seen when ctx
// ends first; where ctx has no deadline it waits 10 seconds at most. cond is called at every event, with
// the server locked: it must look at its Record only, and call no method of the Server.
func (s *Server) WaitFor(ctx context.Context, cond func(*Record) bool) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, maxWait)
		defer cancel()
	}
	for {
		changed, state := s.look(cond)
		if changed == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("sockettest: %w while waiting; seen so far: %s", ctx.Err(), state())
		}
	}
}

// look evaluates cond. Where it does not hold, changed is closed at the next event.
func (s *Server) look(cond func(*Record) bool) (changed <-chan struct{}, state func() string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cond(&s.rec) {
		return nil, nil
	}
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed, func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.rec.String()
	}
}

// event wakes every WaitFor. The caller holds mu.
func (s *Server) event() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// noteReservation remembers the id that a reply gives to a reservation which brought none of its own.
func (s *Server) noteReservation(m Message, payload json.RawMessage) {
	var p struct {
		AllocationID string `json:"allocationId"`
	}
	if s.opts.unrecorded || m.Allocation().AllocationID != "" || json.Unmarshal(payload, &p) != nil || p.AllocationID == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.reserved[p.AllocationID] = m.Seq
}

// CheckOrder returns an error if the use of an allocation was read before its reservation, or without one.
func (s *Server) CheckOrder() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.unrecorded {
		return errors.New("sockettest: recording is off")
	}
	reserved := maps.Clone(s.rec.reserved)
	var problems []error
	for _, m := range s.rec.messages {
		if id := m.Allocation().AllocationID; id != "" {
			reserved[id] = m.Seq
		}
		if m.Type != socket.TypeUseAllocation {
			continue
		}
		id := m.Use().AllocationID
		if seq, ok := reserved[id]; !ok || seq > m.Seq {
			problems = append(problems, fmt.Errorf("message %d (connection %d) uses allocation %q before it was reserved", m.Seq, m.Conn, id))
		}
	}
	return join(problems)
}

// CheckProtocol returns an error if a message broke the rules of the protocol: no JSON, no type, a
// reservation or use without its alias or amount.
func (s *Server) CheckProtocol() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.unrecorded {
		return errors.New("sockettest: recording is off")
	}
	return join(s.rec.problems)
}

// join names the first problems and counts the others.
func join(problems []error) error {
	if len(problems) > maxProblems {
		more := fmt.Errorf("and %d more", len(problems)-maxProblems)
		problems = append(slices.Clone(problems[:maxProblems]), more)
	}
	return errors.Join(problems...)
}
