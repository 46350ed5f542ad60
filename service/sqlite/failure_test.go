package sqlite

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// TestFullDisk fills the journal's file, with SQLite's own limit in place of the disk's.
func TestFullDisk(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pages := func(n int) {
		t.Helper()
		if _, err := s.journal.db.ExecContext(t.Context(), fmt.Sprintf(`PRAGMA max_page_count = %d`, n)); err != nil {
			t.Fatal(err)
		}
	}
	limit := []service.Limit{{Amount: 5e6, Window: service.WindowMonth}}
	reserve := func(id string) (service.Decision, error) {
		return service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: "GET /x", ID: id, Amount: 1e6, Limits: limit})
	}
	if d, err := reserve("first"); err != nil || !d.Allowed {
		t.Fatalf("first: %+v, %v", d, err)
	}
	pages(1) // no page more than there are
	failures := 0
	for i := range 50 {
		d, err := service.Reserve(t.Context(), s, service.Reservation{
			Application: "a", Alias: "GET /filler", ID: strconv.Itoa(i), Amount: 1, Metadata: service.Metadata{RawURL: string(make([]byte, 900))},
		})
		if err == nil && d.Allowed {
			continue
		}
		if failures++; err == nil || d.Allowed {
			t.Fatalf("without room: %+v, %v", d, err)
		}
	}
	if failures == 0 {
		t.Fatal("the journal was never full")
	}
	before := s.Counters()
	if before.Failed == 0 || before.Held != 51-failures || before.Reserved != uint64(51-failures) {
		t.Errorf("counters %+v after %d failures", before, failures)
	}
	pages(1 << 20)
	for i := range 6 {
		d, err := reserve(strconv.Itoa(1000 + i))
		if want := i < 4; err != nil || d.Allowed != want {
			t.Errorf("with room again, reservation %d: %+v, %v", i, d, err)
		}
	}
}
