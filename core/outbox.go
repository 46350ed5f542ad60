package core

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

const (
	// confirmTimeout is how long the service has to confirm a settlement before it is sent again; it doubles
	// with each time, up to lastResendDelay.
	confirmTimeout  = 5 * time.Second
	lastResendDelay = 60 * time.Second
	// refusedDelay is the first delay after an answer that refuses a settlement.
	refusedDelay = time.Second
	// settlementOverhead is what a settlement takes beside its payload, in bytes.
	settlementOverhead = 400
	// dropLogPeriod is the least time between two log lines about lost settlements.
	dropLogPeriod = 10 * time.Second
)

// outbox keeps every settlement until the service has confirmed it: in memory, with a spool on disk too, and where memory
// has no room for it, there alone.
type outbox struct {
	flow  *Flow
	spool *spool // nil without Config.SpoolDir

	mu       sync.Mutex // guards what follows, and the settlements' state; a lease's may be held when it is taken
	oldest   *settlement
	newest   *settlement
	bytes    int64
	settled  int64
	voided   int64
	spooled  int64
	dropped  int64
	amount   float64 // that is settled
	unlogged int64   // dropped since the last log line
	loggedAt time.Time
	changed  chan struct{} // closed, and made anew, when fewer are open; nil: nobody waits
	closed   bool          // the flow has ended: nothing is taken any more
}

// settlement is one use_allocation until it is confirmed.
type settlement struct {
	// Static after construction.
	flow      *Flow
	alias, id string
	reserveID string
	reserved  float64
	amount    float64
	settles   int64 // how many requests it settles with an amount, and
	voids     int64 // without one; it takes no part in Stats where both are 0: it voids a request that was refused
	payload   []byte
	receipt   *receipt // given when it can't be lost any more, or is
	lease     *lease   // of a slice's: its amount, settles, voids and payload change under the outbox's mu as long as it accrues

	known   atomic.Bool // the service has answered the reservation
	waiting atomic.Bool // a reservation that went out with the settlement waits for its answer

	// Owned by the sender.
	lane  wire.Lane // the lane that it, and its reservation, went out on
	tries int

	// Guarded by the outbox's mu.
	older, newer *settlement
	open         bool      // it is in the list
	entry        uint64    // its number in the spool; 0: it is not there
	away         bool      // it goes to the spool alone
	queued       bool      // it waits to be written to the spool
	onDiskWeight int64     // its weight as the spool has it
	accruing     bool      // requests are added to it: it is not to be sent yet
	dueAt        time.Time // when it is to be sent, or sent again
	refusals     int
}

func newOutbox(f *Flow) *outbox { return &outbox{flow: f} }

// size is what the settlement takes in memory; a slice's payload is not there yet.
func (e *settlement) size() int64 {
	if e.lease != nil {
		return int64(3*len(e.alias)) + 2*settlementOverhead
	}
	return int64(len(e.payload)+len(e.alias)) + settlementOverhead
}

// weight is how many requests it stands for in Stats.
func (e *settlement) weight() int64 { return e.settles + e.voids }

// placement is where the outbox has put a settlement.
type placement int

const (
	noRoom   placement = iota // there is no room
	inMemory                  // it is in the list, and can be sent
	onDisk                    // it waits on disk, or will do, behind others
)

// add takes a settlement, which is then the newest.
func (o *outbox) add(e *settlement) placement {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.bytes+e.size() > o.flow.cfg.MaxPendingBytes {
		return noRoom
	}
	o.bytes += e.size()
	if o.spool != nil && e.weight() > 0 && o.spool.takeLocked(e) {
		return onDisk
	}
	o.linkLocked(e)
	return inMemory
}

// hasRoom reports whether add would take e.
func (o *outbox) hasRoom(e *settlement) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.closed && o.bytes+e.size() <= o.flow.cfg.MaxPendingBytes
}

// linkLocked puts e at the end of the list.
func (o *outbox) linkLocked(e *settlement) {
	e.open, e.older = true, o.newest
	if o.newest == nil {
		o.oldest = e
	} else {
		o.newest.newer = e
	}
	o.newest = e
}

// retry makes e due again at the given time: when an answer should have come, or at once (the zero time) where its lane has failed.
func (o *outbox) retry(e *settlement, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.dueAt = at
}

// accrue adds a request to a slice's settlement.
func (o *outbox) accrue(e *settlement, amount float64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.amount += amount
	if amount > 0 {
		e.settles++
	} else {
		e.voids++
	}
	if o.spool != nil && !e.queued && e.open {
		o.spool.queueLocked(e)
	}
}

// seal says that no request is added to e any more: it can be sent.
func (o *outbox) seal(e *settlement) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.payload = e.lease.payload(e)
	e.accruing = false
}

// dueNow makes every settlement due: the service answers again.
func (o *outbox) dueNow() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := o.oldest; e != nil; e = e.newer {
		e.dueAt = time.Time{}
	}
}

func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.oldest == nil
}

// due returns the settlements that are due, oldest first.
func (o *outbox) due(now time.Time) []*settlement {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []*settlement
	for e := o.oldest; e != nil; e = e.newer {
		if !e.accruing && !e.dueAt.After(now) {
			list = append(list, e)
		}
	}
	return list
}

