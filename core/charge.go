package core

import "sync/atomic"

// CutOff says what is charged for a request whose client went away before it was answered, or in the middle of a response
// that tells the amount; not so where the context ended by a deadline. What the handler set is charged in any case.
//
// Of a JSON document it is known when it is whole; of a stream it is not, so that a client who hangs up at its end, while the
// handler is still running, counts as gone: with CutOffReserved and CutOffVoid it pays no more than these say, however much it got.
type CutOff int

// The rules for requests that were cut off.
const (
	CutOffObserved CutOff = iota // what the response has told so far, else nothing; the default
	CutOffReserved               // what was reserved
	CutOffVoid                   // nothing
)

// SetAmount sets the amount that is charged, in the policy's unit. Zero is a valid amount. One that is negative, over 1e12 or
// not finite is not taken: it is counted, and what would be charged without it is. Once the work has ended (Hold puts that off)
// it is too late: that is counted, and logged the first time.
func (c *Call) SetAmount(amount float64) { c.change(amount, false) }

// AddAmount adds to the amount that is charged, from 0, as SetAmount sets it.
func (c *Call) AddAmount(amount float64) { c.change(amount, true) }

// Void charges nothing, whatever the response says. It is SetAmount(0).
func (c *Call) Void() { c.change(0, false) }

func (c *Call) change(amount float64, add bool) {
	if c == nil {
		return
	}
	switch c.take(amount, add) {
	case amountInvalid:
		c.flow.invalidAmount(c.alias)
	case amountLate:
		c.flow.lateAmount(c.alias)
	}
}

// amountOutcome is what became of an amount that a handler set.
type amountOutcome int

const (
	amountTaken amountOutcome = iota
	amountInvalid
	amountLate
)

// take sets or adds to the amount.
func (c *Call) take(amount float64, add bool) amountOutcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return amountLate
	}
	if add && validAmount(amount) {
		amount += c.amount
	}
	if !validAmount(amount) {
		return amountInvalid
	}
	c.amount, c.set = amount, true
	return amountTaken
}

// maxAmount is the largest amount that the service takes; it counts in millionths.
const maxAmount = 1e12

func validAmount(amount float64) bool { return amount >= 0 && amount <= maxAmount }

// charge decides what a finished call is charged: what the handler set, else what the response said, else the
// amount reserved. told says what is amiss where the response was looked at.
func (c *Call) charge() (amount float64, told telling) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set {
		return c.amount, toldWell
	}
	if c.cutOff {
		switch c.flow.cfg.CutOff {
		case CutOffReserved:
			return c.reserved, toldWell
		case CutOffVoid:
			return 0, toldWell
		}
	}
	seen, found := 0.0, false
	if c.seen != nil {
		seen, found = c.seen.amount()
	}
	switch {
	case found && validAmount(seen) && c.problem != "" && !c.cutOff && !c.panicked:
		return seen, toldInPart
	case found && validAmount(seen):
		return seen, toldWell
	case c.panicked || c.cutOff || c.voided:
		return 0, toldWell
	case c.seen == nil:
		return c.reserved, toldWell
	case found:
		return c.reserved, toldInvalid
	case c.problem != "":
		return c.reserved, toldUnreadable
	}
	return c.reserved, toldNothing
}

// telling is how well a response that a policy tracks has told the amount.
type telling uint32

const (
	toldWell       telling = iota // nothing is amiss
	toldInvalid                   // what it tells is no amount
	toldNothing                   // it tells none
	toldUnreadable                // it could not be read
	toldInPart                    // it told an amount, and then could not be read any further
)

// warnings remembers what was said in the log of a route's responses.
type warnings struct{ said atomic.Uint32 }

// first reports whether t comes for the first time.
func (w *warnings) first(t telling) bool {
	bit := uint32(1) << t
	return w.said.Load()&bit == 0 && w.said.Or(bit)&bit == 0
}

// noteTelling counts a response that has not told its amount well, and says why in the log, once for each route and reason.
func (f *Flow) noteTelling(c *Call, told telling) {
	reason, charged := "it does not hold the field", "the default amount"
	switch told {
	case toldWell:
		return
	case toldInvalid:
		f.invalidAmount(c.alias)
		return
	case toldUnreadable:
		f.counters.unreadable.Add(1)
		f.counters.unknownAmounts.Add(1)
		reason = c.problem
	case toldInPart:
		f.counters.unreadable.Add(1)
		reason, charged = c.problem, "what it has told before"
	default:
		f.counters.unknownAmounts.Add(1)
	}
	if c.rule.warned.first(told) {
		f.log.Warn("usageflow: a response did not tell the amount that its policy tracks. Later ones of the route, for the same reason, are only counted",
			"alias", c.rule.alias, "fields", c.rule.tracked.fields, "reason", reason, "charged", charged)
	}
}

func (f *Flow) invalidAmount(alias string) {
	if f.counters.invalidAmounts.Add(1) == 1 {
		f.log.Warn("usageflow: an amount is negative, over 1e12 or no number; what would be charged without it is. Later ones are only counted", "alias", alias)
	}
}

func (f *Flow) lateAmount(alias string) {
	if f.counters.lateAmounts.Add(1) == 1 {
		f.log.Warn("usageflow: an amount was set after its request had ended, and is not charged; Call.Hold keeps a request open. Later ones are only counted", "alias", alias)
	}
}
