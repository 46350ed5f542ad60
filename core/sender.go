package core

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// resendPeriod is how often the sender looks for settlements that are due again.
const resendPeriod = 200 * time.Millisecond

const (
	maxUnanswered = 1_000_000
	maxBacklog    = 1_000_000 // what may end before the sender gets to run, on a busy machine
)

// sender is the goroutine between the requests and the lanes: it writes the reservations of metered
// routes and the settlements of all, each call's two messages in order on one lane.
type sender struct {
	flow  *Flow
	lanes wire.LaneTransport
	inbox inbox
	retry atomic.Bool // a settlement is due again at once

	unanswered    atomic.Int64 // reservations that wait for their answer
	maxUnanswered int64        // static
	backlog       atomic.Int64 // calls that have ended and are in the inbox
	maxBacklog    int64        // static

	// Owned by run.
	noWait  context.Context // has ended: not even the first round of connecting is waited for
	lane    wire.Lane       // for what begins now; kept until it is busy or over, as fewer lanes mean fuller writes
	looked  bool            // lane was looked for in this batch
	scratch []byte
}

func newSender(f *Flow, lanes wire.LaneTransport) *sender {
	noWait, cancel := context.WithCancel(context.Background())
	cancel()
	return &sender{
		flow: f, lanes: lanes, inbox: inbox{wake: make(chan struct{}, 1)}, noWait: noWait,
		maxUnanswered: f.cfg.tableSize(maxUnanswered, callBytes),
		maxBacklog:    min(maxBacklog, f.cfg.runningBytes()/callBytes),
	}
}

// push hands one end of a call to the sender. It never blocks.
func (s *sender) push(n *inboxNode) {
	s.inbox.push(n)
	if s.flow.ctx.Err() != nil {
		s.abandon() // the sender has ended, or may have before it saw n
	}
}

// begin hands over the beginning of a call, to be reserved; where the sender can't keep up, its end is enough.
func (s *sender) begin(c *Call) {
	if s.backlog.Load() < s.maxBacklog {
		s.push(&c.begun)
	}
}

// finish hands over the end of a call, to be settled. Where more ends are waiting than memory is set aside for, it is lost.
func (s *sender) finish(c *Call) {
	if s.backlog.Add(1) > s.maxBacklog {
		s.backlog.Add(-1)
		s.drop(c, "requests end faster than they can be settled")
		return
	}
	s.push(&c.ended)
}

func (s *sender) run() {
	tick := time.NewTicker(resendPeriod)
	defer tick.Stop()
	for {
		select {
		case <-s.inbox.wake:
			// Those who are about to push run first: one batch for all of them.
			runtime.Gosched()
			s.batch(s.retry.Swap(false))
		case <-tick.C:
			for _, c := range s.flow.leases.sweep(time.Now()) {
				s.reserveOutlasting(c)
			}
			s.batch(true)
			if s.flow.breaker.open() {
				s.probe()
			}
		case <-s.flow.ctx.Done():
			if s.flow.outbox.spool != nil {
				s.batch(false) // to the spool; the lanes are closed, or are about to be
			}
			s.abandon()
			return
		}
	}
}

// batch sends what is in the inbox, and what is due again.
func (s *sender) batch(resend bool) {
	s.looked = false
	if s.lane != nil && (!s.lane.Alive() || s.lane.Busy()) {
		s.lane = nil
	}
	now := time.Now()
	for n := s.inbox.take(); n != nil; {
		call, end := n.call, n.end
		n = n.pop()
		if end {
			s.backlog.Add(-1)
			s.settle(call, now)
		} else {
			s.reserve(call)
		}
	}
	if !resend || s.flow.outbox.empty() || s.current() == nil {
		return
	}
	for _, e := range s.flow.outbox.due(now) {
		if err := s.post(e, now); errors.Is(err, socket.ErrQueueFull) {
			s.lane, s.looked = nil, false // the others may have room
		}
		if s.current() == nil {
			return
		}
	}
}

// retryNow makes the sender look for what is due again.
func (s *sender) retryNow() {
	s.retry.Store(true)
	s.inbox.signal()
}

