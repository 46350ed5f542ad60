package service

import (
	"fmt"
	"time"
)

// LedgerQuery selects ledgers. The zero value selects the first DefaultQueryLimit of the most recently used.
type LedgerQuery struct {
	// Application keeps only the ledgers of one application.
	Application string
	// Contains keeps only aliases that contain it.
	Contains string
	Sort     LedgerSort
	// Offset skips that many, Limit bounds the answer (at most MaxQueryLimit).
	Offset, Limit int
}

// LedgerSort is an order of ledgers; what is equal in it is in the order of use.
type LedgerSort string

// The orders of ledgers: the most recently used first, the largest first, or by name.
const (
	SortRecent LedgerSort = ""
	SortUsed   LedgerSort = "used"
	SortHeld   LedgerSort = "held"
	SortShare  LedgerSort = "share" // of its limit that is taken
	SortAlias  LedgerSort = "alias"
)

// ParseLedgerSort reads an order's name; the empty name and recent are SortRecent.
func ParseLedgerSort(name string) (LedgerSort, error) {
	switch order := LedgerSort(name); order {
	case "recent":
		return SortRecent, nil
	case SortRecent, SortUsed, SortHeld, SortShare, SortAlias:
		return order, nil
	}
	return SortRecent, fmt.Errorf("sort %q is not one of recent, used, held, share, alias", name)
}

// LedgerPage is an answer to a LedgerQuery.
type LedgerPage struct {
	Ledgers []LedgerState
	// Total is how many there are without Offset and Limit.
	Total int
}

// AllocationQuery selects allocations: all, or those of one ledger.
type AllocationQuery struct {
	Application, Alias string
	Limit              int
}

// UsageQuery selects usage by the time at which it was settled.
type UsageQuery struct {
	// From is the beginning, taken down to a full hour or day, and To the end, taken up to one.
	From, To time.Time
	// Bucket is WindowHour or WindowDay, in UTC.
	Bucket Window
	// Application and Alias select; empty means all.
	Application, Alias string
}

// Usage is what was settled on one ledger in one hour or day.
type Usage struct {
	At          time.Time
	Application string
	Alias       string
	// Amount is what was charged, Requests how many settlements did so.
	Amount   Micros
	Requests uint64
	// Voided and Expired count the allocations that ended so; Flagged those of Requests that were late or unreserved.
	Voided, Expired, Flagged uint64
}

// Add adds what other counts.
func (u *Usage) Add(other *Usage) {
	u.Amount = u.Amount.Add(other.Amount)
	u.Requests += other.Requests
	u.Voided += other.Voided
	u.Expired += other.Expired
	u.Flagged += other.Flagged
}

// The bounds of one query's answer.
const (
	DefaultQueryLimit = 200
	MaxQueryLimit     = 1000
)

// QueryLimit returns n brought into the bounds of one query's answer; 0 is the default.
func QueryLimit(n int) int {
	if n <= 0 {
		return DefaultQueryLimit
	}
	return min(n, MaxQueryLimit)
}

// LedgerState is one ledger as it stands.
type LedgerState struct {
	Application string
	Alias       string
	// Used and Held are those of the limit of which most is taken, and so are the fields from Limit to ResetAt.
	// Without a limit Used is Total, and Held is all that is held.
	Used, Held Micros
	Limited    bool
	Limit      Micros
	Policy     string
	Window     Window
	ResetAt    time.Time
	// Limits are all limits of the ledger.
	Limits []LimitState
	// Total is what has been charged since the ledger exists.
	Total Micros
	// LastUsed is when the ledger last changed.
	LastUsed time.Time
}

// Share is the part of the limit that is taken, 0 where there is none.
func (l *LedgerState) Share() float64 {
	if !l.Limited {
		return 0
	}
	return share(l.Used.Add(l.Held), l.Limit)
}

// LimitState is one limit of a ledger in its current window.
type LimitState struct {
	Policy string
	Window Window
	// Burst says that this is the token bucket beside the window: Amount is its size.
	Burst, Soft        bool
	Amount, Used, Held Micros
	// ResetAt is when the window ends, or when the bucket will have drained.
	ResetAt time.Time
}

// Share is the part of the limit that is taken.
func (l *LimitState) Share() float64 { return share(l.Used.Add(l.Held), l.Amount) }

func share(taken, limit Micros) float64 {
	if limit <= 0 {
		return 1
	}
	return float64(taken) / float64(limit)
}
