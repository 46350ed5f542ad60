package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/service"
)

var _ service.DocumentStore = (*Store)(nil)

// LoadDocument implements service.DocumentStore.
func (s *Store) LoadDocument(ctx context.Context) (data []byte, version int64, err error) {
	switch err = s.tables.others.QueryRowContext(ctx, `SELECT version, data FROM document`).Scan(&version, &data); {
	case errors.Is(err, sql.ErrNoRows):
		return nil, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("load the configuration: %w", err)
	}
	return data, version, nil
}

// SaveDocument implements service.DocumentStore. It may wait for a fold to end.
func (s *Store) SaveDocument(ctx context.Context, data []byte, version int64) (int64, error) {
	statement := `UPDATE document SET version = version + 1, data = ? WHERE version = ?`
	if version == 0 {
		statement = `INSERT INTO document (version, data) SELECT 1, ? WHERE NOT EXISTS (SELECT 1 FROM document) AND ? = 0`
	}
	result, err := s.tables.others.ExecContext(ctx, statement, data, version)
	if err != nil {
		return 0, fmt.Errorf("save the configuration: %w", err)
	}
	switch n, err := result.RowsAffected(); {
	case err != nil:
		return 0, fmt.Errorf("save the configuration: %w", err)
	case n == 0:
		return 0, service.ErrStale
	}
	return version + 1, nil
}