// abandon counts as dropped what no one will send any more.
func (s *sender) abandon() {
	for n := s.inbox.take(); n != nil; {
		if n.end {
			s.drop(n.call, "the flow was shut down")
		}
		n = n.pop()
	}
}

// drop counts the end of a call as lost.
func (s *sender) drop(c *Call, why string) {
	c.giveMemory()
	c.receipt.give()
	s.flow.outbox.drop(c.alias, c.AllocationID(), 1, why)
	if c.slice != nil {
		c.slice.requestLost(c)
	}
}

// current returns the lane for what begins now: when it was chosen, it had the least to do.
func (s *sender) current() wire.Lane {
	if s.lane != nil && s.lane.Alive() {
		return s.lane
	}
	if s.looked && s.lane == nil {
		return nil
	}
	s.looked = true
	lane, err := s.lanes.Lane(s.noWait)
	if err != nil {
		s.lane = nil
		return nil
	}
	s.lane = lane
	return lane
}

// reserve sends the reservation of a metered call.
func (s *sender) reserve(c *Call) {
	lane := s.current()
	if lane == nil {
		return // it goes out before its settlement
	}
	if s.postReservation(lane, c.ids, c.alias, c.reserved, (*reservation)(c)) == nil {
		c.lane = lane
	}
}

// reserveOutlasting sends a reservation of its own for a request that outlasts its slice.
func (s *sender) reserveOutlasting(c *Call) {
	err := socket.ErrNotConnected
	if lane := s.current(); lane != nil {
		s.scratch = appendReservation(s.scratch[:0], c.alias, c.ids[:uuidLen], c.reserved)
		err = lane.Post(socket.TypeRequestForAllocation, newIDs(), s.scratch, (*outlasting)(c))
	}
	if err != nil {
		c.slice.notAsked(c) // it is tried again
	}
}

// postReservation posts a reservation. A service that answers none of them must not make us remember all: where too many
// wait for their answer, further ones go without asking for one.
func (s *sender) postReservation(lane wire.Lane, messageID, alias string, amount float64, done wire.Completion) error {
	s.scratch = appendReservation(s.scratch[:0], alias, messageID[:uuidLen], amount)
	if done == nil || s.unanswered.Load() >= s.maxUnanswered {
		return lane.Post(socket.TypeRequestForAllocation, "", s.scratch, nil)
	}
	s.unanswered.Add(1)
	err := lane.Post(socket.TypeRequestForAllocation, messageID, s.scratch, done)
	if err != nil {
		s.unanswered.Add(-1)
	}
	return err
}

// settle makes the settlement of a finished call, and sends it.
func (s *sender) settle(c *Call, now time.Time) {
	amount, told := c.charge()
	s.flow.noteTelling(c, told)
	defer c.giveMemory()
	id := c.AllocationID()
	if c.slice != nil {
		if c.slice.requestEnded(c, amount) {
			return
		}
		id = c.ids[:uuidLen]
	}
	if c.repeatable && c.panicked && amount == 0 {
		s.flow.outbox.leave()
		c.receipt.give()
		s.flow.observe(Event{Kind: EventVoided, Alias: c.alias, AllocationID: id})
		return
	}
	s.scratch = c.appendSettlement(s.scratch[:0], id, amount)
	e := &settlement{
		flow: s.flow, alias: c.alias, id: id, reserveID: c.ids, reserved: c.reserved, amount: amount, receipt: c.receipt,
		payload: append(make([]byte, 0, len(s.scratch)), s.scratch...),
		lane:    c.lane,
	}
	if amount > 0 {
		e.settles = 1
	} else {
		e.voids = 1
	}
	if c.known.Load() {
		e.known.Store(true) // the spool notes it
	}
	placed := s.flow.outbox.add(e)
	if placed == noRoom {
		e.receipt.give()
		s.flow.outbox.drop(e.alias, e.id, 1, "too many settlements are unconfirmed")
		return
	}
	// In this order: the reservation's completion sees e, or has set what is read here.
	c.settlement.Store(e)
	if c.known.Load() {
		e.known.Store(true)
	} else if c.unreserved.Load() {
		e.lane = nil
	}
	if placed == inMemory {
		_ = s.post(e, now) // after an error it is due again
	}
}

