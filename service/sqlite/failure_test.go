package sqlite

import (
	"io"
	"log/slog"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/internal/wal/waltest"
	"github.com/usageflow/usageflow-go-middleware/service"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// TestFullDisk fails every other write of the journal, for a while.
func TestFullDisk(t *testing.T) {
	var full atomic.Bool
	writes := 0
	disk := waltest.New(-1)
	disk.Fault(func(op, _ string) error {
		if writes++; full.Load() && op == "write" && writes%2 == 0 {
			return syscall.ENOSPC
		}
		return nil
	})
	s, err := openOn(Options{Dir: t.TempDir(), Logger: quiet()}, wal.Options{Files: disk})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	limit := []service.Limit{{Amount: 5e6, Window: service.WindowMonth}}
	reserve := func(id string) (service.Decision, error) {
		return service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: "GET /x", ID: id, Amount: 1e6, Limits: limit})
	}
	if d, err := reserve("first"); err != nil || !d.Allowed {
		t.Fatalf("first: %+v, %v", d, err)
	}
	full.Store(true)
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
	full.Store(false)
	for i := range 6 {
		d, err := reserve(strconv.Itoa(1000 + i))
		if want := i < 4; err != nil || d.Allowed != want {
			t.Errorf("with room again, reservation %d: %+v, %v", i, d, err)
		}
	}
}
