package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"

	driver "modernc.org/sqlite"
)

// SQLite's primary result codes that are told apart here (https://sqlite.org/rescode.html).
const (
	codeBusy   = 5
	codeLocked = 6
)

// oldJournal is the name of the journal that earlier versions kept, in SQLite.
const oldJournal = "journal.db"

// replayOldJournal calls apply with each row after seq of the journal that an earlier version has left. It returns the number of the
// last one.
func replayOldJournal(ctx context.Context, path string, seq uint64, apply func(*row) error) (last uint64, err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return seq, nil
	}
	db, err := openDB(path, "locking_mode(exclusive)", "synchronous(full)")
	if err != nil {
		return seq, err
	}
	db.SetMaxOpenConns(1)
	err = migrate(ctx, db, []string{`CREATE TABLE journal (seq INTEGER PRIMARY KEY, row BLOB NOT NULL)`}, upgradeJournal)
	if err == nil {
		seq, err = replayRows(ctx, db, seq, apply)
	}
	if err = errors.Join(locked(err), db.Close()); err != nil {
		return seq, fmt.Errorf("%s, the journal of an earlier version: %w", path, err)
	}
	return seq, nil
}

func replayRows(ctx context.Context, db *sql.DB, seq uint64, apply func(*row) error) (uint64, error) {
	rows, err := db.QueryContext(ctx, `SELECT seq, row FROM journal WHERE seq > ? ORDER BY seq`, int64(seq))
	if err != nil {
		return seq, err
	}
	err = each(rows, func() error {
		var got uint64
		var data sql.RawBytes
		if err := rows.Scan(&got, &data); err != nil {
			return err
		}
		if seq++; got != seq {
			return fmt.Errorf("%w: row %d is missing", errBadRow, seq)
		}
		r, err := decodeRow(data)
		if err == nil {
			err = apply(r)
		}
		if err != nil {
			return fmt.Errorf("row %d: %w", got, err)
		}
		return nil
	})
	return seq, err
}

// removeOldJournal removes it once the tables have all of it.
func removeOldJournal(path string) error {
	for _, suffix := range []string{"-wal", "-shm", ""} { // the main file last: it is what replayOldJournal looks for
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// locked turns SQLite's way of saying that another process has the file into ErrInUse.
func locked(err error) error {
	var e *driver.Error
	if errors.As(err, &e) && (e.Code()&0xff == codeBusy || e.Code()&0xff == codeLocked) {
		return fmt.Errorf("%w (%w)", ErrInUse, err)
	}
	return err
}
