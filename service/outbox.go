package service

import "context"

// An Outbox is a Ledger that hands out what is settled, once and in order, to exports. All methods are safe for
// concurrent use.
type Outbox interface {
	// SetExports says which exports there are. A new one sees what is settled from now on; one that was there before goes
	// on where it was; one that is not named any more is forgotten.
	SetExports(ctx context.Context, names []string) error
	// Undelivered returns up to limit settlements that the export has not seen, the oldest first. What is settled with 0
	// is left out.
	Undelivered(ctx context.Context, export string, limit int) ([]Settled, error)
	// Delivered says that the export has seen everything up to and with number n.
	Delivered(ctx context.Context, export string, n uint64) error
	// Exclusively calls work when no other process is at work for the export, and waits until then. The context of work
	// ends when that is not certain any more.
	Exclusively(ctx context.Context, export string, work func(context.Context) error) error
}

// Settled is an allocation that was settled with an amount.
type Settled struct {
	// N grows from each settlement to the next.
	N uint64
	Allocation
}
