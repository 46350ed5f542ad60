package book

import (
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// Name is what an account is found by.
type Name struct{ App, Alias string }

// Account is one ledger. The order of the fields leaves no gaps: there may be millions.
type Account struct {
	// Num and Name never change.
	Num uint32
	Marks
	Name Name
	Sums
	// Counters are the windows and buckets in which the ledger counts.
	Counters []Counter

	Newer, Older *Account // a store's: neighbours in the order of use
	next         *Account // in the chain of the index
	gen          uint64   // the last batch that saved it
}

// Sums is the part of an account that has nothing to do with limits.
type Sums struct {
	Held    service.Micros // by all allocations, in whatever window
	Total   service.Micros // charged since the account exists
	Touched int64          // Unix ms
	Epochs  uint32         // how many there have been, over all counters
	Last    uint64         // Seq of the newest allocation
}

// Marks are a store's own notes on an account.
type Marks struct {
	Listed bool // is in the order of use
	Dirty  bool // changed since it was last folded
	Named  bool // the journal or the tables know the name
}

// Counter counts a ledger's usage in one window, or in one bucket.
//
// A bucket is a token bucket seen from below: what has been used drains away at a steady rate, Rate per
// Window, and what is held does not drain.
type Counter struct {
	Window service.Window
	Bucket bool
	// Limited says that a limit is in force, Soft that it never denies.
	Limited, Soft bool
	Epoch         uint32 // an allocation's hold counts in the counter of its epoch only
	Limit         service.Micros
	Rate          service.Micros
	Policy        string

	Start int64         // of the window, Unix ms
	Age   time.Duration // the clock's age when the window began, or to which the bucket has drained
	Frac  int64         // of a bucket: what has drained and is less than a millionth
	Used  service.Micros
	Held  service.Micros
}

// Moment is a reading of the ledger's clock.
type Moment struct {
	Wall   time.Time
	Age    time.Duration
	starts [service.WindowMonth + 1]int64
}

// MomentOf returns the moment of a reading.
func MomentOf(wall time.Time, age time.Duration) *Moment {
	m := &Moment{Wall: wall.UTC(), Age: age}
	for w := service.WindowSecond; w <= service.WindowMonth; w++ {
		m.starts[w] = w.Start(m.Wall).UnixMilli()
	}
	return m
}

// over reports whether c's window is over. One that began while the wall clock was ahead is over when its
// length has passed.
func (c *Counter) over(m *Moment) bool {
	if c.Bucket {
		return false
	}
	start := m.starts[c.Window]
	return start > c.Start || start < c.Start && m.Age-c.Age >= c.length()
}

// length is how long c's window lasts.
func (c *Counter) length() time.Duration {
	start := time.UnixMilli(c.Start)
	return c.Window.End(start).Sub(start)
}

// begin makes c count from m on.
func (c *Counter) begin(m *Moment, epoch uint32) {
	c.Start, c.Age, c.Frac, c.Epoch, c.Used, c.Held = m.starts[c.Window], m.Age, 0, epoch, 0, 0
	if c.Bucket {
		c.Start = 0
	}
}

// drained is what is used at m, and what is left over below a millionth.
func (c *Counter) drained(m *Moment) (used service.Micros, frac int64) {
	if !c.Bucket || c.Used <= 0 {
		return c.Used, 0
	}
	gone, frac := scale((m.Age - c.Age).Milliseconds(), c.Rate, c.Frac, c.span())
	if gone >= c.Used {
		return 0, 0
	}
	return c.Used - gone, frac
}

// drain brings a bucket to m.
func (c *Counter) drain(m *Moment) {
	if c.Bucket {
		c.Used, c.Frac = c.drained(m)
		if passed := m.Age - c.Age; passed > 0 {
			c.Age += passed.Truncate(time.Millisecond)
		}
	}
}

// span is the length of a bucket's window in ms; a month counts as 30 days.
func (c *Counter) span() int64 {
	if c.Window == service.WindowMonth {
		return 30 * 24 * time.Hour.Milliseconds()
	}
	return c.Window.Seconds(time.Time{}) * 1000
}

// taken is what counts against the limit at m.
func (c *Counter) taken(m *Moment) service.Micros {
	used, _ := c.drained(m)
	return used.Add(c.Held)
}

// resetAt is when c's window ends; for a bucket, when of what is taken at m only rest is left. Unix ms.
func (c *Counter) resetAt(m *Moment, rest service.Micros) int64 {
	if !c.Bucket {
		return c.Window.End(time.UnixMilli(c.Start)).UnixMilli()
	}
	return m.Wall.UnixMilli() + c.drainTime(max(0, c.taken(m)-max(0, rest)))
}

// drainTime is how many ms it takes for amount to drain.
func (c *Counter) drainTime(amount service.Micros) int64 {
	const longest = 366 * 24 * 3600 * 1000
	if c.Rate <= 0 {
		return longest
	}
	ms, rest := scale(c.span(), amount, 0, int64(c.Rate))
	if rest > 0 {
		ms++
	}
	return min(int64(ms), longest)
}

// seconds is the length of the window; of a bucket, how long a full one takes to drain.
func (c *Counter) seconds() int64 {
	if !c.Bucket {
		return c.Window.Seconds(time.UnixMilli(c.Start))
	}
	return max(1, (c.drainTime(c.Limit)+999)/1000)
}

// roll begins the windows that are due.
func (a *Account) roll(b *Batch) {
	for i := range a.Counters {
		if c := &a.Counters[i]; c.over(&b.Moment) {
			b.save(a)
			a.Epochs++
			a.Counters[i].begin(&b.Moment, a.Epochs)
		}
	}
}

// follow makes a's limits those of limits that are of the ledger named, and begins the windows that are due.
// A counter whose limit has gone goes on counting until its window is over: the limit may come back.
func (a *Account) follow(b *Batch, limits []service.Limit, ledger string) {
	a.roll(b)
	if a.follows(limits, ledger) {
		return
	}
	b.save(a)
	for i := range a.Counters {
		a.Counters[i].Limited = false
	}
	for i := range limits {
		l := &limits[i]
		if l.Ledger != ledger {
			continue
		}
		a.counter(b, l.Window, false).limit(b, l, l.Amount)
		if l.Burst > 0 {
			a.counter(b, l.Window, true).limit(b, l, l.Burst)
		}
	}
	a.Counters = slices.DeleteFunc(a.Counters, func(c Counter) bool {
		return !c.Limited && c.Held == 0 && (c.Bucket && c.taken(&b.Moment) == 0 || c.Used == 0)
	})
}

// follows reports whether a's limits are those already.
func (a *Account) follows(limits []service.Limit, ledger string) bool {
	n := 0
	for i := range limits {
		l := &limits[i]
		if l.Ledger != ledger {
			continue
		}
		if !a.has(l, false, l.Amount) || l.Burst > 0 && !a.has(l, true, l.Burst) {
			return false
		}
		n++
		if l.Burst > 0 {
			n++
		}
	}
	for i := range a.Counters {
		if a.Counters[i].Limited {
			n--
		}
	}
	return n == 0
}

func (a *Account) has(l *service.Limit, bucket bool, amount service.Micros) bool {
	for i := range a.Counters {
		if c := &a.Counters[i]; c.Window == l.Window && c.Bucket == bucket {
			return c.Limited && c.Limit == amount && c.Rate == l.Amount && c.Soft == l.Soft && c.Policy == l.Policy
		}
	}
	return false
}

// counter returns the counter of a window or bucket, which it makes where there is none.
func (a *Account) counter(b *Batch, w service.Window, bucket bool) *Counter {
	for i := range a.Counters {
		if c := &a.Counters[i]; c.Window == w && c.Bucket == bucket {
			return c
		}
	}
	a.Epochs++
	c := Counter{Window: w, Bucket: bucket}
	c.begin(&b.Moment, a.Epochs)
	a.Counters = append(a.Counters, c)
	return &a.Counters[len(a.Counters)-1]
}

func (c *Counter) limit(b *Batch, l *service.Limit, amount service.Micros) {
	c.drain(&b.Moment) // at the rate that it had
	c.Limited, c.Soft, c.Limit, c.Rate, c.Policy = true, l.Soft, amount, l.Amount, l.Policy
}

// View is the account at m. It changes nothing.
func (a *Account) View(m *Moment) service.LedgerState {
	l := service.LedgerState{
		Application: a.Name.App, Alias: a.Name.Alias, Used: a.Total, Held: a.Held, Total: a.Total, LastUsed: Millis(a.Touched),
	}
	least := 0.0
	for _, c := range a.Counters {
		if !c.Limited {
			continue
		}
		if c.over(m) {
			c.begin(m, 0)
		}
		used, _ := c.drained(m)
		state := service.LimitState{
			Policy: c.Policy, Window: c.Window, Burst: c.Bucket, Soft: c.Soft, Amount: c.Limit, Used: used, Held: c.Held, ResetAt: Millis(c.resetAt(m, 0)),
		}
		l.Limits = append(l.Limits, state)
		if share := state.Share(); !l.Limited || share > least {
			least = share
			l.Limited, l.Used, l.Held, l.Limit, l.Policy, l.Window, l.ResetAt = true, used, c.Held, c.Limit, c.Policy, c.Window, state.ResetAt
		}
	}
	return l
}

// Millis turns Unix ms into a time; 0 is the zero time.
func Millis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
