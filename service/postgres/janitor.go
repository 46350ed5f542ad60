package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/internal/wait"
)

// janitorInterval is how often what is too old is looked for, and retireAtOnce how many allocations go at a time.
const (
	janitorInterval = 5 * time.Second
	retireAtOnce    = 5_000
)

// janitor removes, or makes smaller, what is old.
func (s *Store) janitor() {
	defer s.wg.Done()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	go func() {
		<-s.closing
		cancel()
	}()
	for wait.For(ctx, janitorInterval) {
		err := s.putAwayFor(ctx, janitorInterval)
		if ctx.Err() != nil {
			return
		}
		s.retireAlarm.Report(s.opts.Logger, "putting away what is old", err)
	}
}

// putAwayFor puts away what it can in the time d: what is left is no failure.
func (s *Store) putAwayFor(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	err := s.putAway(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (s *Store) putAway(ctx context.Context) error {
	now, err := s.moment(ctx)
	if err != nil {
		return err
	}
	err = s.mergeHours(ctx, now.Wall.Add(-book.HourlyFor).UnixMilli())
	if s.opts.Retention > 0 {
		err = errors.Join(err, s.retireAll(ctx, now.Wall.Add(-s.opts.Retention).UnixMilli()))
	}
	return err
}

// retireAll removes what is due, until it is through or the janitor's time is over: it comes back soon. Mostly that is the oldest; what stands behind
// allocations that may not go, as they were recorded while the clock was ahead, is found bit by bit from where it was the last time.
func (s *Store) retireAll(ctx context.Context, cutoff int64) error {
	for _, from := range []int64{0, s.retired} {
		for due := int64(1); due > 0; {
			began := time.Now()
			var to int64
			var err error
			if to, due, err = s.retire(ctx, from, cutoff); err != nil {
				return err
			}
			from = to
			if !wait.For(ctx, time.Since(began)) { // decisions get half of the time at least
				return nil
			}
		}
		s.retired = from
	}
	return nil
}

const (
	// exportedSQL are the allocations after the number $1 that have been exported, and dueSQL those of them that were reserved before $2 and are over.
	exportedSQL = `FROM usageflow.allocations WHERE seq > $1 AND seq < coalesce((SELECT min(seq) FROM usageflow.outbox), 9223372036854775807)`
	dueSQL      = `reserved_at < $2 AND ended_at < $2 AND state <> 0`
)

// retire looks at some allocations, and removes those that are due; what they add up to stays. It returns where it has come to, 0 at the end, and how many
// have gone.
func (s *Store) retire(ctx context.Context, from, cutoff int64) (to, gone int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT coalesce(max(seq), 0), count(*) FILTER (WHERE `+dueSQL+`) FROM (
		SELECT seq, reserved_at, ended_at, state `+exportedSQL+` ORDER BY seq LIMIT $3) AS next`, from, cutoff, retireAtOnce).Scan(&to, &gone)
	if err != nil || gone == 0 {
		return to, 0, err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// Nothing is decided meanwhile: a settlement of what goes would be lost.
		if _, err := tx.Exec(ctx, lockSQL); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `DELETE `+exportedSQL+` AND seq <= $3 AND `+dueSQL, from, cutoff, to)
		gone = tag.RowsAffected()
		return err
	})
	return to, gone, err
}

const (
	// mergeLockSQL lets one replica at a time merge.
	mergeLockSQL = `SELECT pg_try_advisory_xact_lock(hashtextextended('usageflow hours', 0))`
	// mergeSQL adds some rows of a day's later hours to those of its first one.
	mergeSQL = `WITH gone AS (
		DELETE FROM usageflow.usage AS u USING (
			SELECT at, ledger FROM usageflow.usage WHERE at > $1 AND at < $1 + 86400000 ORDER BY at, ledger LIMIT $2) AS later
		WHERE u.at = later.at AND u.ledger = later.ledger RETURNING u.*)
	INSERT INTO usageflow.usage AS u
	SELECT $1::bigint, ledger, least(9223372036854775807, sum(amount))::bigint, sum(requests)::bigint, sum(voided)::bigint, sum(expired)::bigint, sum(flagged)::bigint
	FROM gone GROUP BY ledger` + addUsageSQL
)

// mergeHours puts hours of days that ended before cutoff (Unix ms) together, a bit of one day at a time.
func (s *Store) mergeHours(ctx context.Context, cutoff int64) error {
	for s.merged+book.DayMillis <= cutoff {
		var at int64
		if err := s.pool.QueryRow(ctx, `SELECT coalesce((SELECT at FROM usageflow.usage WHERE at >= $1 ORDER BY at LIMIT 1), $2)`, s.merged, cutoff).Scan(&at); err != nil {
			return err
		}
		day := at - at%book.DayMillis
		if day+book.DayMillis > cutoff {
			return nil
		}
		done, err := s.mergeDay(ctx, day)
		if err != nil || !done {
			return err // the rest comes next time
		}
		s.merged = day + book.DayMillis
	}
	return nil
}

// mergeDay merges some of a day, and reports whether nothing was left of it. Another replica that is at it leaves nothing to do.
func (s *Store) mergeDay(ctx context.Context, day int64) (done bool, err error) {
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		var locked bool
		if err := tx.QueryRow(ctx, mergeLockSQL).Scan(&locked); err != nil || !locked {
			return err
		}
		tag, err := tx.Exec(ctx, mergeSQL, day, retireAtOnce)
		done = err == nil && tag.RowsAffected() == 0
		return err
	})
	return done, err
}
