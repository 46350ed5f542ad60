package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// backupPattern is that of the files in which backups are made before they are handed out.
const backupPattern = "backup-*.tmp"

var _ service.Backuper = (*Store)(nil)

// Backup implements service.Backuper: it writes one SQLite file with everything that was acknowledged when Backup was called,
// and mostly more. Reservations and settlements go on meanwhile, but for the moment in which the journal is folded. It needs as
// much room in the data folder as the tables take.
func (s *Store) Backup(ctx context.Context, w io.Writer) error {
	if err := s.foldNow(ctx); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.opts.Dir, backupPattern)
	if err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	name := f.Name()
	defer func() { _ = os.Remove(name) }() // what is left goes at the next start
	if err := errors.Join(f.Close(), os.Remove(name)); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if _, err := s.tables.others.ExecContext(ctx, `VACUUM INTO ?`, name); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	if f, err = os.Open(name); err != nil {
		return fmt.Errorf("back up: %w", err)
	}
	_, err = io.Copy(w, f)
	return errors.Join(err, f.Close())
}

// removeBackups removes what backups have left that were cut short.
func removeBackups(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if left, _ := filepath.Match(backupPattern, e.Name()); left { // the pattern is good
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// ErrNoBackup is returned by Restore for a file that is no backup, or is damaged.
var ErrNoBackup = errors.New("the file is no backup of a ledger, or is damaged")

// Restore makes a data folder out of a backup. The folder must be empty, or not exist.
func Restore(ctx context.Context, backup, dir string) error {
	_, err := os.Stat(dir)
	made := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	switch entries, err := os.ReadDir(dir); {
	case err != nil:
		return fmt.Errorf("restore: %w", err)
	case len(entries) > 0:
		return fmt.Errorf("restore: the folder %s is not empty", dir)
	}
	target := filepath.Join(dir, "usageflow.db")
	err = copyFile(backup, target)
	if err == nil {
		err = verify(ctx, target)
	}
	if err != nil {
		for _, suffix := range []string{"", "-wal", "-shm"} {
			_ = os.Remove(target + suffix) // it is not there, or the error above says what is wrong with the disk
		}
		if made {
			_ = os.Remove(dir) // the same
		}
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// copyFile returns when the copy is on disk.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// verify reads all of a ledger's tables.
func verify(ctx context.Context, path string) error {
	db, err := openDB(path)
	if err != nil {
		return err
	}
	err = verifyDB(ctx, db)
	return errors.Join(err, db.Close())
}

func verifyDB(ctx context.Context, db *sql.DB) error {
	var result string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&result); err != nil {
		return fmt.Errorf("%w: %w", ErrNoBackup, err)
	}
	if result != "ok" {
		return fmt.Errorf("%w: %s", ErrNoBackup, result)
	}
	var folded int64
	if err := db.QueryRowContext(ctx, `SELECT folded FROM meta`).Scan(&folded); err != nil {
		return fmt.Errorf("%w: %w", ErrNoBackup, err)
	}
	return nil
}
