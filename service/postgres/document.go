package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/usageflow/usageflow-go-middleware/service"
)

var _ service.DocumentStore = (*Store)(nil)

// LoadDocument implements service.DocumentStore.
func (s *Store) LoadDocument(ctx context.Context) (data []byte, version int64, err error) {
	err = s.pool.QueryRow(ctx, `SELECT data, version FROM usageflow.document`).Scan(&data, &version)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, nil
	}
	return data, version, err
}

// SaveDocument implements service.DocumentStore. The lock makes replicas that save the first one take turns.
func (s *Store) SaveDocument(ctx context.Context, data []byte, version int64) (int64, error) {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE usageflow.document IN EXCLUSIVE MODE`); err != nil {
			return err
		}
		var current int64
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM usageflow.document`).Scan(&current); err != nil {
			return err
		}
		if current != version {
			return service.ErrStale
		}
		statement := `UPDATE usageflow.document SET version = $1, data = $2`
		if version == 0 {
			statement = `INSERT INTO usageflow.document VALUES ($1, $2)`
		}
		_, err := tx.Exec(ctx, statement, version+1, data)
		return err
	})
	return version + 1, err
}
