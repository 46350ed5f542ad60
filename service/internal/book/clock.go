package book

import "time"

// Clock is the ledger's time. Windows follow the wall clock; expiry and the draining of buckets follow the age,
// which only ever grows: a wall clock that is set back must not keep a hold from ending, and one that is set
// forward in the process does not end holds early (time.Time's monotonic reading).
type Clock struct {
	// Now reads the wall clock.
	Now func() time.Time
	// Last is the latest wall time that Age has counted.
	Last time.Time
	Age  time.Duration

	restored bool
}

// Restore continues from an age that belonged to the wall time at.
func (c *Clock) Restore(age time.Duration, at time.Time) { c.Age, c.Last, c.restored = age, at, true }

// Read advances the age and returns the wall time.
func (c *Clock) Read() time.Time {
	now := c.Now()
	switch d := now.Sub(c.Last); {
	case c.Last.IsZero(), c.restored && d < 0:
		// Nobody knows how much time has passed since a process with another clock; from here on it counts.
		c.Last = now
	case d > 0:
		c.Age += d
		c.Last = now
	}
	c.restored = false
	return now.UTC()
}

// Peek is what Read would return, with the age that it would set, and changes nothing.
func (c *Clock) Peek() (wall time.Time, age time.Duration) {
	copied := *c
	wall = copied.Read()
	return wall, copied.Age
}
