package core

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// breakerThreshold is how many decisions in a row have to stay without an answer for the breaker to open.
const breakerThreshold = 3

// BreakerState is whether decisions wait for the service.
type BreakerState int

// The states of the breaker.
const (
	BreakerClosed BreakerState = iota // they do
	BreakerOpen                       // they don't: it has not answered several in a row, and is probed
)

func (s BreakerState) String() string {
	if s == BreakerOpen {
		return "open"
	}
	return "closed"
}

// MarshalText implements encoding.TextMarshaler.
func (s BreakerState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *BreakerState) UnmarshalText(text []byte) error {
	for _, known := range []BreakerState{BreakerClosed, BreakerOpen} {
		if string(text) == known.String() {
			*s = known
			return nil
		}
	}
	return fmt.Errorf("core: there is no breaker state %q", text)
}

// breaker stops decisions from waiting for a service that does not answer. While it is open, the sender asks once more for the last decision that
// failed, every resendPeriod, and an answer closes it. No other answer counts: a service may settle and not decide.
type breaker struct {
	flow     *Flow
	isOpen   atomic.Bool
	failures atomic.Int32 // decisions without an answer, in a row
	openedAt atomic.Int64 // ns
	last     atomic.Pointer[lostReservation]
}

// lostReservation is one that got no answer. What became of its request is settled or voided under the same id, whether it is asked for once
// more or not.
type lostReservation struct {
	alias, id string
	amount    float64
}

var errBreakerOpen = errors.New("core: the service does not answer; the breaker is open")

func (b *breaker) open() bool { return b.isOpen.Load() }

// toBlame reports whether a reservation that got no answer, and has waited that long for it, says something of the service: one that has waited for less than
// a part of Timeout, as its caller would not, does not.
func (b *breaker) toBlame(waited time.Duration, err error) bool {
	return !errors.Is(err, context.Canceled) && (!errors.Is(err, context.DeadlineExceeded) || waited >= b.flow.cfg.Timeout*2/5)
}

// failed notes a reservation that got no answer, and reports whether the service is to blame. One for which there was no connection has not waited.
func (b *breaker) failed(r lostReservation, waited time.Duration, err error) bool {
	if !b.toBlame(waited, err) {
		return false
	}
	if !mayHaveReserved(err) {
		return true
	}
	b.last.Store(&r)
	if b.failures.Add(1) < breakerThreshold || b.isOpen.Swap(true) {
		return true
	}
	b.openedAt.Store(time.Now().UnixNano())
	b.flow.log.Warn("usageflow does not answer: decisions stop waiting for it, until it does", "in_a_row", breakerThreshold, "error", err)
	b.flow.observe(Event{Kind: EventBreakerOpened, Err: err})
	b.flow.sender.retryNow()
	return true
}

// answered notes that the service has decided.
func (b *breaker) answered() {
	if b.failures.Load() != 0 {
		b.failures.Store(0)
	}
	if !b.isOpen.Load() || !b.isOpen.Swap(false) {
		return
	}
	b.flow.log.Info("usageflow answers again: decisions wait for it", "after", time.Duration(time.Now().UnixNano()-b.openedAt.Load()).Round(time.Millisecond))
	b.flow.observe(Event{Kind: EventBreakerClosed})
	b.flow.outbox.dueNow()
	b.flow.sender.retryNow()
}

// probe asks once more for the last decision that failed, on the lane that has the least to do: not on one that is stuck, as long as others are not.
func (s *sender) probe() {
	r := s.flow.breaker.last.Load()
	s.lane, s.looked = nil, false
	lane := s.current()
	if r == nil || lane == nil {
		return
	}
	s.scratch = appendReservation(s.scratch[:0], r.alias, r.id, r.amount)
	_ = lane.Post(socket.TypeRequestForAllocation, newIDs(), s.scratch, (*probe)(&s.flow.breaker)) // the next one is due soon
}

// probe is the completion of a probe.
type probe breaker

var _ wire.Completion = (*probe)(nil)

// Complete implements wire.Completion.
func (p *probe) Complete(_ *wire.Reply, err error) {
	if err == nil {
		(*breaker)(p).answered()
	}
}
