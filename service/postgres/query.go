package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// Sweep implements service.Ledger. A transaction expires so many at most.
func (s *Store) Sweep(ctx context.Context) (int, error) {
	for total := 0; ; {
		n, err := s.queue.Sweep(ctx)
		if total += n; err != nil || n < expireAtOnce {
			return total, err
		}
	}
}

// moment reads the ledger's clock.
func (s *Store) moment(ctx context.Context) (*book.Moment, error) {
	var age, wall, now int64
	err := s.pool.QueryRow(ctx, `SELECT age, wall, `+nowSQL+` FROM usageflow.clock`, s.nowParam()).Scan(&age, &wall, &now)
	if wall > 0 && now > wall {
		age += now - wall
	}
	return book.MomentOf(time.UnixMicro(now), time.Duration(age)*time.Microsecond), err
}

// Find implements service.Ledger.
func (s *Store) Find(ctx context.Context, application, alias string) (service.LedgerState, bool, error) {
	now, err := s.moment(ctx)
	if err != nil {
		return service.LedgerState{}, false, err
	}
	a, err := scanLedger(s.pool.QueryRow(ctx, `SELECT `+ledgerColumns+` FROM usageflow.ledgers WHERE name = $1`, [16]byte(book.Name{App: application, Alias: alias}.Key())))
	if errors.Is(err, pgx.ErrNoRows) {
		return service.LedgerState{}, false, nil
	}
	if err != nil {
		return service.LedgerState{}, false, err
	}
	return a.View(now), true, nil
}

// orders are the SQL of the orders that ledgers can have. What a limit had counted is nothing once it was reset ($1 is now).
var orders = map[service.LedgerSort]string{
	service.SortRecent: `minute DESC, `, // as the index has it
	service.SortAlias:  `alias COLLATE "C", app COLLATE "C", `,
	service.SortUsed:   `CASE WHEN resets_at BETWEEN 1 AND $1 THEN 0 ELSE used_now END DESC, `,
	service.SortHeld:   `CASE WHEN resets_at BETWEEN 1 AND $1 THEN 0 ELSE held_now END DESC, `,
	service.SortShare:  `CASE WHEN resets_at BETWEEN 1 AND $1 THEN 0 ELSE share_now END DESC, `,
}

// Ledgers implements service.Ledger.
func (s *Store) Ledgers(ctx context.Context, q service.LedgerQuery) (service.LedgerPage, error) {
	var page service.LedgerPage
	now, err := s.moment(ctx)
	if err != nil {
		return page, err
	}
	const where = ` FROM usageflow.ledgers WHERE ($2 = '' OR app = $2) AND position($3 IN alias) > 0 AND $1::bigint IS NOT NULL`
	at := now.Wall.UnixMilli()
	if err := s.pool.QueryRow(ctx, `SELECT count(*)`+where, at, q.Application, q.Contains).Scan(&page.Total); err != nil {
		return page, err
	}
	rows, err := s.pool.Query(ctx, `SELECT `+ledgerColumns+where+` ORDER BY `+orders[q.Sort]+`touched DESC, num DESC OFFSET $4 LIMIT $5`,
		at, q.Application, q.Contains, max(0, q.Offset), service.QueryLimit(q.Limit))
	if err != nil {
		return page, err
	}
	defer rows.Close()
	for rows.Next() {
		a, err := scanLedger(rows)
		if err != nil {
			return page, err
		}
		page.Ledgers = append(page.Ledgers, a.View(now))
	}
	return page, rows.Err()
}

// Allocations implements service.Ledger.
func (s *Store) Allocations(ctx context.Context, q service.AllocationQuery) ([]service.Allocation, error) {
	limit := service.QueryLimit(q.Limit)
	query, args := `SELECT `+viewColumns+` FROM usageflow.allocations a JOIN usageflow.ledgers l ON l.num = a.ledger
		WHERE ($1 = '' OR l.app = $1) ORDER BY a.seq DESC LIMIT $2`, []any{q.Application, limit}
	if q.Alias != "" { // from the newest of the ledger to the one before it
		query, args = `WITH RECURSIVE chain (seq, depth) AS (
			SELECT last, 1 FROM usageflow.ledgers WHERE name = $1
			UNION ALL SELECT a.prev, depth + 1 FROM chain JOIN usageflow.allocations a ON a.seq = chain.seq WHERE depth < $2 AND a.prev > 0)
			SELECT `+viewColumns+` FROM chain JOIN usageflow.allocations a ON a.seq = chain.seq JOIN usageflow.ledgers l ON l.num = a.ledger
			ORDER BY a.seq DESC`, []any{[16]byte(book.Name{App: q.Application, Alias: q.Alias}.Key()), limit}
	}
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (service.Allocation, error) { return scanView(row) })
}

// extended is a row with columns after those that are scanned.
type extended struct {
	pgx.Row
	more []any
}

func (e extended) Scan(dest ...any) error { return e.Row.Scan(append(dest, e.more...)...) }

// Usage implements service.Ledger.
func (s *Store) Usage(ctx context.Context, q service.UsageQuery, yield func(service.Usage) error) error {
	length := time.Hour.Milliseconds()
	if q.Bucket == service.WindowDay {
		length *= 24
	}
	rows, err := s.pool.Query(ctx, `SELECT u.at - u.at % $1 AS bucket, l.app, l.alias,
			least(9223372036854775807, sum(u.amount))::bigint, sum(u.requests)::bigint, sum(u.voided)::bigint, sum(u.expired)::bigint, sum(u.flagged)::bigint
		FROM usageflow.usage u JOIN usageflow.ledgers l ON l.num = u.ledger
		WHERE u.at >= $2 AND u.at < $3 AND ($4 = '' OR l.app = $4) AND ($5 = '' OR l.alias = $5)
		GROUP BY bucket, l.app, l.alias ORDER BY bucket, l.app COLLATE "C", l.alias COLLATE "C"`,
		length, q.From.UnixMilli()/length*length, (q.To.UnixMilli()+length-1)/length*length, q.Application, q.Alias)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var u service.Usage
		var at int64
		if err := rows.Scan(&at, &u.Application, &u.Alias, &u.Amount, &u.Requests, &u.Voided, &u.Expired, &u.Flagged); err != nil {
			return err
		}
		u.At = time.UnixMilli(at).UTC()
		if err := yield(u); err != nil {
			return err
		}
	}
	return rows.Err()
}
