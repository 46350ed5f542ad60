package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// DefaultRetention is how long allocations are kept after they were reserved.
const DefaultRetention = 30 * 24 * time.Hour

// retireAtOnce bounds what one fold removes, so that the folder is soon free again.
const retireAtOnce = 20_000

// cutoff is before when allocations may go: by the clock's age when they were reserved, which no step of the clock changes, and by the
// time at which they ended, in Unix ms.
type cutoff struct {
	age time.Duration
	end int64
}

// retire removes some allocations that were reserved before the cutoff, are over, and have been exported. What they add up to stays. The room is
// used again for what comes; the file does not get smaller. It goes on from where it was the last time, so that nothing that has to stay is in the way.
func (t *tables) retire(ctx context.Context, before cutoff) error {
	var oldest int64
	err := t.db.QueryRowContext(ctx, `SELECT coalesce((SELECT age FROM allocations ORDER BY seq LIMIT 1), ?1)`, int64(before.age)).Scan(&oldest)
	if err != nil || oldest >= int64(before.age) {
		t.retired = 0
		return err
	}
	const old = `age < ?3 AND ended_at < ?4 AND state <> 0`
	var seen, end, due int64
	err = t.db.QueryRowContext(ctx, `SELECT count(*), coalesce(max(seq), 0), coalesce(sum(`+old+`), 0) FROM (
		SELECT seq, age, ended_at, state FROM allocations
		WHERE seq > ?1 AND seq < coalesce((SELECT min(seq) FROM outbox), 9223372036854775807) AND age < ?3 ORDER BY seq LIMIT ?2)`,
		t.retired, retireAtOnce, int64(before.age), before.end).Scan(&seen, &end, &due)
	if err != nil {
		return err
	}
	if due > 0 {
		if err := t.remove(ctx, t.retired, end, before); err != nil {
			return err
		}
	}
	if t.retired = end; seen < retireAtOnce {
		t.retired = 0
	}
	return nil
}

// remove removes those of the allocations after the first number, up to the last, that may go.
func (t *tables) remove(ctx context.Context, first, last int64, before cutoff) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	const old = `seq > ?1 AND seq <= ?2 AND age < ?3 AND ended_at < ?4 AND state <> 0`
	if _, err := tx.ExecContext(ctx, `DELETE FROM allocation_keys WHERE key IN (SELECT key FROM allocations WHERE `+old+`)`, first, last, int64(before.age), before.end); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM allocations WHERE `+old, first, last, int64(before.age), before.end); err != nil {
		return err
	}
	return tx.Commit()
}

// mergeHours puts hours of days that ended before cutoff (Unix ms) together, a bit of one day at a time.
func (t *tables) mergeHours(ctx context.Context, cutoff int64) error {
	for t.merged+book.DayMillis <= cutoff {
		var at int64
		if err := t.db.QueryRowContext(ctx, `SELECT coalesce((SELECT at FROM usage WHERE at >= ?1 ORDER BY at LIMIT 1), ?2)`, t.merged, cutoff).Scan(&at); err != nil {
			return err
		}
		day := at - at%book.DayMillis
		if day+book.DayMillis > cutoff {
			return nil
		}
		merged, err := t.mergeDay(ctx, day)
		if err != nil || merged > 0 {
			return err // the rest comes with the next fold
		}
		t.merged = day + book.DayMillis
	}
	return nil
}

// mergeDay adds some rows of later hours to those of the day's first one, and returns how many.
func (t *tables) mergeDay(ctx context.Context, day int64) (int64, error) {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	const later = `FROM usage WHERE at > ?1 AND at < ?1 + 86400000`
	end, ledger := day+book.DayMillis, int64(0)
	err = tx.QueryRowContext(ctx, `SELECT at, ledger `+later+` ORDER BY at, ledger LIMIT 1 OFFSET ?2`, day, retireAtOnce).Scan(&end, &ledger)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return 0, err
	}
	const some = later + ` AND (at, ledger) < (?2, ?3)`
	if _, err := tx.ExecContext(ctx, `INSERT INTO usage (`+usageColumns+`) SELECT ?1, ledger, amount, requests, voided, expired, flagged `+some+addUsage, day, end, ledger); err != nil {
		return 0, err
	}
	gone, err := tx.ExecContext(ctx, `DELETE `+some, day, end, ledger)
	if err != nil {
		return 0, err
	}
	n, err := gone.RowsAffected()
	if err != nil {
		return 0, err
	}
	return n, tx.Commit()
}
