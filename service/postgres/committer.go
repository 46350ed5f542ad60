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
	"github.com/usageflow/usageflow-go-middleware/service/internal/intake"
)

// sweepInterval is how often holds expire without traffic.
const sweepInterval = time.Second

// committer is the goroutine that decides. Whatever is queued while one transaction is under way becomes the next.
func (s *Store) committer() {
	defer s.wg.Done()
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	ops := make([]*intake.Operation, 0, s.opts.MaxBatch)
	for {
		select {
		case op, open := <-s.queue.C():
			if !open {
				return
			}
			ops = s.queue.Next(ops, op)
		case <-tick.C:
			ops = ops[:0]
		}
		s.commit(ops)
		clear(ops)
	}
}

// commit carries out ops in one transaction and answers them when it is durable.
func (s *Store) commit(ops []*intake.Operation) {
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
	s.alarm.Report(s.opts.Logger, "deciding", err)
	if err != nil {
		err = fmt.Errorf("the ledger could not write: %w", err)
	}
	intake.Answer(ops, err)
}

// isDataError reports whether the database refuses a value: class 22 is of data, 23 of what must be unique, 54 of what is too large.
func isDataError(err error) bool {
	var e *pgconn.PgError
	return errors.As(err, &e) && (strings.HasPrefix(e.Code, "22") || strings.HasPrefix(e.Code, "23") || strings.HasPrefix(e.Code, "54"))
}

// outcome is what a transaction has done, and what there is then.
type outcome struct {
	counted       service.Counters
	changed       bool
	held, ledgers int
}

func (s *Store) transact(ctx context.Context, ops []*intake.Operation) (outcome, error) {
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
func (s *Store) decide(ctx context.Context, conn *pgxpool.Conn, ops []*intake.Operation) (outcome, error) {
	pages, err := s.read(ctx, conn, ops)
	if err != nil {
		return outcome{}, err
	}
	b := pages.book.Begin()
	intake.Apply(b, ops)
	pages.held += b.HeldDelta()
	if err := pages.write(ctx, conn, b); err != nil {
		return outcome{}, err
	}
	return outcome{b.Counted, !b.Empty(), int(pages.held), pages.book.Size}, nil
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
