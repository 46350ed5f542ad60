package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"

	driver "modernc.org/sqlite"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// SQLite's primary result codes that are told apart here (https://sqlite.org/rescode.html).
const (
	codeBusy   = 5
	codeLocked = 6
)

// journal is the file that makes operations durable. Its lock is what keeps a second process out: it
// is taken when the journal is opened and kept until it is closed. Only the committer uses it.
type journal struct {
	db     *sql.DB
	insert *sql.Stmt
	seq    uint64 // of the last row
	trimTo uint64 // rows up to here are in the tables and may go
	buf    []byte
}

// openDB opens one SQLite file with the pragmas given.
func openDB(path string, pragmas ...string) (*sql.DB, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	query := url.Values{"_txlock": {"immediate"}, "_pragma": pragmas}
	return sql.Open("sqlite", "file:"+(&url.URL{Path: abs}).EscapedPath()+"?"+query.Encode())
}

func openJournal(ctx context.Context, path string) (*journal, error) {
	db, err := openDB(path, "locking_mode(exclusive)", "journal_mode(wal)", "synchronous(full)", "wal_autocheckpoint(4000)", "temp_store(memory)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	db.SetConnMaxLifetime(0)
	j := &journal{db: db}
	if err := j.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, locked(err)), db.Close())
	}
	return j, nil
}

func (j *journal) prepare(ctx context.Context) error {
	if err := migrate(ctx, j.db, []string{`CREATE TABLE journal (seq INTEGER PRIMARY KEY, row BLOB NOT NULL)`}, upgradeJournal); err != nil {
		return err
	}
	if err := j.db.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) FROM journal`).Scan(&j.seq); err != nil {
		return err
	}
	var err error
	j.insert, err = j.db.PrepareContext(ctx, `INSERT INTO journal (seq, row) VALUES (?, ?)`)
	return err
}

// append makes b durable; the error says that it is not.
func (j *journal) append(ctx context.Context, b *book.Batch, c *book.Clock) error {
	j.buf = appendRow(j.buf[:0], b, c)
	if j.trimTo > 0 {
		if err := j.trim(ctx); err != nil {
			return err
		}
	}
	if _, err := j.insert.ExecContext(ctx, j.seq+1, j.buf); err != nil {
		return err
	}
	j.seq++
	return nil
}

func (j *journal) trim(ctx context.Context) error {
	if _, err := j.db.ExecContext(ctx, `DELETE FROM journal WHERE seq <= ?`, j.trimTo); err != nil {
		return err
	}
	j.trimTo = 0
	return nil
}

// replay calls apply with each row after seq, in order.
func (j *journal) replay(ctx context.Context, seq uint64, apply func(*row) error) error {
	rows, err := j.db.QueryContext(ctx, `SELECT seq, row FROM journal WHERE seq > ? ORDER BY seq`, seq)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	for want := seq + 1; rows.Next(); want++ {
		var got uint64
		var data sql.RawBytes
		if err := rows.Scan(&got, &data); err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%w: row %d is missing", errBadRow, want)
		}
		r, err := decodeRow(data)
		if err == nil {
			err = apply(r)
		}
		if err != nil {
			return fmt.Errorf("journal row %d: %w", got, err)
		}
	}
	return rows.Err()
}

func (j *journal) close() error { return errors.Join(j.insert.Close(), j.db.Close()) }

// locked turns SQLite's way of saying that another process has the file into ErrInUse.
func locked(err error) error {
	var e *driver.Error
	if errors.As(err, &e) && (e.Code()&0xff == codeBusy || e.Code()&0xff == codeLocked) {
		return fmt.Errorf("%w (%w)", ErrInUse, err)
	}
	return err
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
