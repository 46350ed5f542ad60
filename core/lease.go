package core

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

const (
	// sliceLife is how long a slice is spent from; then what is left of it goes back.
	sliceLife = time.Second
	// leaseRate is the requests a second from which on slices are reserved: fewer ask one by one.
	leaseRate = 8
	// maxSlice bounds how many requests' amounts are reserved ahead.
	maxSlice = 10_000
	// blindSlice is that bound where the service does not say what is left.
	blindSlice = 16
	// sliceShare is which part of what is left a slice may be: others spend from the same limit.
	sliceShare = 4
	// maxLeases bounds how many ledgers are leased. A lease that is idle for leaseIdle is forgotten.
	maxLeases = 10_000
	leaseIdle = 10 * time.Second
)

// leases are the limited ledgers of which the flow reserves slices ahead.
type leases struct {
	flow    *Flow
	most    int64    // static
	byAlias sync.Map // alias -> *lease
	size    atomic.Int64

	reserving sync.WaitGroup // slices; after Shutdown has swept, none begins
}

// lease is one such ledger. Its slices are reserved as requests are, spent by requests, and settled once for all that were.
type lease struct {
	flow  *Flow
	alias string
	rule  *rule

	mu     sync.Mutex // guards what follows. The outbox's may be taken while it is held
	gone   bool       // it is forgotten
	slices []*slice   // to spend from, in this order
	over   []*slice   // that are not settled, as requests which they let in still run
	asking *asking    // for the next slice; nil: nobody does
	left   float64    // what the service says is left; negative: it does not

	since time.Time // requests are counted from here on
	count float64
	rate  float64 // amounts a second, in the time before
}

// asking is the reservation of a slice that is on its way.
type asking struct {
	done    chan struct{} // closed when it was answered, or was not
	granted bool          // set before, as err is
	err     error         // there is no answer
}

// get returns the lease of a call's ledger; nil where there are too many.
func (ls *leases) get(c *Call) *lease {
	if v, ok := ls.byAlias.Load(c.alias); ok {
		return v.(*lease)
	}
	if ls.size.Load() >= ls.most {
		return nil
	}
	v, had := ls.byAlias.LoadOrStore(c.alias, &lease{flow: ls.flow, alias: c.alias, rule: c.rule, since: c.start, left: -1})
	if !had {
		ls.size.Add(1)
	}
	return v.(*lease)
}

// spend lets c in if a slice has room for it. If none has, it waits for one that is reserved, where slices pay; else, and where the service grants
// none, it reports false, and c is to be decided by itself. An error means that there is no answer.
func (l *lease) spend(ctx context.Context, c *Call) (spent bool, err error) {
	l.mu.Lock()
	l.countLocked(c)
	l.mu.Unlock()
	for at := c.start; ; at = time.Now() {
		l.mu.Lock()
		spent := l.takeLocked(c, at)
		if !spent && l.asking == nil && l.flow.refusals.get(l.alias, c.reserved, at) == nil {
			l.askLocked(c.reserved)
		}
		next := l.asking
		l.mu.Unlock()
		if spent || next == nil {
			return spent, nil
		}
		if err := l.await(ctx, next, c.start); err != nil {
			return false, err
		}
		if !next.granted {
			return false, next.err
		}
	}
}

// await waits for a slice, for no longer than a request that has begun at start may wait.
func (l *lease) await(ctx context.Context, next *asking, start time.Time) error {
	timer := time.NewTimer(time.Until(start.Add(l.flow.cfg.Timeout)))
	defer timer.Stop()
	deadline := ctx
	if _, has := ctx.Deadline(); !has {
		deadline = context.Background() // a client that hangs up must not get past the limit
	}
	select {
	case <-next.done:
		return nil
	case <-timer.C:
	case <-deadline.Done():
	}
	return socket.ErrTimeout
}

// countLocked measures the rate of requests.
func (l *lease) countLocked(c *Call) {
	if passed := c.start.Sub(l.since); passed >= sliceLife {
		l.rate = l.count / passed.Seconds()
		l.since, l.count = c.start, 0
	}
	l.count += c.reserved
}

// sizeLocked is how much to reserve for calls like one of that amount.
func (l *lease) sizeLocked(amount float64) float64 {
	rate := max(l.rate, l.count)
	if rate < leaseRate*amount {
		return 0
	}
	size := min(rate/2, maxSlice*amount)
	if l.left < 0 {
		size = min(size, blindSlice*amount)
	} else {
		size = min(size, l.left/sliceShare)
	}
	return math.Floor(size/amount) * amount
}

// takeLocked takes c's amount out of a slice. Before the last one is empty, the next is on its way.
func (l *lease) takeLocked(c *Call, now time.Time) bool {
	for len(l.slices) > 0 {
		s := l.slices[0]
		if now.Before(s.until) && s.take(c) {
			if len(l.slices) == 1 && s.left < s.full/4 && l.asking == nil {
				l.askLocked(c.reserved)
			}
			return true
		}
		l.closeFirstLocked()
	}
	return false
}

