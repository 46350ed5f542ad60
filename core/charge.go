package core

import (
	"sync/atomic"
)

// CutOff says what is charged for a request whose client went away before it was answered, or in the middle of a response
// that tells the amount. What the handler set is charged in any case.
type CutOff int

// The policies for requests that were cut off.
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
// amount reserved. found says what is amiss where the response was looked at and decides.
func (c *Call) charge() (amount float64, found tracking) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set {
		return c.amount, untracked
	}
	if c.cutOff {
		switch c.flow.cfg.CutOff {
		case CutOffReserved:
			return c.reserved, untracked
		case CutOffVoid:
			return 0, untracked
		}
	}
	if c.seen != nil {
		switch amount, found := c.seen.amount(); {
		case found && validAmount(amount):
			return amount, untracked
		case found:
			return c.reserved, trackedInvalid
		}
	}
	switch {
	case c.panicked || c.cutOff || c.voided:
		return 0, untracked
	case c.seen == nil:
		return c.reserved, untracked
	case c.problem != "":
		return c.reserved, trackedUnreadable
	}
	return c.reserved, trackedNothing
}

// tracking is what became of the amount in a response that a policy tracks.
type tracking uint32

const (
	untracked         tracking = iota // nothing is amiss
	trackedInvalid                    // it is no amount
	trackedNothing                    // there is none
	trackedUnreadable                 // the response could not be read
)

// warnings remembers of what a route's users were told in the log.
type warnings struct{ told atomic.Uint32 }

// first reports whether t comes for the first time.
func (w *warnings) first(t tracking) bool {
	bit := uint32(1) << t
	return w.told.Load()&bit == 0 && w.told.Or(bit)&bit == 0
}

// untold counts a response whose tracked field told no amount, and says why in the log, once for each route.
func (f *Flow) untold(c *Call, found tracking) {
	reason := "it does not hold the field"
	switch found {
	case untracked:
		return
	case trackedInvalid:
		f.invalidAmount(c.alias)
		return
	case trackedUnreadable:
		f.counters.unreadable.Add(1)
		reason = c.problem
	}
	f.counters.unknownAmounts.Add(1)
	if c.rule.warned.first(found) {
		f.log.Warn("usageflow: a response did not tell the amount that its policy tracks; the default amount is charged. Later ones of the route are only counted",
			"alias", c.rule.alias, "fields", c.rule.tracked.fields, "reason", reason)
	}
}

func (f *Flow) invalidAmount(alias string) {
	if f.counters.invalidAmounts.Add(1) == 1 {
		f.log.Warn("usageflow: an amount is negative, over 1e12 or no number; the default is charged. Later ones are only counted", "alias", alias)
	}
}

func (f *Flow) lateAmount(alias string) {
	if f.counters.lateAmounts.Add(1) == 1 {
		f.log.Warn("usageflow: an amount was set after its request had ended, and is not charged; Call.Hold keeps a request open. Later ones are only counted", "alias", alias)
	}
}
