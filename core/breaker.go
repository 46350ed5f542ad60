package core

import (
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

// breaker stops decisions from waiting for a service that does not answer. While it is open, the sender probes the service every resendPeriod, and any
// answer to an allocation or a settlement closes it.
type breaker struct {
	flow     *Flow
	isOpen   atomic.Bool
	failures atomic.Int32 // decisions without an answer, in a row
	openedAt atomic.Int64 // ns
}

var errBreakerOpen = errors.New("core: the service does not answer; the breaker is open")

func (b *breaker) open() bool { return b.isOpen.Load() }

// failed notes a decision that got no answer. One for which there was no connection has not waited.
func (b *breaker) failed(err error) {
	if !mayHaveReserved(err) || b.failures.Add(1) < breakerThreshold || b.isOpen.Swap(true) {
		return
	}
	b.openedAt.Store(time.Now().UnixNano())
	b.flow.log.Warn("usageflow does not answer: decisions stop waiting for it, until it does", "in_a_row", breakerThreshold, "error", err)
	b.flow.observe(Event{Kind: EventBreakerOpened, Err: err})
	b.flow.sender.retryNow()
}

// answered notes that the service has answered an allocation or a settlement.
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

// probe sends the oldest settlement once more, which changes nothing where it was charged, or asks for the configuration
// where there is none. An answer closes the breaker.
func (s *sender) probe(now time.Time) {
	s.lane, s.looked = nil, false // another one than the last time, which may be the one that is stuck
	if e := s.flow.outbox.first(); e != nil {
		if err := s.post(e, now); !errors.Is(err, socket.ErrDuplicateID) {
			return
		}
	}
	if lane := s.current(); lane != nil {
		_ = lane.Post(socket.TypeGetConfig, "probe-"+newIDs(), []byte("null"), (*probe)(&s.flow.breaker)) // the next one is due soon
	}
}

// probe is the completion of a probe that is no settlement.
type probe breaker

var _ wire.Completion = (*probe)(nil)

// Complete implements wire.Completion.
func (p *probe) Complete(_ *wire.Reply, err error) {
	if err == nil {
		(*breaker)(p).answered()
	}
}