// askLocked reserves a slice for calls of that amount, where that pays, in a goroutine of its own, which Shutdown waits for as for a decision.
func (l *lease) askLocked(amount float64) {
	size := l.sizeLocked(amount)
	if l.gone || size <= amount || l.flow.breaker.open() || l.flow.stopped.Load() {
		return
	}
	e := l.newSettlement(newIDs(), size)
	if !l.flow.outbox.hasRoom(e) {
		return
	}
	l.asking = &asking{done: make(chan struct{})}
	next := l.asking
	l.flow.deciding.Add(1)
	l.flow.leases.reserving.Go(func() {
		defer l.flow.decisionOver()
		l.reserve(e, next)
	})
}

// reserve reserves a slice, of which e is the settlement.
func (l *lease) reserve(e *settlement, next *asking) {
	sent := time.Now()
	ctx, cancel := context.WithTimeout(l.flow.ctx, l.flow.cfg.Timeout)
	defer cancel()
	resp, err := l.flow.transport.Call(ctx, &socket.UsageFlowSocketMessage{
		Type:    socket.TypeRequestForAllocation,
		Payload: &socket.RequestForAllocation{Alias: l.alias, Amount: e.reserved, AllocationID: e.id},
	})
	if resp == nil && err == nil {
		err = errNoReply
	}
	if err != nil {
		l.flow.breaker.failed(lostReservation{l.alias, e.id, e.reserved}, time.Since(sent), err)
	} else {
		l.flow.breaker.answered()
		l.flow.decided()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer close(next.done)
	l.asking = nil
	switch {
	case err != nil:
		next.err = err
		if mayHaveReserved(err) {
			l.giveBack(e)
		}
	case resp.Refused():
		l.noteLocked(resp.Payload, sent)
		l.left = max(l.left, 0) // without a number, go on one by one
	default:
		until := l.noteLocked(resp.Payload, sent)
		if id := grantedID(resp.Payload); id != "" {
			e.id = id
		}
		s := &slice{lease: l, settlement: e, left: e.reserved, full: e.reserved, until: until, running: make(map[*Call]bool)}
		e.accruing = true
		if l.flow.stopped.Load() || !sent.Before(until) || l.flow.outbox.add(e) != inMemory {
			e.accruing = false
			l.giveBack(e)
			return
		}
		l.slices = append(l.slices, s)
		next.granted = true
	}
}

// newSettlement is that of a reservation, which is voided unless requests are added to it.
func (l *lease) newSettlement(ids string, amount float64) *settlement {
	e := &settlement{flow: l.flow, alias: l.alias, id: ids[:uuidLen], reserveID: ids, reserved: amount, lease: l}
	e.known.Store(true)
	return e
}

// giveBack voids a reservation of which nothing was spent. Without room for that, it expires at the service by itself.
func (l *lease) giveBack(e *settlement) {
	e.payload = l.payload(e)
	if l.flow.outbox.add(e) == inMemory {
		l.flow.sender.retryNow()
	}
}

// noteLocked reads what the reply to a message that went out at sent says of the limit, and returns until when a slice may be spent from: the reset, by
// the service's own clock where that tells it, and sliceLife at most.
func (l *lease) noteLocked(payload any, sent time.Time) (until time.Time) {
	fields, _ := payload.(map[string]any)
	l.left = -1
	if left, ok := fields["remaining"].(float64); ok {
		l.left = max(left, 0)
	}
	until = sent.Add(sliceLife)
	if reset, ok := fields["resetAt"].(float64); ok && reset >= 0 && reset < 1<<53 {
		at := time.UnixMilli(int64(reset))
		if now, ok := fields["now"].(float64); ok && now >= 0 && now < 1<<53 {
			at = sent.Add(time.Duration(reset-now) * time.Millisecond)
		}
		if at.Before(until) {
			until = at
		}
	}
	return until
}

// note reads the reply to a call's own reservation.
func (l *lease) note(payload any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noteLocked(payload, time.Now())
}

// sweep ends the slices whose time is over, and forgets idle leases. It returns requests that outlast their slice, which are to get reservations of their
// own, so that it can be settled.
func (ls *leases) sweep(now time.Time) (outlasting []*Call) {
	ls.byAlias.Range(func(key, v any) bool {
		l := v.(*lease)
		l.mu.Lock()
		defer l.mu.Unlock()
		for len(l.slices) > 0 && !now.Before(l.slices[0].until) {
			l.closeFirstLocked()
		}
		l.over = slices.DeleteFunc(l.over, func(s *slice) bool { return s.settled })
		for _, s := range l.over {
			outlasting = s.outlastingLocked(outlasting, now)
		}
		if len(l.slices)+len(l.over) == 0 && l.asking == nil && now.Sub(l.since) > leaseIdle && ls.byAlias.CompareAndDelete(key, v) {
			l.gone = true
			ls.size.Add(-1)
		}
		return true
	})
	return outlasting
}

// closeAll ends all slices. Where the flow is stopped, none begins afterwards.
func (ls *leases) closeAll() {
	ls.byAlias.Range(func(_, v any) bool {
		l := v.(*lease)
		l.mu.Lock()
		defer l.mu.Unlock()
		for len(l.slices) > 0 {
			l.closeFirstLocked()
		}
		return true
	})
}

// closeFirstLocked ends the slice that is spent from.
func (l *lease) closeFirstLocked() {
	s := l.slices[0]
	l.slices = l.slices[1:]
	s.closeLocked()
}
