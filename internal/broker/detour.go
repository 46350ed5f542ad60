package broker

import (
	"cmp"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// maxSeeks is how often other relays are looked for, for one request.
const maxSeeks = 3

// detour is the request's side of an exchange that no provider of this relay answers. The request waits for a
// provider, or one behind another relay has it, which may refuse it. Until a provider is known to have begun, all
// that the consumer has sent is kept, and goes to the next one when one refuses.
type detour struct {
	exchange *exchange
	up       int64 // reserved for the request
	allowed  int64 // bytes that may follow the OPEN at first

	mu    sync.Mutex // a worker's lock may be held when it is taken, an Outbox's may be taken under it
	over  bool
	leg   *leg // the provider's; nil while there is none
	tried []*Conn
	seeks int
	kept  []keptFrame // OPEN, DATA; none once begun
	begun bool        // a provider has answered, or granted credit
	last  bool        // the request's END is kept
	room  int64       // that is reserved while there is no leg
	allow int64       // bytes that the consumer may still send before a provider has begun
	grant uint32      // credit for the answer that came before that
	why   frame.Code  // of the last that refused it; 0: none has
}

type keptFrame struct {
	frameType frame.Type
	flags     frame.Flags
	payload   []byte
}

func (k keptFrame) frame() *Frame {
	return &Frame{Header: frame.Header{Length: uint32(len(k.payload)), Type: k.frameType, Flags: k.flags}, Payload: k.payload}
}

// newDetour begins the detour of an exchange whose OPEN is f. What was reserved for it is up, and allow bytes may follow.
func newDetour(x *exchange, f *Frame, up, allow int64) *detour {
	d := &detour{exchange: x, up: up, allowed: allow, room: up, allow: allow}
	d.keep(f)
	return d
}

// keep remembers a frame of the request. It needs mu, or a detour that nobody else has.
func (d *detour) keep(f *Frame) {
	d.kept = append(d.kept, keptFrame{f.Type, f.Flags, slices.Clone(f.Payload)})
	d.last = f.Flags&frame.FlagEnd != 0
}

// send gives the request to a provider, or lets it wait for one. It returns why not, if so. wait says that others are
// to be looked for.
func (d *detour) send(b *Batch) (code frame.Code, wait bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sendLocked(b)
}

func (d *detour) sendLocked(b *Batch) (code frame.Code, wait bool) {
	if d.over || d.leg != nil {
		return 0, false
	}
	ch := d.exchange.consumer.conn.channel
	for range 2 {
		if code = d.dispatchLocked(b); code != frame.NoProvider {
			ch.forget(d)
			return code, false
		}
		if d.seeks >= maxSeeks || d.exchange.relay.Seek == nil {
			ch.forget(d)
			return code, false
		}
		ch.await(d) // who comes from now on finds it; one may have come just before
	}
	d.seeks++
	return 0, true
}

// dispatchLocked chooses a provider and gives it what is kept.
func (d *detour) dispatchLocked(b *Batch) frame.Code {
	x := d.exchange
	for {
		p, code := x.relay.choose(x.consumer.conn.channel, d.tried)
		if p == nil {
			return code
		}
		l := &leg{}
		p.Out.mu.Lock()
		if p.Out.closed || p.retired || len(p.legs) >= x.relay.limits.Streams {
			p.Out.mu.Unlock()
			continue
		}
		p.last++
		l.begin(x, p, p.last, &x.consumer, d.allowed, d.up)
		p.legs[p.last] = l
		p.peak.Store(max(p.peak.Load(), p.outstanding.Add(1))) // Out.mu is held
		l.put(d.kept[0].frame())
		p.Out.mu.Unlock()
		b.touch(&p.Out)
		d.leg, d.room = l, 0
		for _, k := range d.kept[1:] {
			_ = l.pass(k.frame(), b) // it was found right when it came
		}
		l.grant(d.grant)
		return 0
	}
}

// pass takes a DATA of the request.
func (d *detour) pass(f *Frame, b *Batch) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := int64(len(f.Payload))
	switch {
	case d.over:
		d.exchange.relay.discarded.Add(uint64(n))
		return nil
	case d.begun:
		return d.leg.pass(f, b)
	case f.Type == frame.Head:
		return violation("HEAD out of place")
	case d.last:
		return violation("%v after the end of stream", f.Type)
	case n > d.allow:
		return violation("%v of %d bytes where credit is left for %d", f.Type, n, d.allow)
	}
	d.keep(f)
	d.allow -= n
	if d.leg == nil {
		return nil
	}
	return d.leg.pass(f, b)
}

// credit passes on credit for the answer.
func (d *detour) credit(n uint32, b *Batch) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over {
		return
	}
	if !d.begun {
		d.grant += n
	}
	if d.leg != nil {
		d.leg.grant(n)
		b.touch(&d.leg.conn.Out)
	}
}

