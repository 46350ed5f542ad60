package core

import (
	"strconv"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// outlastAfter is how long after a slice's end requests that it has let in get reservations of their own, and how often that is tried.
const outlastAfter = time.Second

// slice is an amount that is reserved and not spent.
type slice struct {
	lease      *lease
	settlement *settlement // of what was spent; it accrues until the slice is over
	full       float64
	until      time.Time // nothing is spent from it from then on

	// Guarded by the lease's mu.
	left    float64
	running map[*Call]bool // requests that it let in and that have not ended; true: a reservation of their own was asked for
	over    bool
	settled bool
	askAt   time.Time // when such reservations are due; over
}

// take lets c in, if there is room for it. The lease's mu is held.
func (s *slice) take(c *Call) bool {
	if s.left < c.reserved {
		return false
	}
	s.left -= c.reserved
	s.running[c] = false
	c.slice, c.granted = s, s.settlement.id
	c.known.Store(true)
	return true
}

// closeLocked ends a slice. When its last request has ended, or got a reservation of its own, it is settled, and what was not spent goes back.
func (s *slice) closeLocked() {
	s.over, s.askAt = true, time.Now().Add(outlastAfter)
	if s.settleLocked(); !s.settled {
		s.lease.over = append(s.lease.over, s)
	}
}

func (s *slice) settleLocked() {
	if !s.over || len(s.running) > 0 || s.settled {
		return
	}
	s.settled = true
	s.lease.flow.outbox.seal(s.settlement)
	s.lease.flow.sender.retryNow()
}

// requestEnded charges a request that the slice let in. It reports false where that has a reservation of its own by now, and is to be settled by itself.
func (s *slice) requestEnded(c *Call, amount float64) bool {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	if !s.leaveLocked(c) {
		return false
	}
	s.left += c.reserved - amount // what it did not need is for others
	s.lease.flow.outbox.accrue(s.settlement, amount)
	s.settleLocked()
	return true
}

// requestLost notes that the settlement of a request is lost.
func (s *slice) requestLost(c *Call) {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	if s.leaveLocked(c) {
		s.settleLocked()
	}
}

// leaveLocked takes c out of those that run, if it is among them. A reservation of its own that was asked for is voided.
func (s *slice) leaveLocked(c *Call) bool {
	asked, in := s.running[c]
	delete(s.running, c)
	if asked {
		s.lease.giveBack(s.lease.newSettlement(c.ids, c.reserved))
	}
	return in
}

// outlastingLocked appends the requests for which a reservation of their own is due, and takes it for asked for: one that ends from then on has it voided.
func (s *slice) outlastingLocked(list []*Call, now time.Time) []*Call {
	if s.settled || now.Before(s.askAt) {
		return list
	}
	s.askAt = now.Add(outlastAfter)
	for c := range s.running {
		s.running[c] = true
		list = append(list, c)
	}
	return list
}

// notAsked says that a reservation of c's own did not go out after all.
func (s *slice) notAsked(c *Call) {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	if _, in := s.running[c]; in {
		s.running[c] = false
	}
}

// outlasting is the completion of the reservation that a request gets for itself when its slice is over.
type outlasting Call

var _ wire.Completion = (*outlasting)(nil)

// Complete implements wire.Completion. Where the service does not grant it, the slice waits for the request.
func (o *outlasting) Complete(reply *wire.Reply, err error) {
	c := (*Call)(o)
	if err != nil || reply != nil && reply.Refused() {
		return
	}
	s := c.slice
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	if _, in := s.running[c]; in {
		delete(s.running, c)
		s.settleLocked()
	}
}

// payload is the settlement of a slice as it stands.
func (l *lease) payload(e *settlement) []byte {
	dst := append([]byte(nil), `{"alias":`...)
	dst = wire.AppendString(dst, l.alias)
	dst = append(dst, `,"amount":`...)
	dst, _ = wire.AppendFloat(dst, e.amount) // amounts are checked when they are set
	dst = append(dst, `,"allocationId":`...)
	dst = wire.AppendString(dst, e.id)
	dst = append(dst, l.rule.description...)
	dst = append(dst, `,"requests":`...)
	dst = strconv.AppendInt(dst, e.weight(), 10)
	dst = append(dst, `,"timestamp":"`...)
	dst = time.Now().UTC().AppendFormat(dst, time.RFC3339)
	return append(dst, `"}}`...)
}
