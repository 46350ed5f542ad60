package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// operation is one thing to do; exactly one of reserveDone, settleDone and sweepDone is set. The
// committer fills in the answer and calls it.
type operation struct {
	key         book.Key
	meta        []byte
	reservation service.Reservation
	settlement  service.Settlement

	reserveDone func(service.Decision, error)
	settleDone  func(service.Receipt, error)
	sweepDone   func(int, error)

	decision service.Decision
	receipt  service.Receipt
	swept    int
	err      error
}

func (op *operation) answer() {
	switch {
	case op.reserveDone != nil:
		op.reserveDone(op.decision, op.err)
	case op.settleDone != nil:
		op.settleDone(op.receipt, op.err)
	default:
		op.sweepDone(op.swept, op.err)
	}
}

// names returns the ledgers that op needs.
func (op *operation) names(yield func(book.Name)) {
	app, alias, limits := op.reservation.Application, op.reservation.Alias, op.reservation.Limits
	switch {
	case op.sweepDone != nil:
		return
	case op.settleDone != nil:
		app, alias, limits = op.settlement.Application, op.settlement.Alias, op.settlement.Limits
	}
	yield(book.Name{App: app, Alias: alias})
	for i := range limits {
		if limits[i].Ledger != "" {
			yield(book.Name{App: app, Alias: limits[i].Ledger})
		}
	}
}

// sweepInterval is how often holds expire without traffic.
const sweepInterval = time.Second

// committer is the goroutine that decides. Whatever is queued while one transaction is under way becomes the next.
func (s *Store) committer() {
	defer s.wg.Done()
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	ops := make([]*operation, 0, s.opts.MaxBatch)
	for {
		select {
		case op, open := <-s.queue:
			if !open {
				return
			}
			ops = append(ops[:0], op)
			for len(ops) < cap(ops) && len(s.queue) > 0 {
				ops = append(ops, <-s.queue)
			}
		case <-tick.C:
			ops = ops[:0]
		}
		s.commit(ops)
		clear(ops)
	}
}

// commit carries out ops in one transaction and answers them when it is durable.
func (s *Store) commit(ops []*operation) {
	ctx, cancel := context.WithTimeout(s.ctx, s.opts.Timeout)
	defer cancel()
	outcome, err := s.transact(ctx, ops)
	if len(ops) > 1 && isDataError(err) {
		// One of them can't be stored, and the others have nothing to do with it.
		s.commit(ops[:len(ops)/2])
		s.commit(ops[len(ops)/2:])
		return
	}
	s.count(outcome, len(ops), err)
	s.report(&s.failing, "deciding", err)
	if err != nil {
		err = fmt.Errorf("the ledger could not write: %w", err)
		for _, op := range ops {
			op.decision, op.receipt, op.swept, op.err = service.Decision{}, service.Receipt{}, 0, err
		}
	}
	for _, op := range ops {
		op.answer()
	}
}

// isDataError reports whether the database refuses a value: class 22 is of data, 54 of what is too large.
func isDataError(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (strings.HasPrefix(e.Code, "22") || strings.HasPrefix(e.Code, "54"))
}

// outcome is what a transaction has done, and what there is then.
type outcome struct {
	counted       service.Counters
	changed       bool
	held, ledgers int
}

func (s *Store) transact(ctx context.Context, ops []*operation) (outcome, error) {
	conn, err := s.decider.Acquire(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer conn.Release()
	o, err := s.decide(ctx, conn, ops)
	if err != nil && !conn.Conn().IsClosed() {
		// The lock must not stay with this connection. A rollback that fails closes it, which is one too.
		down, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if _, failed := conn.Exec(down, `ROLLBACK`); failed != nil {
			err = errors.Join(err, conn.Conn().Close(down))
		}
	}
	return o, err
}

// decide locks, reads, decides and writes.
func (s *Store) decide(ctx context.Context, conn *pgxpool.Conn, ops []*operation) (outcome, error) {
	pages, err := s.read(ctx, conn, ops)
	if err != nil {
		return outcome{}, err
	}
	b := pages.book.Begin()
	expired := b.Expire()
	for _, op := range ops {
		switch {
		case op.reserveDone != nil:
			op.decision, op.err = b.Reserve(&op.reservation, op.key, op.meta)
		case op.settleDone != nil:
			op.receipt, op.err = b.Settle(&op.settlement, op.key, op.meta)
		default:
			op.swept, expired = expired, 0
		}
	}
	pages.clock.held += b.HeldDelta()
	if err := pages.write(ctx, conn, b); err != nil {
		return outcome{}, err
	}
	return outcome{b.Counted, !b.Empty(), int(pages.clock.held), pages.book.Size}, nil
}

func (s *Store) count(o outcome, ops int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counted
	if err != nil {
		c.Failed += uint64(ops)
		return
	}
	if o.changed {
		c.Commits++
	}
	c.Add(&o.counted)
	c.Held, c.Ledgers = o.held, o.ledgers
}

// report logs when something begins to fail and when it works again.
func (s *Store) report(failing *bool, what string, err error) {
	switch {
	case err != nil && !*failing:
		s.opts.Logger.Error("the ledger is failing", "at", what, "error", err)
	case err == nil && *failing:
		s.opts.Logger.Info("the ledger works again", "at", what)
	}
	*failing = err != nil
}
