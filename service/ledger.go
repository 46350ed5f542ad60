package service

import (
	"context"
	"errors"
	"io"
	"time"
)

// Errors that a Ledger returns; compare with errors.Is. Everything else is a failure of the store:
// the outcome of the operation is then unknown, and the same operation may be sent again.
var (
	// ErrConflict means that the allocation id is already known on another ledger alias.
	ErrConflict = errors.New("the allocation id belongs to another ledger alias")
	// ErrHeldTooMuch means that a reservation would hold more than a ledger can count.
	ErrHeldTooMuch = errors.New("the ledger holds as much as it can count")
	// ErrQueueFull means that the ledger has as many operations waiting as it may.
	ErrQueueFull = errors.New("the ledger's queue is full")
	// ErrLedgerClosed means that Close has been called.
	ErrLedgerClosed = errors.New("the ledger is closed")
	// ErrTooManyLedgers means that the ledger refuses to create another alias.
	ErrTooManyLedgers = errors.New("the ledger holds as many aliases as it may")
)

// A Ledger keeps allocations and what they add up to.
//
// An allocation is reserved (State held), and then settled, voided (settled with 0) or expired. Each
// terminal step happens once; repeating one returns the first answer and changes nothing.
//
// Reservations belong to the window in which they were admitted: their hold counts there, and so does
// their settlement up to the amount reserved. What is settled above the amount reserved counts in the
// window in which the settlement arrives, as do settlements of expired and of unknown allocations, so
// that the next reservation always sees them. A window whose end has passed is not reopened when the
// clock steps back.
//
// All methods are safe for concurrent use. Amounts are Micros. The ledger reads the time from the
// clock it was opened with; it is exact to the millisecond.
type Ledger interface {
	// SubmitReserve queues r and returns at once. Where it returns nil, done is called exactly once,
	// after the decision is durable; done runs on the ledger's own goroutine and must not block.
	// Operations that one goroutine submits take effect in that order. A denial is a Decision, not an
	// error, and is not recorded: the same id may be tried again.
	SubmitReserve(r Reservation, done func(Decision, error)) error
	// SubmitSettle is the same for a settlement.
	SubmitSettle(s Settlement, done func(Receipt, error)) error
	// Sweep expires the held allocations whose time is over, or some where they are thousands, and returns how many they were. Ledgers
	// also do so by themselves, before each batch of operations and about once a second.
	Sweep(ctx context.Context) (int, error)
	// Ledgers returns those ledgers that q selects.
	Ledgers(ctx context.Context, q LedgerQuery) (LedgerPage, error)
	// Find returns one ledger; false where there is none of that name.
	Find(ctx context.Context, application, alias string) (LedgerState, bool, error)
	// Allocations returns the most recently reserved allocations, the newest first.
	Allocations(ctx context.Context, q AllocationQuery) ([]Allocation, error)
	// Usage calls yield with what was settled per ledger and hour or day, in the order of time. It stops with the
	// first error that yield returns.
	Usage(ctx context.Context, q UsageQuery, yield func(Usage) error) error
	// Counters returns what has happened since the ledger was opened.
	Counters() Counters
	// Close carries out what is queued and frees the store. It is idempotent.
	Close() error
}

// A Backuper is a Ledger that can be copied while it is used.
type Backuper interface {
	// Backup writes a copy with everything that was acknowledged when it was called. What is written is of use only where it
	// returns nil.
	Backup(ctx context.Context, w io.Writer) error
}

// A Limit is what a policy allows per window. Of one ledger there is at most one per window.
type Limit struct {
	Amount Micros
	Window Window
	// Burst, where it is not 0, is the size of a token bucket beside the window: no more than that is taken at
	// once, and Amount per Window comes back. What is held does not come back before it is settled.
	Burst Micros
	// Policy names the policy that the limit comes from.
	Policy string
	// Ledger is the alias of the ledger that the limit is of, which others may share; empty means the operation's own.
	Ledger string
	// Soft limits are counted and deny nothing.
	Soft bool
}

// A Reservation asks to hold Amount on the ledger (Application, Alias).
type Reservation struct {
	Application string
	Alias       string
	// ID is the allocation's id; it must not be empty and is unique within Application.
	ID     string
	Amount Micros
	// Limits are what must let Amount pass, all of them. The ledgers that they name hold and count what Alias does.
	Limits   []Limit
	Metadata Metadata
}

// A Settlement says what was really used. Amount 0 voids the allocation.
type Settlement struct {
	Application string
	Alias       string
	ID          string
	Amount      Micros
	// Limits are those of Alias, for an allocation that was never reserved.
	Limits   []Limit
	Metadata Metadata
}

