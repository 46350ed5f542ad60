// Package intake is the way of operations into a store: a queue that many submit to, and from which one goroutine, the
// store's committer, takes whatever is there as its next batch.
package intake

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// Operation is one thing to do: a reservation, a settlement or a sweep. The committer applies it and answers.
type Operation struct {
	Key         book.Key
	Reservation service.Reservation
	Settlement  service.Settlement

	// Exactly one of these is set.
	reserveDone func(service.Decision, error)
	settleDone  func(service.Receipt, error)
	sweepDone   func(int, error)

	meta     []byte
	decision service.Decision
	receipt  service.Receipt
	swept    int
	err      error
}

// IsSweep reports whether op only wants holds to expire.
func (op *Operation) IsSweep() bool { return op.sweepDone != nil }

// Names calls yield with the ledgers that op needs.
func (op *Operation) Names(yield func(book.Name)) {
	app, alias, limits := op.Reservation.Application, op.Reservation.Alias, op.Reservation.Limits
	switch {
	case op.sweepDone != nil:
		return
	case op.settleDone != nil:
		app, alias, limits = op.Settlement.Application, op.Settlement.Alias, op.Settlement.Limits
	}
	yield(book.Name{App: app, Alias: alias})
	for i := range limits {
		if limits[i].Ledger != "" {
			yield(book.Name{App: app, Alias: limits[i].Ledger})
		}
	}
}

// Apply decides ops in order, after the holds whose time is over have ended.
func Apply(b *book.Batch, ops []*Operation) {
	expired := b.Expire()
	for _, op := range ops {
		switch {
		case op.reserveDone != nil:
			op.decision, op.err = b.Reserve(&op.Reservation, op.Key, op.meta)
		case op.settleDone != nil:
			op.receipt, op.err = b.Settle(&op.Settlement, op.Key, op.meta)
		default:
			op.swept, expired = expired, 0
		}
	}
	b.End()
}

// Answer tells those who wait what has become of ops; where err is not nil, that none was carried out.
func Answer(ops []*Operation, err error) {
	for _, op := range ops {
		if err != nil {
			op.decision, op.receipt, op.swept, op.err = service.Decision{}, service.Receipt{}, 0, err
		}
		switch {
		case op.reserveDone != nil:
			op.reserveDone(op.decision, op.err)
		case op.settleDone != nil:
			op.settleDone(op.receipt, op.err)
		default:
			op.sweepDone(op.swept, op.err)
		}
	}
}

// Queue takes operations. Its methods are safe for concurrent use, but for Next, which is the committer's.
type Queue struct {
	ops chan *Operation

	// mu lets Close wait for submit calls that are on their way.
	mu     sync.RWMutex
	closed bool
}

// NewQueue returns a queue with room for size operations.
func NewQueue(size int) *Queue { return &Queue{ops: make(chan *Operation, size)} }

// C has the operations; it is closed once Close has been called and all were taken.
func (q *Queue) C() <-chan *Operation { return q.ops }

// Next returns first, which came from C, and whatever else is queued, as far as there is room in ops.
func (q *Queue) Next(ops []*Operation, first *Operation) []*Operation {
	ops = append(ops[:0], first)
	for len(ops) < cap(ops) && len(q.ops) > 0 {
		ops = append(ops, <-q.ops)
	}
	return ops
}

// Queued is how many operations wait.
func (q *Queue) Queued() int { return len(q.ops) }

// CloseQueue refuses what is submitted from now on.
func (q *Queue) CloseQueue() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	close(q.ops)
}

// SubmitReserve implements service.Ledger.
func (q *Queue) SubmitReserve(r service.Reservation, done func(service.Decision, error)) error {
	return q.submit(&Operation{Key: book.KeyOf(r.Application, r.ID), Reservation: r, reserveDone: done}, r.Metadata)
}

// SubmitSettle implements service.Ledger.
func (q *Queue) SubmitSettle(t service.Settlement, done func(service.Receipt, error)) error {
	return q.submit(&Operation{Key: book.KeyOf(t.Application, t.ID), Settlement: t, settleDone: done}, t.Metadata)
}

// Sweep submits a sweep, and waits for it.
func (q *Queue) Sweep(ctx context.Context) (int, error) {
	type answer struct {
		n   int
		err error
	}
	answers := make(chan answer, 1)
	if err := q.submit(&Operation{sweepDone: func(n int, err error) { answers <- answer{n, err} }}, service.Metadata{}); err != nil {
		return 0, err
	}
	select {
	case a := <-answers:
		return a.n, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// submit queues op without waiting.
func (q *Queue) submit(op *Operation, m service.Metadata) (err error) {
	if m != (service.Metadata{}) {
		if op.meta, err = json.Marshal(m); err != nil {
			return err
		}
	}
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return service.ErrLedgerClosed
	}
	select {
	case q.ops <- op:
		return nil
	default:
		return service.ErrQueueFull
	}
}

// Alarm logs when something begins to fail and when it works again. One goroutine uses it.
type Alarm struct {
	failing bool
}

// Report tells the log, if err is news.
func (a *Alarm) Report(log *slog.Logger, what string, err error) {
	switch {
	case err != nil && !a.failing:
		log.Error("the ledger is failing", "at", what, "error", err)
	case err == nil && a.failing:
		log.Info("the ledger works again", "at", what)
	}
	a.failing = err != nil
}

// Failing reports whether the last report was of a failure.
func (a *Alarm) Failing() bool { return a.failing }
