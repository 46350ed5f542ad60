package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/internal/wait"
)

var _ service.Outbox = (*Store)(nil)

// SetExports implements service.Outbox. Replicas are to name the same ones.
func (s *Store) SetExports(ctx context.Context, names []string) error {
	if names == nil {
		names = []string{}
	}
	return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		for _, step := range []struct {
			statement string
			args      []any
		}{
			{lockSQL, nil}, // nothing is settled meanwhile
			{`DELETE FROM usageflow.exports WHERE NOT name = ANY ($1)`, []any{names}},
			{`INSERT INTO usageflow.exports SELECT name, coalesce((SELECT max(n) FROM usageflow.outbox), (SELECT max(delivered) FROM usageflow.exports), 0)
				FROM unnest($1::text[]) AS new (name) ON CONFLICT DO NOTHING`, []any{names}},
			{pruneSQL, nil},
		} {
			if _, err := tx.Exec(ctx, step.statement, step.args...); err != nil {
				return err
			}
		}
		return nil
	})
}

const pruneSQL = `DELETE FROM usageflow.outbox WHERE n <= coalesce((SELECT min(delivered) FROM usageflow.exports), 9223372036854775807)`

// Undelivered implements service.Outbox.
func (s *Store) Undelivered(ctx context.Context, export string, limit int) ([]service.Settled, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+viewColumns+`, o.n FROM usageflow.outbox o
		JOIN usageflow.allocations a ON a.seq = o.seq JOIN usageflow.ledgers l ON l.num = a.ledger
		WHERE o.n > (SELECT delivered FROM usageflow.exports WHERE name = $1) ORDER BY o.n LIMIT $2`, export, limit)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (settled service.Settled, err error) {
		settled.Allocation, err = scanView(row, &settled.N)
		return settled, err
	})
}

// viewColumns are those of scanView, of an allocation a and its ledger l.
const viewColumns = `a.seq, a.key, a.ledger, a.id, a.reserved, a.reserved_at, a.age, a.prev, a.detail, a.state, a.flags, a.charged, a.ended_at, a.meta, l.app, l.alias`

// scanView reads an allocation, and what comes after its columns into more.
func scanView(row pgx.Row, more ...any) (service.Allocation, error) {
	var name book.Name
	coded, err := scanAllocation(extended{row, append([]any{&name.App, &name.Alias}, more...)})
	if err != nil {
		return service.Allocation{}, err
	}
	coded.Account = &book.Account{Name: name}
	return coded.View()
}

// Delivered implements service.Outbox.
func (s *Store) Delivered(ctx context.Context, export string, n uint64) error {
	if _, err := s.pool.Exec(ctx, `UPDATE usageflow.exports SET delivered = greatest(delivered, $1) WHERE name = $2`, int64(n), export); err != nil {
		return err
	}
	_, err := s.pool.Exec(ctx, pruneSQL)
	return err
}

// leaseInterval is how often a replica asks whether it is its turn, and whether it still has it.
const leaseInterval = 2 * time.Second

// Exclusively implements service.Outbox: the replica with an advisory lock of the export's name works. The lock is a
// session's, so it goes when the replica does.
func (s *Store) Exclusively(ctx context.Context, export string, work func(context.Context) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	for got := false; !got; {
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock(hashtextextended('usageflow export ' || $1, 0))`, export).Scan(&got); err != nil {
			return err
		}
		if !got && !wait.For(ctx, leaseInterval) {
			return ctx.Err()
		}
	}
	ctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer stop()
		for wait.For(ctx, leaseInterval) && ping(ctx, conn) == nil {
		}
	}()
	err = work(ctx)
	stop()
	<-watched
	// The session ends, and with it the lock, whatever became of the connection. What went wrong with it does not matter.
	down, cancel := context.WithTimeout(context.Background(), leaseInterval)
	defer cancel()
	_ = conn.Conn().Close(down)
	return err
}

// ping asks whether the session is there, and takes no answer in time for none.
func ping(ctx context.Context, conn *pgxpool.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, leaseInterval)
	defer cancel()
	return conn.Ping(ctx)
}
