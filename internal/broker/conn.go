package broker

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// ErrProtocol is what a peer that breaks the protocol is told. It ends the connection, and nothing else.
var ErrProtocol = errors.New("broker: the peer broke the protocol")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// Conn is a client's connection in the Relay.
type Conn struct {
	Out Outbox

	relay   *Relay
	role    frame.Role
	id      uuid.UUID // of the channel
	channel *channel  // static after Connect

	leaving     bool          // Guarded by Relay.mu.
	outstanding atomic.Int64  // legs of a provider
	remote      bool          // another relay's; static
	places      atomic.Int64  // providers that it has, 1 or more
	others      atomic.Int64  // requests that it has from others
	peak        atomic.Int64  // of outstanding, since its load was told
	chosen      atomic.Uint64 // the channel's turn at which the provider was chosen last

	// Guarded by Out.mu.
	legs    map[uint64]*leg
	last    uint64 // the highest stream id so far
	retired bool   // no more requests are given to it
}

// Receive deals with a frame that the client sent. One goroutine calls it. The outboxes in b are to be
// flushed after it. An error ends the connection; it is an *Error where the client said that it does so.
func (c *Conn) Receive(f *Frame, now int64, b *Batch) error {
	switch f.Type {
	case frame.Open:
		return c.open(f, now, b)
	case frame.Head, frame.Data:
		l, err := c.find(f)
		switch {
		case l == nil:
			return err
		case l.exchange.detour == nil:
			return l.other.pass(f, b)
		case c.role == frame.Consumer:
			return l.exchange.detour.pass(f, b)
		}
		l.exchange.detour.begins()
		return l.other.pass(f, b)
	case frame.Credit:
		n, err := frame.ParseCredit(f.Payload)
		if err != nil {
			return err
		}
		return c.receiveCredit(f, int64(n), b)
	case frame.Reset:
		return c.receiveReset(f, b)
	case frame.Ping:
		return c.Out.receivePing(f, b)
	case frame.GoAway:
		return c.receiveGoAway(f, b)
	default:
		return violation("%v after the handshake", f.Type)
	}
}

// find returns the leg that a frame belongs to; nil where its exchange is over.
func (c *Conn) find(f *Frame) (*leg, error) {
	c.Out.mu.Lock()
	defer c.Out.mu.Unlock()
	if l := c.legs[f.Stream]; l != nil {
		return l, nil
	}
	if f.Stream > c.last {
		return nil, violation("%v of stream %d, which was not opened", f.Type, f.Stream)
	}
	c.relay.discarded.Add(uint64(len(f.Payload)))
	return nil, nil
}

// open admits a request, chooses its provider and passes it on.
func (c *Conn) open(f *Frame, now int64, b *Batch) error {
	if c.role != frame.Consumer {
		return violation("OPEN from a provider")
	}
	o, err := frame.ParseOpen(f.Payload)
	if err == nil { // the provider trusts the relay
		err = frame.CheckMetadata(o.Metadata)
	}
	if err != nil {
		return err
	}
	r := c.relay
	x := &exchange{relay: r, worker: r.worker(o.RequestID), opened: now}
	x.deadline.at = now + int64(o.Timeout)
	up := int64(len(f.Payload)) // reserved for the request
	if f.Flags&frame.FlagEnd == 0 {
		up += frame.InitialWindow - int64(len(o.Data))
	}
	w := x.worker
	w.mu.Lock()
	code, err := c.admit(x, f.Stream, up)
	if err == nil {
		r.counts[opened].Add(1)
	}
	seek := false
	if code == 0 && err == nil {
		if code, seek = x.begin(f, up, b); code == 0 {
			w.running.add(x)
			if r.noteDeadline(x.deadline.at) && r.alarm != nil {
				defer r.alarm()
			}
		}
	}
	x.over = code != 0
	w.mu.Unlock()
	switch {
	case err != nil:
		return err
	case code != 0:
		c.refuse(x, f.Stream, code)
		b.touch(&c.Out)
	case seek:
		r.Seek(c.id)
	}
	return nil
}

