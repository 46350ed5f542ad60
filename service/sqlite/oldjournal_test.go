package sqlite

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/internal/wal/waltest"
	"github.com/usageflow/usageflow-go-middleware/service"
)

// What an earlier version was killed over, with rows in its journal that the tables don't have, is all there.
func TestOldJournal(t *testing.T) {
	dir, disk := t.TempDir(), waltest.New(-1)
	opts := Options{Dir: dir, Logger: quiet(), foldInterval: time.Hour}
	s, err := openOn(opts, wal.Options{Files: disk})
	if err != nil {
		t.Fatal(err)
	}
	killed := t.TempDir()
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		id := strconv.Itoa(i)
		if _, err := service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: "GET /x", ID: id, Amount: 5}); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: id, Amount: 7}); err != nil {
				t.Fatal(err)
			}
		}
	}
	db, err := openDB(filepath.Join(killed, oldJournal), "journal_mode(wal)")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE journal (seq INTEGER PRIMARY KEY, row BLOB NOT NULL); PRAGMA user_version = 2`); err != nil {
		t.Fatal(err)
	}
	rows := 0
	if _, err := wal.Open(wal.Options{Files: disk}, func(number uint64, data []byte) error {
		rows++
		_, err := db.ExecContext(t.Context(), `INSERT INTO journal VALUES (?, ?)`, int64(number), data)
		return err
	}); err != nil || rows != 30 {
		t.Fatalf("%d rows, %v", rows, err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	for i := range 3 {
		s, err := Open(Options{Dir: killed, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		l, _, err := s.Find(t.Context(), "a", "GET /x")
		if want := service.Micros(70 + 7*i); err != nil || l.Total != want || l.Held != service.Micros(50-5*i) {
			t.Errorf("start %d: %+v, %v", i, l, err)
		}
		if r, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: "4", Amount: 1}); err != nil || !r.Repeated || r.Amount != 7 {
			t.Errorf("start %d: an old settlement: %+v, %v", i, r, err)
		}
		if r, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: strconv.Itoa(2*i + 1), Amount: 7}); err != nil || r.Repeated || r.Flags != 0 {
			t.Errorf("start %d: what was held: %+v, %v", i, r, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(killed, oldJournal)); !os.IsNotExist(err) {
			t.Errorf("the old journal: %v", err)
		}
	}
}
