package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

var _ service.Outbox = (*Store)(nil)

// SetExports implements service.Outbox.
func (s *Store) SetExports(ctx context.Context, names []string) error {
	if err := s.foldNow(ctx); err != nil {
		return err
	}
	return s.tables.change(ctx, func(tx *sql.Tx) error {
		marks, args := "", make([]any, 0, len(names))
		for _, name := range names {
			marks, args = marks+", ?", append(args, name)
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM exports WHERE name NOT IN (`+strings.TrimPrefix(marks, ", ")+`)`, args...); err != nil {
			return err
		}
		for _, name := range names {
			if _, err := tx.ExecContext(ctx, `INSERT OR IGNORE INTO exports SELECT ?, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'outbox'), 0)`, name); err != nil {
				return err
			}
		}
		return prune(ctx, tx)
	})
}

// prune removes what every export has seen.
func prune(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM outbox WHERE n <= coalesce((SELECT min(delivered) FROM exports), 9223372036854775807)`)
	return err
}

// Undelivered implements service.Outbox.
func (s *Store) Undelivered(ctx context.Context, export string, limit int) ([]service.Settled, error) {
	if err := s.foldNow(ctx); err != nil {
		return nil, err
	}
	rows, err := s.tables.others.QueryContext(ctx, `SELECT o.n, l.app, l.alias, a.`+strings.ReplaceAll(allocationColumns, ", ", ", a.")+`
		FROM outbox o JOIN allocations a ON a.seq = o.seq JOIN ledgers l ON l.num = a.ledger
		WHERE o.n > (SELECT delivered FROM exports WHERE name = ?) ORDER BY o.n LIMIT ?`, export, limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	var found []service.Settled
	var n uint64
	var name book.Name
	scanner := newScanner(false, &n, &name.App, &name.Alias)
	for rows.Next() {
		coded, err := scanner.scan(rows)
		if err != nil {
			return nil, err
		}
		coded.Account = &book.Account{Name: name}
		view, err := coded.View()
		if err != nil {
			return nil, err
		}
		found = append(found, service.Settled{N: n, Allocation: view})
	}
	return found, rows.Err()
}

// Delivered implements service.Outbox.
func (s *Store) Delivered(ctx context.Context, export string, n uint64) error {
	return s.tables.change(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE exports SET delivered = max(delivered, ?) WHERE name = ?`, int64(n), export); err != nil {
			return err
		}
		return prune(ctx, tx)
	})
}

// Exclusively implements service.Outbox: nobody else has the folder.
func (s *Store) Exclusively(ctx context.Context, _ string, work func(context.Context) error) error {
	return work(ctx)
}

// change does work in a transaction.
func (t *tables) change(ctx context.Context, work func(*sql.Tx) error) error {
	tx, err := t.others.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := work(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}