// admit reserves what the exchange may need and begins the consumer's leg, or says why not.
func (c *Conn) admit(x *exchange, id uint64, up int64) (frame.Code, error) {
	c.Out.mu.Lock()
	defer c.Out.mu.Unlock()
	if id <= c.last {
		return 0, violation("OPEN of stream %d after %d", id, c.last)
	}
	c.last = id
	r := c.relay
	switch {
	case r.leaving.Load():
		return frame.Draining, nil
	case c.Out.closed:
		return frame.Stopped, nil
	case len(c.legs) >= r.limits.Streams:
		return frame.Busy, nil
	case !r.reserve(c.channel, up+frame.InitialWindow):
		return frame.Busy, nil
	}
	x.consumer.begin(x, c, id, &x.provider, frame.InitialWindow, frame.InitialWindow)
	x.consumer.send.opened = true
	c.legs[id] = &x.consumer
	r.running.Add(1)
	return 0, nil
}

// begin gives the request to a provider, or to a detour. What was reserved for it is up. It returns why not, if so, and whether
// other relays are to be looked for.
func (x *exchange) begin(f *Frame, up int64, b *Batch) (code frame.Code, seek bool) {
	allow := up - int64(len(f.Payload))
	c := x.consumer.conn
	p, code := x.dispatch(f, up, allow)
	if code == 0 {
		b.touch(&p.Out)
		return 0, false
	}
	if !c.remote && (x.relay.Seek != nil || len(*c.channel.remotes.Load()) > 0) {
		x.detour = newDetour(x, f, up, allow)
		if code, seek = x.detour.send(b); code != 0 {
			x.detour.end()
		}
		return code, seek
	}
	x.relay.release(c.channel, up)
	return code, false
}

// dispatch chooses a provider of this relay and gives it the request. What was reserved for the request is up; it may
// still send allow bytes.
func (x *exchange) dispatch(f *Frame, up, allow int64) (*Conn, frame.Code) {
	for {
		p, code := x.relay.local(x.consumer.conn.channel)
		if p == nil {
			return nil, code
		}
		p.Out.mu.Lock()
		// Who is closed or retired is no longer among those that are chosen from.
		if p.Out.closed || p.retired || len(p.legs) >= x.relay.limits.Streams {
			p.Out.mu.Unlock()
			continue
		}
		p.last++
		x.provider.begin(x, p, p.last, &x.consumer, allow, up)
		p.legs[p.last] = &x.provider
		p.outstanding.Add(1)
		x.provider.put(f)
		p.Out.mu.Unlock()
		return p, 0
	}
}

// refuse ends an exchange that was given to nobody.
func (c *Conn) refuse(x *exchange, id uint64, code frame.Code) {
	c.relay.counts[outcomeOf(code)].Add(1)
	c.Out.mu.Lock()
	defer c.Out.mu.Unlock()
	if x.consumer.conn != nil {
		x.consumer.remove()
	}
	if !c.Out.closed {
		c.Out.reset(id, code)
	}
}

// pass puts a HEAD or DATA that came from the other leg into this one's outbox.
func (l *leg) pass(f *Frame, b *Batch) error {
	out := &l.conn.Out
	n := int64(len(f.Payload))
	last := f.Flags&frame.FlagEnd != 0
	out.mu.Lock()
	if l.gone || out.closed {
		out.mu.Unlock()
		l.exchange.relay.discarded.Add(uint64(n))
		return nil
	}
	if err := l.check(f); err != nil {
		out.mu.Unlock()
		return err
	}
	l.allow -= n
	if n > 0 || last || f.Type == frame.Head {
		l.put(f)
	}
	held := l.credit(0) // for what did not have to wait
	x := l.exchange
	answer := l == &x.consumer
	drained := answer && last && l.send.queue.len() == 0
	if drained {
		l.remove()
	}
	out.mu.Unlock()
	b.touch(out)
	if held > 0 {
		l.grantOther(held, b)
	}
	if answer && f.Type == frame.Head {
		x.answered.Store(true)
	}
	if answer && last {
		x.discardProvider() // it has nothing more to say
	}
	if drained {
		x.complete()
	}
	return nil
}

