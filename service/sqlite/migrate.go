package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
)

// openDB opens one SQLite file with the pragmas given.
func openDB(path string, pragmas ...string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": pragmas}
	return sql.Open("sqlite", "file:"+(&url.URL{Path: abs}).EscapedPath()+"?"+query.Encode())
}

// firstVersion is the version that the first step makes.
const firstVersion = 2

// migrate brings the schema to the newest version; step i makes version firstVersion+i. A file of the version before
// the first is upgraded; one of a newer version is refused.
func migrate(ctx context.Context, db *sql.DB, steps []string, upgrade func(context.Context, *sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	var version int
	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return err
	}
	newest := firstVersion + len(steps) - 1
	if version > newest {
		return fmt.Errorf("the file has schema version %d, this program knows up to %d", version, newest)
	}
	if version == firstVersion-1 {
		if err := upgrade(ctx, tx); err != nil {
			return fmt.Errorf("upgrade it: %w", err)
		}
		version = firstVersion
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version)); err != nil {
			return err
		}
	}
	for next := max(version+1, firstVersion); next <= newest; next++ {
		if _, err := tx.ExecContext(ctx, steps[next-firstVersion]); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, next)); err != nil {
			return err
		}
	}
	return tx.Commit()
}
