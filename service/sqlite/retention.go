package sqlite

import (
	"context"
	"time"
)

// DefaultRetention is how long allocations are kept after they were reserved.
const DefaultRetention = 30 * 24 * time.Hour

// retireAtOnce bounds what one fold removes, so that the folder is soon free again.
const retireAtOnce = 20_000

// retire removes allocations that were reserved before cutoff (Unix ms), are over, and have been exported. What
// they add up to stays. The room is used again for what comes; the file does not get smaller.
func (t *tables) retire(ctx context.Context, cutoff int64) error {
	var oldest int64
	err := t.db.QueryRowContext(ctx, `SELECT coalesce((SELECT reserved_at FROM allocations ORDER BY seq LIMIT 1), ?1)`, cutoff).Scan(&oldest)
	if err != nil || oldest >= cutoff {
		return err
	}
	var first, last int64
	err = t.db.QueryRowContext(ctx, `SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM (
		SELECT seq, reserved_at, ended_at, state FROM allocations
		WHERE seq < coalesce((SELECT min(seq) FROM outbox), 9223372036854775807) ORDER BY seq LIMIT ?2)
		WHERE reserved_at < ?1 AND ended_at < ?1 AND state <> 0`, cutoff, retireAtOnce).Scan(&first, &last)
	if err != nil || last == 0 {
		return err
	}
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	const old = `seq BETWEEN ?1 AND ?2 AND reserved_at < ?3 AND ended_at < ?3 AND state <> 0`
	if _, err := tx.ExecContext(ctx, `DELETE FROM allocation_keys WHERE key IN (SELECT key FROM allocations WHERE `+old+`)`, first, last, cutoff); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM allocations WHERE `+old, first, last, cutoff); err != nil {
		return err
	}
	return tx.Commit()
}
