package core

import (
	"context"
	"math"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
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
}

// lease is one such ledger. Its slices are reserved as requests are, spent by requests, and settled once for all that were.
type lease struct {
	flow  *Flow
	alias string
	rule  *rule

	mu     sync.Mutex // guards what follows. The outbox's may be taken while it is held
	gone   bool       // it is forgotten
	slices []*slice   // to spend from, in this order
	asking chan struct{}
	left   float64 // what the service says is left; negative: it does not

	since time.Time // requests are counted from here on
	count float64
	rate  float64 // amounts a second, in the time before
}

// slice is an amount that is reserved and not spent.
type slice struct {
	lease      *lease
	settlement *settlement // of what was spent; it accrues until the slice is over

	// Guarded by the lease's mu.
	left    float64
	full    float64
	until   time.Time
	over    bool // nothing is spent from it any more
	running int  // requests that were let in by it and have not ended
	settled bool
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

// spend lets c in if a slice has room for it. If none has, it reserves one, or waits for the one that is on its way, where slices
// pay; else, and where the service grants none, it reports false, and c is to be decided by itself. An error means that there is no answer.
func (l *lease) spend(ctx context.Context, c *Call) (spent bool, err error) {
	for now, first := c.start, true; ; now, first = time.Now(), false {
		l.mu.Lock()
		if l.gone {
			l.mu.Unlock()
			return false, nil
		}
		if first {
			l.countLocked(c)
		}
		if l.takeLocked(c, now) {
			return true, nil // it has unlocked
		}
		size := l.sizeLocked(c.reserved)
		if size <= c.reserved || l.flow.breaker.open() || l.flow.refusals.get(l.alias, c.reserved, now) != nil {
			l.mu.Unlock()
			return false, nil
		}
		wait := l.asking
		if wait == nil {
			l.asking = make(chan struct{})
			l.mu.Unlock()
			if granted, err := l.reserve(ctx, size, c.start); !granted {
				return false, err
			}
			continue
		}
		l.mu.Unlock()
		if err := l.await(ctx, wait, c.start); err != nil {
			return false, err
		}
	}
}

// await waits until the reservation that is on its way was answered, for no longer than a request that has begun at start may wait.
func (l *lease) await(ctx context.Context, answered chan struct{}, start time.Time) error {
	timer := time.NewTimer(time.Until(start.Add(l.flow.cfg.Timeout)))
	defer timer.Stop()
	deadline := ctx
	if _, has := ctx.Deadline(); !has {
		deadline = context.Background() // a client that hangs up must not get past the limit
	}
	select {
	case <-answered:
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

// takeLocked takes c's amount out of a slice, and gives the lock back if it can. Before a slice is empty the next is on its way.
func (l *lease) takeLocked(c *Call, now time.Time) bool {
	for len(l.slices) > 0 {
		s := l.slices[0]
		if now.Before(s.until) && s.left >= c.reserved {
			s.left -= c.reserved
			s.running++
			c.slice, c.granted = s, s.settlement.id
			c.known.Store(true)
			if len(l.slices) == 1 && s.left < s.full/4 && l.asking == nil {
				l.askAheadLocked(c.reserved)
			}
			l.mu.Unlock()
			return true
		}
		l.slices = l.slices[1:]
		s.endLocked()
	}
	return false
}

// askAheadLocked reserves the next slice in a goroutine of its own, which Shutdown waits for as for a decision.
func (l *lease) askAheadLocked(amount float64) {
	size := l.sizeLocked(amount)
	if size <= amount || l.flow.breaker.open() {
		return
	}
	l.asking = make(chan struct{})
	l.flow.deciding.Add(1)
	go func() {
		defer l.flow.decisionOver()
		_, _ = l.reserve(context.Background(), size, time.Now()) // without it, the next request asks
	}()
}

// reserve reserves a slice. Who calls it has set asking. An error means that there is no answer, in the time that a request which has
// begun at start may wait.
func (l *lease) reserve(ctx context.Context, size float64, start time.Time) (granted bool, err error) {
	ids := newIDs()
	ctx, cancel := context.WithDeadline(ctx, start.Add(l.flow.cfg.Timeout))
	defer cancel()
	resp, err := l.flow.ask(ctx, &socket.UsageFlowSocketMessage{
		Type:    socket.TypeRequestForAllocation,
		Payload: &socket.RequestForAllocation{Alias: l.alias, Amount: size, AllocationID: ids[:uuidLen]},
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.asking)
	l.asking = nil
	e := &settlement{flow: l.flow, alias: l.alias, id: ids[:uuidLen], reserveID: ids, reserved: size, lease: l}
	e.known.Store(true)
	if err != nil {
		l.flow.breaker.failed(err)
		if mayHaveReserved(err) {
			e.payload = l.payload(e)
			if l.flow.outbox.add(e) == inMemory {
				l.flow.sender.retryNow()
			}
		}
		return false, err
	}
	l.flow.breaker.answered()
	l.flow.decided()
	now := time.Now()
	reset := l.noteLocked(resp.Payload, now)
	if resp.Refused() {
		l.left = max(l.left, 0) // without a number, go on one by one
		return false, nil
	}
	if payload, ok := resp.Payload.(map[string]any); ok {
		if id, ok := payload["allocationId"].(string); ok && id != "" && len(id) <= maxIdentityBytes {
			e.id = id
		}
	}
	e.accruing = true
	s := &slice{lease: l, settlement: e, left: size, full: size, until: now.Add(sliceLife)}
	if !reset.IsZero() && reset.Before(s.until) {
		s.until = reset
	}
	if l.flow.outbox.add(e) != inMemory {
		return false, nil // what is reserved expires: there is no room to remember it
	}
	if l.flow.stopped.Load() {
		s.endLocked()
		return false, nil
	}
	l.slices = append(l.slices, s)
	return true, nil
}

// noteLocked reads what a reply says of the limit, and returns when it is reset, the zero time if that is not said.
func (l *lease) noteLocked(payload any, now time.Time) (reset time.Time) {
	fields, _ := payload.(map[string]any)
	l.left = -1
	if left, ok := fields["remaining"].(float64); ok {
		l.left = max(left, 0)
	}
	if r := newRefusal(0, "", payload, now); r.resetKnown {
		return r.until
	}
	return time.Time{}
}

// note reads the reply to a call's own reservation.
func (l *lease) note(payload any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noteLocked(payload, time.Now())
}

// endLocked ends a slice. When its last request has ended, it is settled, and what was not spent goes back.
func (s *slice) endLocked() {
	s.over = true
	s.settleLocked()
}

func (s *slice) settleLocked() {
	if !s.over || s.running > 0 || s.settled {
		return
	}
	s.settled = true
	s.lease.flow.outbox.accrued(s.settlement)
	s.lease.flow.sender.retryNow()
}

// ended notes that a request which the slice let in has ended, and what it is charged.
func (s *slice) ended(reserved, amount float64) {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	s.running--
	s.left += reserved - amount // what it did not need is for others
	s.lease.flow.outbox.accrue(s.settlement, amount)
	s.settleLocked()
}

// lost notes that the settlement of a request is lost.
func (s *slice) lost() {
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	s.running--
	s.settleLocked()
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

// sweep ends the slices whose time is over, and all of them where all is set, and forgets idle leases.
func (ls *leases) sweep(now time.Time, all bool) {
	ls.byAlias.Range(func(key, v any) bool {
		l := v.(*lease)
		l.mu.Lock()
		defer l.mu.Unlock()
		for len(l.slices) > 0 && (all || !now.Before(l.slices[0].until)) {
			s := l.slices[0]
			l.slices = l.slices[1:]
			s.endLocked()
		}
		if len(l.slices) == 0 && l.asking == nil && now.Sub(l.since) > leaseIdle && ls.byAlias.CompareAndDelete(key, v) {
			l.gone = true
			ls.size.Add(-1)
		}
		return true
	})
}