var _ wire.Completion = (*settlement)(nil)

// Complete implements wire.Completion.
func (e *settlement) Complete(reply *wire.Reply, err error) {
	switch {
	case err != nil:
		e.flow.outbox.retry(e, time.Time{})
		e.flow.sender.retryNow()
	case reply != nil && reply.Refused():
		e.flow.outbox.refused(e, string(reply.Error)+" "+string(reply.Message))
	default:
		e.flow.outbox.confirm(e)
	}
}

// confirm takes e out: the service has charged it.
func (o *outbox) confirm(e *settlement) {
	o.mu.Lock()
	if !e.open {
		o.mu.Unlock()
		return // it was sent twice, and confirmed twice
	}
	o.removeLocked(e)
	if e.entry != 0 {
		o.spool.removeLocked(e)
	}
	o.settled += e.settles
	o.voided += e.voids
	if e.weight() > 0 {
		o.amount += e.amount
	}
	o.wakeLocked()
	o.mu.Unlock()
	e.receipt.give()
	if e.amount < e.reserved {
		o.flow.refusals.forget(e.alias) // what was held beyond it is free again
	}
	if e.weight() > 0 {
		kind := EventSettled
		if e.settles == 0 {
			kind = EventVoided
		}
		o.flow.observe(Event{Kind: kind, Alias: e.alias, AllocationID: e.id, Amount: e.amount})
	}
}

// leave counts a job that charges nothing, and leaves its reservation to the run that follows.
func (o *outbox) leave() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.voided++
	o.wakeLocked()
}

func (o *outbox) removeLocked(e *settlement) {
	if e.older == nil {
		o.oldest = e.newer
	} else {
		e.older.newer = e.newer
	}
	if e.newer == nil {
		o.newest = e.older
	} else {
		e.newer.older = e.older
	}
	e.open, e.older, e.newer = false, nil, nil
	o.bytes -= e.size()
}

// refused keeps e, and sends it again after a growing delay: only a confirmation ends it.
func (o *outbox) refused(e *settlement, why string) {
	o.mu.Lock()
	delay := min(refusedDelay<<min(e.refusals, 10), lastResendDelay)
	e.dueAt = time.Now().Add(delay/2 + rand.N(delay/2))
	e.refusals++
	first := e.refusals == 1 && e.open
	o.mu.Unlock()
	if first {
		o.flow.log.Warn("usageflow: the service refused a settlement; it is sent again", "alias", e.alias, "allocation_id", e.id, "reason", why)
	}
}

// drop counts requests whose settlement is lost, and says so in the log.
func (o *outbox) drop(alias, id string, requests int64, why string) {
	o.mu.Lock()
	o.dropped += requests
	o.unlogged += requests
	lost := int64(0)
	if now := time.Now(); now.Sub(o.loggedAt) >= dropLogPeriod {
		o.loggedAt, lost, o.unlogged = now, o.unlogged, 0
	}
	o.wakeLocked()
	o.mu.Unlock()
	if lost > 0 {
		o.flow.log.Error("usageflow: settlements lost", "count", lost, "reason", why, "alias", alias)
	}
	o.flow.observe(Event{Kind: EventDropped, Alias: alias, AllocationID: id})
}

// abandon gives up what is unconfirmed when the flow has ended, and returns how many settlements are lost, those of calls
// that still run among them, and how many are on disk.
func (o *outbox) abandon() (lost, onDisk int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	lost, onDisk = o.statsLocked().Pending, o.spooled
	for o.oldest != nil {
		e := o.oldest
		o.removeLocked(e)
		e.receipt.give()
		o.dropped += e.weight() - e.onDiskWeight
		if e.weight() == 0 && !e.accruing {
			lost++
		}
	}
	if o.spool != nil {
		o.dropped += o.spool.abandonLocked()
	}
	o.wakeLocked()
	return lost, onDisk
}

// wake makes drain look again.
func (o *outbox) wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wakeLocked()
}

func (o *outbox) wakeLocked() {
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
}

// stats is the part of Stats that adds up.
func (o *outbox) stats() Stats {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.statsLocked()
}

func (o *outbox) statsLocked() Stats {
	s := Stats{Settled: o.settled, Voided: o.voided, Spooled: o.spooled, Dropped: o.dropped, Amount: o.amount}
	// Read last: what is settled was admitted before. Pending is the rest, by definition.
	s.Admitted = o.flow.counters.admitted.Load()
	s.Pending = s.Admitted - s.Settled - s.Voided - s.Spooled - s.Dropped
	return s
}

// drain waits until no decision is awaited, every call has ended and every settlement is confirmed. It reports false if
// ctx ended first.
func (o *outbox) drain(ctx context.Context) bool {
	for {
		o.mu.Lock()
		// In this order: a call is counted as admitted before its decision is over.
		deciding := o.flow.deciding.Load()
		if s := o.statsLocked(); deciding == 0 && s.Pending == 0 && s.Spooled == 0 && o.oldest == nil {
			o.mu.Unlock()
			return true
		}
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		changed := o.changed
		o.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}