// Metadata is the part of a request's description that is kept with its allocation.
type Metadata struct {
	Method     string  `json:"method,omitempty"`
	URL        string  `json:"url,omitempty"`
	RawURL     string  `json:"rawUrl,omitempty"`
	Status     int     `json:"responseStatusCode,omitempty"`
	DurationMS float64 `json:"requestDuration,omitempty"`
}

// A Decision answers a Reservation.
type Decision struct {
	ID      string
	Allowed bool
	// Repeated means that ID was known: this is the first answer again.
	Repeated bool
	// Limited says whether the fields below mean anything. Of several limits they describe the one of which the
	// least is left, and in a denial the one that will be the last to let the amount pass.
	Limited bool
	Limit   Micros
	// Remaining is what was left after this reservation, never below 0.
	Remaining Micros
	// ResetAt is when the window ends, WindowSeconds how long it is.
	ResetAt       time.Time
	WindowSeconds int64
	Policy        string
}

// State is what has become of an allocation. The numbers are stored and never change their meaning.
type State uint8

// The states of an allocation. Only StateHeld has a successor.
const (
	StateHeld State = iota
	StateSettled
	StateVoided
	StateExpired
)

// String returns held, settled, voided or expired.
func (s State) String() string {
	switch s {
	case StateHeld:
		return "held"
	case StateSettled:
		return "settled"
	case StateVoided:
		return "voided"
	default:
		return "expired"
	}
}

// Flag marks a settlement that needs a second look. The bits are stored and never change their meaning.
type Flag uint8

// The flags of an allocation.
const (
	// FlagUnreserved: the settlement names an id that was never reserved.
	FlagUnreserved Flag = 1 << iota
	// FlagLate: the settlement came after the reservation had expired.
	FlagLate
)

// Names returns the names of the flags that are set: unreserved, late.
func (f Flag) Names() []string {
	names := []string{}
	for i, name := range [...]string{"unreserved", "late"} {
		if f&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// A Receipt answers a Settlement.
type Receipt struct {
	ID string
	// Amount is what has been charged, by this settlement or by the first one.
	Amount   Micros
	State    State
	Flags    Flag
	Repeated bool
}

// Allocation is one allocation as it stands.
type Allocation struct {
	ID          string
	Application string
	Alias       string
	Reserved    Micros
	Charged     Micros
	State       State
	Flags       Flag
	ReservedAt  time.Time
	// EndedAt is zero while the allocation is held.
	EndedAt  time.Time
	Metadata Metadata
}

// Counters count what a ledger has done since it was opened; repeats count as Repeated only.
type Counters struct {
	Reserved uint64 `json:"reserved"`
	Denied   uint64 `json:"denied"`
	Settled  uint64 `json:"settled"`
	Voided   uint64 `json:"voided"`
	Expired  uint64 `json:"expired"`
	Flagged  uint64 `json:"flagged"`
	Repeated uint64 `json:"repeated"`
	Failed   uint64 `json:"failed"`
	// Commits is the number of transactions; Reserved and the others over it is the group size.
	Commits uint64 `json:"commits"`
	// Queued, Held and Ledgers are what there is now.
	Queued  int `json:"queued"`
	Held    int `json:"held"`
	Ledgers int `json:"ledgers"`
}

// Add adds what other counts; what there is now stays.
func (c *Counters) Add(other *Counters) {
	c.Reserved += other.Reserved
	c.Denied += other.Denied
	c.Settled += other.Settled
	c.Voided += other.Voided
	c.Expired += other.Expired
	c.Flagged += other.Flagged
	c.Repeated += other.Repeated
	c.Failed += other.Failed
	c.Commits += other.Commits
}

// Reserve submits r and waits for the decision. When ctx ends first, its error is returned and the
// decision is still carried out.
func Reserve(ctx context.Context, l Ledger, r Reservation) (Decision, error) {
	return wait(ctx, func(done func(Decision, error)) error { return l.SubmitReserve(r, done) })
}

// Settle submits s and waits for the receipt, as Reserve does.
func Settle(ctx context.Context, l Ledger, s Settlement) (Receipt, error) {
	return wait(ctx, func(done func(Receipt, error)) error { return l.SubmitSettle(s, done) })
}

func wait[T any](ctx context.Context, submit func(func(T, error)) error) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	var none T
	if err := submit(func(value T, err error) { answers <- answer{value, err} }); err != nil {
		return none, err
	}
	select {
	case a := <-answers:
		return a.value, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}
