package core

import (
	"errors"
	"sync/atomic"
)

// About what things take in memory, in bytes.
const (
	callBytes    = 2 << 10 // a request or job that was let in, with what the router's request is copied for
	refusalBytes = 1 << 10
	leaseBytes   = 1 << 10
	ruleBytes    = 2 << 10
)

// tableBytes is the part of MaxMemoryBytes for what the flow remembers: refusals, leases, routes, reservations without an answer. Settlements that are not
// confirmed have MaxPendingBytes.
func (cfg *Config) tableBytes() int64 { return cfg.MaxMemoryBytes / 4 }

// runningBytes is the rest, for requests that run, with the bodies that an identity is looked for in and what is captured.
func (cfg *Config) runningBytes() int64 {
	return cfg.MaxMemoryBytes - cfg.tableBytes() - cfg.MaxPendingBytes
}

// tableSize is how many entries of that many bytes each a quarter of tableBytes holds, and most at most.
func (cfg *Config) tableSize(most, entry int64) int64 { return min(most, cfg.tableBytes()/4/entry) }

// memory is a budget of bytes.
type memory struct {
	limit int64
	used  atomic.Int64
}

// take reports whether there are n bytes left, which are then taken.
func (m *memory) take(n int64) bool {
	if m.used.Add(n) > m.limit {
		m.used.Add(-n)
		return false
	}
	return true
}

func (m *memory) give(n int64) { m.used.Add(-n) }

// takeMemory makes c answer for n bytes more, if there are that many.
func (c *Call) takeMemory(n int64) bool {
	if !c.flow.callMemory.take(n) {
		return false
	}
	c.held += n
	return true
}

// giveMemory gives back what c answers for.
func (c *Call) giveMemory() {
	c.flow.callMemory.give(c.held)
	c.held = 0
}

var errNoMemory = errors.New("core: more requests run than MaxMemoryBytes has room for")

// noMemory is what becomes of a request or job for which there is no memory: it passes, and its usage is lost, which is counted and logged; where a
// limit is to fail closed, it is refused.
func (f *Flow) noMemory(rl *rule, alias string) *Denial {
	if rl.limited && rl.failClosed(f.cfg.FailClosed) && !f.cfg.Shadow {
		f.counters.failedClosed.Add(1)
		f.observe(Event{Kind: EventFailedClosed, Alias: alias, Err: errNoMemory})
		return f.answer(unavailableDenial())
	}
	f.counters.admitted.Add(1)
	f.outbox.drop(alias, "", 1, "more requests run than MaxMemoryBytes has room for")
	return nil
}
