package core

import (
	"context"
	"errors"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Applies reports whether Begin has anything to do for requests of a route. Adapters ask it first, so that a
// route that is neither metered nor blocked costs no allocation. route is as in Request.Route.
func (f *Flow) Applies(method, route string) bool {
	if route == "" || f.stopped.Load() {
		return false
	}
	if c := f.configuration.Load(); c != nil {
		return !c.rule(method, route).idle()
	}
	select {
	case <-f.gate:
		if f.configuration.Load() != nil { // it has come in this moment
			return true
		}
		f.counters.unmetered.Add(1)
		return false
	default:
		return true // Begin waits for the first configuration
	}
}

// ReportMissed says that a request of the route was served though nobody asked Begin: other middleware sent it to the route
// behind the adapter's back. If the flow has anything to do for the route, that is counted, and logged the first time.
func (f *Flow) ReportMissed(method, route string) {
	if c := f.configuration.Load(); route == "" || f.stopped.Load() || c == nil || c.rule(method, route).idle() {
		return
	}
	if f.counters.missed.Add(1) == 1 {
		f.log.Error("usageflow: a request was served behind its back, as middleware behind usageflow's chose its route; usageflow's goes behind what rewrites paths or methods. Later ones are only counted",
			"method", method, "route", route)
	}
}

// Begin decides on a request before its handler runs. A Denial is the answer to give in the handler's place. A Call is to
// be ended when the handler has returned; the handler gets the request that Call.Request makes. Where both are
// nil, the request passes untouched. Begin waits for the service on rate-limited routes only, for at most
// Config.Timeout; an outage is not a denial.
//
// Where ctx holds a call already, the middleware is installed twice, and the request passes. If the call is of another route, a handler
// has passed its context on to another request: blocks hold for that one, and a limited route decides, and is metered, once more.
func (f *Flow) Begin(ctx context.Context, r *Request) (*Call, *Denial) {
	if r.Route == "" || f.stopped.Load() {
		return nil, nil
	}
	r.decodeParams()
	if f.cfg.Skip != nil && f.callSkip(r) {
		return nil, nil // at once: a health check must not wait for the first configuration
	}
	conf, asked := f.configuration.Load(), ctx
	if conf == nil {
		latest := time.Now().Add(f.cfg.Timeout) // for the configuration and the decision together
		if conf = f.current(ctx); conf == nil {
			return nil, nil
		}
		var cancel context.CancelFunc
		asked, cancel = context.WithDeadline(ctx, latest)
		defer cancel()
	}
	rl := conf.rule(r.Method, r.Route)
	outer := FromContext(ctx)
	if rl.idle() || outer.isFor(r.Method, rl) {
		return nil, nil
	}
	if rl.blockedAll {
		if denial := f.blocked(rl); denial != nil {
			return nil, denial
		}
	}
	identity, raw := f.identify(r, rl)
	body, _ := r.Body.(*bufferedBody)
	defer body.handOver(nil)
	if !rl.blockedAll && rl.blocks(identity, raw) {
		if denial := f.blocked(rl); denial != nil {
			return nil, denial
		}
	}
	if !rl.metered || (outer != nil && !rl.limited) {
		return nil, nil
	}
	if !f.callMemory.take(callBytes) {
		return nil, f.noMemory(rl, rl.ledger(identity))
	}
	c := f.newCall(ctx, rl, identity, 1)
	body.handOver(c)
	c.method = r.Method
	c.rawURL = rl.maskPath(r.URL)
	c.clientIP = r.ClientIP
	c.userAgent = r.UserAgent()
	if f.cfg.Capture.any() {
		f.capture(c, r)
	}
	if rl.tracked != nil {
		c.seen = newResponseScanner(rl.tracked)
	}
	return f.admit(asked, c)
}

// blocked is the answer to a request of a blocked route; nil in shadow mode.
func (f *Flow) blocked(rl *rule) *Denial {
	if f.cfg.Shadow {
		f.shadow(rl.alias, CodeBlocked)
		return nil
	}
	f.counters.blocked.Add(1)
	f.observe(Event{Kind: EventBlocked, Alias: rl.alias})
	return f.answer(blockedDenial())
}

// answer makes the denial be answered as Config.OnDeny says.
func (f *Flow) answer(d *Denial) *Denial {
	if f.cfg.OnDeny != nil {
		d.flow = f
	}
	return d
}

// shadow notes that a request passes in shadow mode which would have been refused.
func (f *Flow) shadow(alias, code string) {
	f.counters.shadowed.Add(1)
	f.observe(Event{Kind: EventShadowed, Alias: alias})
	f.shadowLog.say(func(more int64) {
		f.log.Info("usageflow in shadow mode: a request passes that would have been refused", "alias", alias, "code", code, "more_since_last", more)
	})
}

// admit reserves: it waits for the answer where the route is limited, and leaves it to the sender where it is not.
// Shutdown either sees the call counted and waits for it, or is seen here and the call passes unmetered.
func (f *Flow) admit(ctx context.Context, c *Call) (admitted *Call, _ *Denial) {
	defer func() {
		if admitted == nil {
			c.giveMemory()
		}
	}()
	if c.rule.limited {
		f.deciding.Add(1)
		defer f.decisionOver()
		if f.stopped.Load() {
			return nil, nil
		}
		if denial := f.decide(ctx, c); denial != nil {
			return nil, denial
		}
		f.counters.admitted.Add(1)
	} else {
		f.counters.admitted.Add(1)
		if f.stopped.Load() {
			f.counters.admitted.Add(-1)
			f.outbox.wake()
			return nil, nil
		}
		f.sender.begin(c)
	}
	f.observe(Event{Kind: EventAdmitted, Alias: c.alias, AllocationID: c.AllocationID()})
	return c, nil
}

// isFor reports whether the call is of a request for the route.
func (c *Call) isFor(method string, rl *rule) bool {
	return c != nil && c.method == method && c.rule.pattern == rl.pattern
}

func (f *Flow) decisionOver() {
	if f.deciding.Add(-1) == 0 && f.stopped.Load() {
		f.outbox.wake()
	}
}

// current returns the configuration in force. Before the first one it waits, for as long as the first
// attempt to get one is going on, and for at most Timeout.
func (f *Flow) current(ctx context.Context) *configuration {
	if c := f.configuration.Load(); c != nil {
		return c
	}
	select {
	case <-f.gate:
	default:
		timer := time.NewTimer(f.cfg.Timeout)
		defer timer.Stop()
		select {
		case <-f.gate:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	c := f.configuration.Load()
	if c == nil {
		f.counters.unmetered.Add(1)
	}
	return c
}

// decide asks the service whether c may run. Nil: it may.
func (f *Flow) decide(ctx context.Context, c *Call) *Denial {
	asked := ctx
	var l *lease
	if f.cfg.Lease && !c.repeatable && c.receipt == nil { // else it has its own settlement
		l = f.leases.get(c)
	}
	if l != nil {
		spent, err := l.spend(ctx, c)
		if spent {
			return nil
		}
		if err != nil {
			return f.undecided(c, errNoSlice{err}, f.breaker.toBlame(time.Since(c.start), err))
		}
		var cancel context.CancelFunc
		asked, cancel = context.WithDeadline(ctx, c.start.Add(f.cfg.Timeout)) // it may have waited
		defer cancel()
	}
	if r := f.refusals.get(c.alias, c.reserved, c.start); r != nil {
		return f.deny(c, r)
	}
	if f.breaker.open() {
		return f.undecided(c, errBreakerOpen, true)
	}
	resp, err := f.ask(asked, &socket.UsageFlowSocketMessage{
		Type:    socket.TypeRequestForAllocation,
		Payload: &socket.RequestForAllocation{Alias: c.alias, Amount: c.reserved, AllocationID: c.ids[:uuidLen]},
	})
	if err != nil {
		return f.undecided(c, err, f.breaker.failed(lostReservation{c.alias, c.ids[:uuidLen], c.reserved}, time.Since(c.start), err))
	}
	f.breaker.answered()
	f.decided()
	if l != nil {
		l.note(resp.Payload)
	}
	if resp.Refused() {
		r := newRefusal(c.reserved, resp.Message, resp.Payload, time.Now())
		f.refusals.put(c.alias, r)
		return f.deny(c, r)
	}
	c.known.Store(true)
	if id := grantedID(resp.Payload); id != c.ids[:uuidLen] {
		c.granted = id
	}
	return nil
}

// grantedID is the allocation id in the reply to a reservation, "" if there is none that can be used.
func grantedID(payload any) string {
	fields, _ := payload.(map[string]any)
	id, _ := fields["allocationId"].(string)
	if len(id) > maxIdentityBytes {
		return ""
	}
	return id
}

// errNoSlice is that no slice was granted in time. For the request itself nothing was asked.
type errNoSlice struct{ error }

func (e errNoSlice) Unwrap() error { return e.error }

// ask is the transport's Call, bounded by Timeout and by the deadline of ctx. It goes on where ctx is cancelled: a client
// that hangs up before the decision must not get its request past the limit.
func (f *Flow) ask(ctx context.Context, m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	deadline, has := ctx.Deadline()
	if f.ownTransport && !has {
		// The flow's own pool has Timeout as its default, which costs less than a context.
		return f.transport.Call(context.Background(), m)
	}
	if latest := time.Now().Add(f.cfg.Timeout); !has || latest.Before(deadline) {
		deadline = latest
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	resp, err := f.transport.Call(ctx, m)
	if resp == nil && err == nil {
		err = errNoReply
	}
	return resp, err
}

var errNoReply = errors.New("core: the transport gave neither a reply nor an error")

// deny is the answer to a call that the service refused; nil in shadow mode, where it is settled all the same.
func (f *Flow) deny(c *Call, r *refusal) *Denial {
	if f.cfg.Shadow {
		c.known.Store(true)
		f.shadow(c.alias, CodeRateLimited)
		return nil
	}
	f.counters.denied.Add(1)
	f.observe(Event{Kind: EventDenied, Alias: c.alias, AllocationID: c.ids[:uuidLen]})
	return f.answer(r.denial(time.Now(), f.cfg.RateLimitHeaders))
}

// undecided is what happens when no answer came: the request passes, or gets 503 with FailClosed. Its
// reservation may have reached the service all the same; settling it under the same id, with amount 0 where
// the request does not run, leaves nothing held. Where the service is not to blame, it was the request's own deadline that passed.
func (f *Flow) undecided(c *Call, err error, blame bool) *Denial {
	closed := c.rule.failClosed(f.cfg.FailClosed)
	if blame && !f.outage.Swap(true) {
		f.log.Warn("usageflow gives no decisions", "error", err, "fail_closed", closed)
		f.observe(Event{Kind: EventOutage, Err: err})
	}
	if closed && f.cfg.Shadow {
		f.shadow(c.alias, CodeUnavailable)
	}
	if !closed || f.cfg.Shadow {
		f.counters.failedOpen.Add(1)
		f.observe(Event{Kind: EventFailedOpen, Alias: c.alias, AllocationID: c.ids[:uuidLen], Err: err})
		return nil
	}
	f.counters.failedClosed.Add(1)
	f.observe(Event{Kind: EventFailedClosed, Alias: c.alias, AllocationID: c.ids[:uuidLen], Err: err})
	if mayHaveReserved(err) {
		f.voidLost(c)
	}
	return f.answer(unavailableDenial())
}

func (f *Flow) decided() {
	if f.outage.Load() && f.outage.Swap(false) {
		f.log.Info("usageflow gives decisions again")
		f.observe(Event{Kind: EventRecovered})
	}
}