// check says what is wrong with a frame that is to be put into l, and notes what it begins. It needs Out.mu.
func (l *leg) check(f *Frame) error {
	answer, failure := l == &l.exchange.consumer, f.Flags&frame.FlagError != 0
	switch {
	case l.send.ended:
		return violation("%v after the end of stream", f.Type)
	case int64(len(f.Payload)) > l.allow:
		return violation("%v of %d bytes where credit is left for %d", f.Type, len(f.Payload), l.allow)
	case f.Type == frame.Head && (!answer || l.failing || l.began && !failure):
		return violation("HEAD out of place")
	case f.Type == frame.Data && answer && !l.began:
		return violation("DATA before HEAD")
	}
	if f.Type == frame.Head {
		l.began = true
		l.failing = failure
	}
	return nil
}

func (c *Conn) receiveCredit(f *Frame, n int64, b *Batch) error {
	c.Out.mu.Lock()
	l := c.legs[f.Stream]
	var pass uint32
	switch {
	case l != nil:
		pass = l.credit(n)
	case f.Stream > c.last:
		c.Out.mu.Unlock()
		return violation("CREDIT of stream %d, which was not opened", f.Stream)
	}
	c.Out.mu.Unlock()
	if l != nil && c.role == frame.Provider && l.exchange.detour != nil {
		l.exchange.detour.begins()
	}
	if pass > 0 {
		l.grantOther(pass, b)
	}
	return nil
}

func (c *Conn) receiveReset(f *Frame, b *Batch) error {
	code, _, err := frame.ParseEnd(f.Payload)
	if err != nil {
		return err
	}
	l, err := c.find(f)
	if l == nil {
		return err
	}
	answered := l.exchange.answered.Load()
	switch {
	case c.role == frame.Consumer && code != frame.Deadline:
		code = frame.Cancelled
	case c.role == frame.Provider && code == frame.Deadline:
	case c.remote && !answered && notBegun(code):
		return l.refused(code, b)
	case c.role == frame.Provider && (code == frame.Rejected || code == frame.Draining) && !answered:
	case c.role == frame.Provider:
		code = frame.ProviderLost
	}
	l.exchange.end(code, l, b)
	return nil
}

// receiveGoAway ends the connection, or makes sure that a provider is chosen no more, and tells it after the
// last request.
func (c *Conn) receiveGoAway(f *Frame, b *Batch) error {
	code, reason, err := frame.ParseEnd(f.Payload)
	switch {
	case err != nil:
		return err
	case code != frame.Draining:
		return &Error{Code: code, Reason: reason}
	case c.role != frame.Provider:
		return nil
	}
	c.relay.retire(c, false)
	c.Out.mu.Lock()
	c.retired = true
	c.Out.goAway("as asked")
	c.Out.mu.Unlock()
	b.touch(&c.Out)
	return nil
}

// discard removes a leg from which nothing more is wanted.
func (l *leg) discard() {
	l.conn.Out.mu.Lock()
	l.remove()
	l.conn.Out.mu.Unlock()
}

// Close ends everything that the connection has a part in. It is idempotent.
func (c *Conn) Close() {
	c.Abandon()
	c.Out.mu.Lock()
	c.Out.close()
	c.Out.mu.Unlock()
}

// Abandon ends everything that the connection has a part in, but lets its outbox say something more. No
// frame is received after it. It is idempotent.
func (c *Conn) Abandon() {
	c.relay.retire(c, true)
	c.Out.mu.Lock()
	c.retired = true
	legs := slices.Collect(maps.Values(c.legs))
	c.Out.mu.Unlock()
	slices.SortFunc(legs, func(a, b *leg) int { return cmp.Compare(a.send.id, b.send.id) })
	code := frame.Cancelled
	if c.role == frame.Provider {
		code = frame.ProviderLost
	}
	var b Batch
	for _, l := range legs {
		if c.role == frame.Provider && l.exchange.detour != nil && l.unsent() {
			_ = l.refused(frame.Unsent, &b) // it is none of the peer's
		} else {
			l.exchange.end(code, l, &b)
		}
	}
	b.Flush()
}