// begins notes that the provider has begun with the request: it goes to no other.
func (d *detour) begins() {
	d.mu.Lock()
	d.begun, d.kept = true, nil
	d.mu.Unlock()
}

// refused takes the request back from l, whose provider has not begun with it, and sends it elsewhere. It says whether that was possible, or
// the code to end the exchange with; and whether others are to be looked for.
func (d *detour) refused(l *leg, code frame.Code, b *Batch) (_ frame.Code, wait bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over || d.leg != l {
		return 0, false
	}
	if d.begun {
		return code, false
	}
	out := &l.conn.Out
	out.mu.Lock()
	l.room = 0 // it stays reserved
	l.remove()
	out.mu.Unlock()
	d.leg, d.room = nil, d.up
	d.tried, d.why = append(d.tried, l.conn), code
	code, wait = d.sendLocked(b)
	return d.reason(code), wait
}

// reason is the code to end an exchange with that no provider took: what the last that refused it said.
func (d *detour) reason(code frame.Code) frame.Code {
	if code == frame.NoProvider && d.why != 0 {
		return d.why
	}
	return code
}

// end gives up what is kept and returns the provider's leg, nil where there is none.
func (d *detour) end() *leg {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over, d.kept = true, nil
	ch := d.exchange.consumer.conn.channel
	d.exchange.relay.release(ch, d.room)
	d.room = 0
	ch.forget(d)
	return d.leg
}

// await puts d among those that wait for a provider.
func (ch *channel) await(d *detour) {
	ch.waitMu.Lock()
	defer ch.waitMu.Unlock()
	if ch.waiting == nil {
		ch.waiting = map[*detour]struct{}{}
	}
	ch.waiting[d] = struct{}{}
}

func (ch *channel) forget(d *detour) {
	ch.waitMu.Lock()
	delete(ch.waiting, d)
	ch.waitMu.Unlock()
}

// takeWaiting returns those that wait for a provider, and forgets them.
func (ch *channel) takeWaiting() []*detour {
	ch.waitMu.Lock()
	defer ch.waitMu.Unlock()
	list := make([]*detour, 0, len(ch.waiting))
	for d := range ch.waiting {
		list = append(list, d)
	}
	clear(ch.waiting)
	slices.SortFunc(list, func(a, b *detour) int {
		return cmp.Or(cmp.Compare(a.exchange.opened, b.exchange.opened), cmp.Compare(a.exchange.consumer.send.id, b.exchange.consumer.send.id))
	})
	return list
}

// resume sends the requests that wait on a channel to providers that have come.
func (r *Relay) resume(ch *channel) {
	if r.Seek == nil {
		return
	}
	var b Batch
	for _, d := range ch.takeWaiting() {
		d.resume(&b)
	}
	b.Flush()
}

func (d *detour) resume(b *Batch) {
	code, wait := d.send(b)
	d.settle(code, wait, nil, b)
}

// settle does what send or refused could not do under their locks. from is the leg that refused, if one has.
func (d *detour) settle(code frame.Code, wait bool, from *leg, b *Batch) {
	switch {
	case code != 0:
		d.exchange.end(code, from, b)
	case wait:
		d.exchange.relay.Seek(d.exchange.consumer.conn.id)
	}
}

// Absent says that no other relay has providers for a channel: requests that wait for one are refused.
func (r *Relay) Absent(id uuid.UUID) {
	r.mu.Lock()
	ch := r.channels[id]
	r.mu.Unlock()
	if ch == nil {
		return
	}
	var b Batch
	for _, d := range ch.takeWaiting() {
		d.absent(&b)
	}
	b.Flush()
}

// absent refuses a request for which no provider was found, unless one has come just now.
func (d *detour) absent(b *Batch) {
	d.mu.Lock()
	code := frame.Code(0)
	if !d.over && d.leg == nil {
		code = d.reason(d.dispatchLocked(b))
	}
	d.mu.Unlock()
	d.settle(code, false, nil, b)
}

// notBegun says whether a relay that ends a request with the code has given it to nobody.
func notBegun(code frame.Code) bool {
	return code == frame.NoProvider || code == frame.Busy || code == frame.Draining || code == frame.Unsent
}

// refused is called when another relay, or the end of the connection to it, says that nobody has begun with the request.
func (l *leg) refused(code frame.Code, b *Batch) error {
	d := l.exchange.detour
	code, seek := d.refused(l, code, b)
	d.settle(code, seek, l, b)
	return nil
}

// discardProvider removes the provider's leg.
func (x *exchange) discardProvider() {
	if x.detour == nil {
		x.provider.discard()
	} else if l := x.detour.end(); l != nil {
		l.discard()
	}
}
