package sqlite_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// restored is a store out of a backup of another.
func restored(t *testing.T, from *sqlite.Store) *sqlite.Store {
	t.Helper()
	var backup bytes.Buffer
	if err := from.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	file, dir := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, backup.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Restore(t.Context(), file, dir); err != nil {
		t.Fatal(err)
	}
	return open(t, sqlite.Options{Dir: dir})
}

// What was acknowledged before a backup is in it, while others go on: counts, limits, holds, and which ids are known.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	store := open(t, sqlite.Options{Dir: dir})
	limit := []service.Limit{{Amount: 10e6, Window: service.WindowMonth, Policy: "p"}}
	reserve := func(s *sqlite.Store, alias, id string, limit []service.Limit) service.Decision {
		t.Helper()
		d, err := service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: alias, ID: id, Amount: 1e6, Limits: limit})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for i := range 8 {
		reserve(store, "GET /limited", fmt.Sprint("l", i), limit)
	}
	if _, err := service.Settle(t.Context(), store, service.Settlement{Application: "a", Alias: "GET /limited", ID: "l0", Amount: 2e6}); err != nil {
		t.Fatal(err)
	}
	var busy sync.WaitGroup
	stop := make(chan struct{})
	for worker := range 4 {
		busy.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					reserve(store, "GET /busy", fmt.Sprint(worker, "-", i), nil)
				}
			}
		})
	}
	for round := range 3 {
		reserve(store, "GET /rounds", fmt.Sprint("r", round), nil)
		copied := restored(t, store)
		if d := reserve(copied, "GET /rounds", fmt.Sprint("r", round), nil); !d.Repeated {
			t.Errorf("round %d: what was acknowledged before is not in the backup", round)
		}
		if d := reserve(copied, "GET /limited", "l1", limit); !d.Repeated || d.Remaining != 8e6 {
			t.Errorf("round %d: a repeat is answered with %+v", round, d)
		}
		if d := reserve(copied, "GET /limited", "new", limit); !d.Allowed || d.Remaining != 0 {
			t.Errorf("round %d: with 2 used and 7 held of 10: %+v", round, d)
		}
		if d := reserve(copied, "GET /limited", "newer", limit); d.Allowed {
			t.Errorf("round %d: over the limit: %+v", round, d)
		}
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	busy.Wait()
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.Backup(t.Context(), &bytes.Buffer{}); !errors.Is(err, service.ErrLedgerClosed) {
		t.Errorf("after Close: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// A backup that is cut short is an error, leaves no file for long, and harms nothing.
func TestBackupIsCutShort(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "backup-17.tmp"), []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	store := open(t, sqlite.Options{Dir: dir})
	defer store.Close()
	full := errors.New("the disk is full")
	if err := store.Backup(t.Context(), failingWriter{full}); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := store.Backup(gone, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if _, err := service.Reserve(t.Context(), store, service.Reservation{Application: "a", Alias: "GET /x", ID: "1", Amount: 1}); err != nil {
		t.Error(err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// What is no backup is refused, and so is a folder with something in it; neither leaves anything behind.
func TestRestoreRefuses(t *testing.T) {
	store := open(t, sqlite.Options{})
	defer store.Close()
	var backup bytes.Buffer
	if err := store.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(backup.Bytes())
	for i := len(damaged) / 2; i < len(damaged); i++ {
		damaged[i] ^= 0x5a
	}
	for name, text := range map[string][]byte{"empty": nil, "text": []byte("no database at all, but long enough to be read"), "cut off": backup.Bytes()[:backup.Len()/2], "damaged": damaged} {
		file, dir := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "data")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := sqlite.Restore(t.Context(), file, dir); !errors.Is(err, sqlite.ErrNoBackup) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(dir); !os.IsNotExist(err) {
			t.Errorf("%s: %q is left, %v", name, left, err)
		}
	}
	file := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(file, backup.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Restore(t.Context(), file, full); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a folder that is not empty: %v", err)
	}
	if err := sqlite.Restore(t.Context(), filepath.Join(full, "nowhere"), t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