// post sends a settlement, the first time on the lane of its reservation while that is up. Otherwise it goes behind the
// reservation once more, unless the service has answered that. After an error it stays due.
func (s *sender) post(e *settlement, now time.Time) error {
	lane := e.lane
	if lane == nil || e.tries > 0 || !lane.Alive() {
		if lane = s.current(); lane == nil {
			return socket.ErrNotConnected
		}
	}
	if (lane != e.lane || e.tries > 0) && !e.known.Load() {
		if err := s.reserveAgain(lane, e); err != nil {
			s.flow.outbox.retry(e, now.Add(resendPeriod))
			return err
		}
	}
	e.lane = lane
	e.tries++
	delay := min(confirmTimeout<<min(e.tries-1, 10), lastResendDelay)
	s.flow.outbox.retry(e, now.Add(delay-rand.N(delay/4)))
	err := lane.Post(socket.TypeUseAllocation, e.id, e.payload, e)
	if err != nil {
		s.flow.outbox.retry(e, now.Add(resendPeriod))
	}
	return err
}

// reserveAgain posts the reservation of a settlement ahead of it.
func (s *sender) reserveAgain(lane wire.Lane, e *settlement) error {
	var done wire.Completion
	if e.waiting.CompareAndSwap(false, true) {
		done = (*lateReservation)(e)
	}
	err := s.postReservation(lane, e.reserveID, e.alias, e.reserved, done)
	if err != nil && done != nil {
		e.waiting.Store(false)
	}
	if errors.Is(err, socket.ErrDuplicateID) {
		return nil // it went out on this lane before, and waits for its answer
	}
	return err
}

// reservation is the completion of a metered call's reservation.
type reservation Call

var _ wire.Completion = (*reservation)(nil)

// Complete implements wire.Completion.
func (r *reservation) Complete(reply *wire.Reply, err error) {
	c := (*Call)(r)
	c.flow.sender.unanswered.Add(-1)
	if err != nil {
		c.unreserved.Store(true) // it goes out again before the settlement
		return
	}
	c.known.Store(true)
	if e := c.settlement.Load(); e != nil {
		e.known.Store(true)
	}
	if reply != nil && reply.Refused() {
		c.flow.lateDenial(c.alias, c.ids[:uuidLen])
	}
}

// lateDenial notes that the service denied a reservation whose request had passed. It is settled all the same.
func (f *Flow) lateDenial(alias, id string) {
	if f.counters.lateDenials.Add(1) == 1 {
		f.log.Warn("usageflow: the service denied a metered reservation; its usage is settled all the same. Later ones are only counted", "alias", alias)
	}
	f.observe(Event{Kind: EventLateDenial, Alias: alias, AllocationID: id})
}

// lateReservation is the completion of a reservation that goes out with its settlement.
type lateReservation settlement

var _ wire.Completion = (*lateReservation)(nil)

// Complete implements wire.Completion.
func (r *lateReservation) Complete(reply *wire.Reply, err error) {
	r.flow.sender.unanswered.Add(-1)
	r.waiting.Store(false)
	if err != nil {
		return
	}
	r.known.Store(true)
	if reply != nil && reply.Refused() {
		r.flow.lateDenial(r.alias, r.id)
	}
}

// voidLost gives back what may be held for a request that was turned away without an answer.
func (f *Flow) voidLost(c *Call) {
	c.status = http.StatusServiceUnavailable
	e := &settlement{flow: f, alias: c.alias, id: c.AllocationID(), reserved: c.reserved, payload: c.appendSettlement(nil, c.AllocationID(), 0)}
	e.known.Store(true)
	if f.outbox.add(e) == inMemory {
		f.sender.retryNow()
	}
	// Without room the reservation expires at the service by itself.
}

// mayHaveReserved reports whether a reservation that failed with err may have reached the service.
func mayHaveReserved(err error) bool {
	if _, ok := err.(errNoSlice); ok { //nolint:errorlint // it is not wrapped
		return false
	}
	return !errors.Is(err, socket.ErrNotConnected) && !errors.Is(err, socket.ErrQueueFull) && !errors.Is(err, socket.ErrClosed) && !errors.Is(err, errBreakerOpen)
}
