package sqlite

import "time"

// clock is the ledger's time, owned by the committer. Windows follow the wall clock; expiry follows
// age, which only ever grows: a wall clock that is set back must not keep a hold from being counted,
// and one that is set forward in the process does not end holds early (time.Time's monotonic reading).
type clock struct {
	now  func() time.Time
	last time.Time
	age  time.Duration
}

// restore continues from an age that belonged to the wall time at.
func (c *clock) restore(age time.Duration, at time.Time) { c.age, c.last = age, at }

// read advances the age and returns the wall time.
func (c *clock) read() time.Time {
	now := c.now()
	switch d := now.Sub(c.last); {
	case c.last.IsZero():
		c.last = now
	case d > 0:
		c.age += d
		c.last = now
	}
	return now.UTC()
}
