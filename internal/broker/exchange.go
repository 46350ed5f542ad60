package broker

import (
	"sync/atomic"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// Outcome is how a request ended.
type Outcome int

// The outcomes of requests. Each request has exactly one.
const (
	opened       Outcome = iota // not an outcome: how many requests came
	Completed                   // the whole answer was passed on
	Failed                      // the provider answered with a failure
	NoProvider                  // there was none
	Busy                        // a limit was reached
	Draining                    // the relay takes no new requests
	ProviderLost                // its connection ended, or it gave up
	Expired                     // the time was over
	Cancelled                   // the consumer gave up, or its connection ended
	numOutcomes
)

// exchange is one request and its answer: two legs, and what concerns both.
type exchange struct {
	relay    *Relay
	worker   *worker
	opened   int64
	answered atomic.Bool // the answer has begun

	// Guarded by worker.mu.
	deadline deadline
	over     bool

	consumer, provider leg
	detour             *detour // in the place of provider; nil without one. Static after begin
}

func (x *exchange) due() *deadline { return &x.deadline }

// leg is one side of an exchange: a stream on one connection. Its connection's Out.mu guards it, but for
// what is static after the exchange was begun.
type leg struct {
	exchange *exchange // static
	conn     *Conn     // static
	other    *leg      // static

	send  sender
	gone  bool  // no longer in the table of conn
	allow int64 // bytes that other's peer may still send to this leg
	held  int64 // bytes of credit that this leg's peer gave and that were not passed on
	room  int64 // bytes reserved for what other's peer may send or has sent

	began   bool // a HEAD was put in
	failing bool // a HEAD with FlagError was put in
}

// begin sets the leg up. reserved is what was reserved for it.
func (l *leg) begin(x *exchange, conn *Conn, id uint64, other *leg, allow, reserved int64) {
	l.exchange, l.conn, l.other = x, conn, other
	l.send.id, l.send.leg = id, l
	l.allow, l.room = allow, reserved
}

// put queues a frame that came from the other leg. It needs Out.mu.
func (l *leg) put(f *Frame) {
	if len(f.Payload) >= passOn && f.buf != nil {
		f.buf.retain()
		l.conn.Out.putWhole(&l.send, f.raw, f.Flags, f.buf)
		return
	}
	l.conn.Out.putCopy(&l.send, f.Type, f.Flags, nil, f.Payload)
}

// remove takes the leg out of its connection's table and forgets what it has queued. It needs Out.mu.
func (l *leg) remove() {
	if l.gone {
		return
	}
	l.gone = true
	delete(l.conn.legs, l.send.id)
	l.exchange.relay.discarded.Add(uint64(l.send.bytes))
	l.conn.Out.drop(&l.send)
	l.exchange.relay.release(l.conn.channel, l.room)
	l.room, l.held = 0, 0
	if l == &l.exchange.consumer {
		l.exchange.relay.running.Add(-1)
	} else {
		l.conn.outstanding.Add(-1)
	}
}

// taken is called by the outbox when something of the leg's queue has left it. It needs Out.mu, and says
// whether afterTake is to be called.
func (l *leg) taken() bool {
	if l.send.ended && l.send.queue.len() == 0 && l == &l.exchange.consumer {
		l.remove() // the last of the answer
		return true
	}
	return l.held > 0
}

// afterTake does what taken could not do under the lock.
func (l *leg) afterTake() {
	l.conn.Out.mu.Lock()
	drained := l.gone && l.send.ended
	n := l.credit(0)
	l.conn.Out.mu.Unlock()
	if drained && l == &l.exchange.consumer {
		l.exchange.complete()
	}
	if n > 0 { // that had to wait
		var b Batch
		l.grantOther(n, &b)
		b.Flush()
	}
}

// grantOther gives the other leg's peer n bytes of credit.
func (l *leg) grantOther(n uint32, b *Batch) {
	if l == &l.exchange.consumer && l.exchange.detour != nil {
		l.exchange.detour.credit(n, b)
		return
	}
	l.other.grant(n)
	b.touch(&l.other.conn.Out)
}

// unsent says whether the leg's OPEN still waits.
func (l *leg) unsent() bool {
	l.conn.Out.mu.Lock()
	defer l.conn.Out.mu.Unlock()
	return !l.gone && !l.send.opened
}

// credit takes n more bytes of credit from the leg's peer and returns how many of them may be passed on:
// as many as fit into what is reserved, which grows up to the limit. It needs Out.mu.
func (l *leg) credit(n int64) uint32 {
	if l.gone || l.send.ended {
		return 0
	}
	r := l.exchange.relay
	// More than the window is never passed on, so more need not be remembered.
	l.held = min(l.held+n, int64(r.limits.Window))
	used := l.allow + int64(l.send.bytes)
	if more := min(int64(r.limits.Window), used+l.held) - l.room; more > 0 && r.reserve(l.conn.channel, more) {
		l.room += more
	}
	pass := max(min(l.held, l.room-used), 0)
	l.held -= pass
	l.allow += pass
	return uint32(pass)
}

// grant gives the leg's peer n bytes of credit.
func (l *leg) grant(n uint32) {
	out := &l.conn.Out
	out.mu.Lock()
	if !l.gone && !out.closed {
		out.grant(&l.send, n)
	}
	out.mu.Unlock()
}

// end ends the exchange, if it is not over: who says so, by which code, is from (nil for the relay). The
// other side is told.
func (x *exchange) end(code frame.Code, from *leg, b *Batch) {
	w := x.worker
	w.mu.Lock()
	over := x.over
	x.over = true
	w.running.remove(x)
	w.mu.Unlock()
	if over {
		return
	}
	p := &x.provider
	if x.detour != nil {
		p = x.detour.end()
	}
	if p != nil && p.conn != nil {
		out := &p.conn.Out
		out.mu.Lock()
		if !p.gone {
			sent := p.send.opened
			p.remove()
			if sent && from != p && !out.closed {
				out.reset(p.send.id, code)
				b.touch(out)
			}
			if !sent && code == frame.ProviderLost {
				code = frame.Unsent
			}
		}
		out.mu.Unlock()
	}
	c := &x.consumer
	out := &c.conn.Out
	out.mu.Lock()
	if !c.gone {
		c.remove()
		if from != c && !out.closed {
			out.reset(c.send.id, code)
			b.touch(out)
		}
	}
	out.mu.Unlock()
	x.relay.counts[outcomeOf(code)].Add(1)
}

// complete ends the exchange after the last of its answer has left the consumer's leg.
func (x *exchange) complete() {
	w := x.worker
	w.mu.Lock()
	over := x.over
	x.over = true
	w.running.remove(x)
	w.mu.Unlock()
	switch {
	case over: // its time was over just now
	case x.consumer.failing: // which changes no more
		x.relay.counts[Failed].Add(1)
	default:
		x.relay.counts[Completed].Add(1)
	}
}

func outcomeOf(code frame.Code) Outcome {
	switch code {
	case frame.NoProvider:
		return NoProvider
	case frame.Busy:
		return Busy
	case frame.Rejected:
		return Failed
	case frame.Draining:
		return Draining
	case frame.Deadline:
		return Expired
	case frame.Cancelled:
		return Cancelled
	default:
		return ProviderLost
	}
}
