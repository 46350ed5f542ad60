package sqlite

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/internal/wal/waltest"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
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

// Writes that fail while many batches are on their way, at the ends of segments too, leave nothing behind: after a crash there is
// exactly what was acknowledged.
func TestFaultsUnderLoad(t *testing.T) {
	var failing atomic.Bool
	rng := rand.New(rand.NewPCG(ledgertest.Seed, 5))
	disk := waltest.New(-1)
	disk.Fault(func(string, string) error { // one at a time: the disk is locked
		if failing.Load() && rng.IntN(20) == 0 {
			return syscall.ENOSPC
		}
		return nil
	})
	dir := t.TempDir()
	opts := Options{Dir: dir, Logger: quiet(), MaxBatch: 4, foldInterval: time.Hour}
	log := wal.Options{Files: disk, Segment: 2048}
	s, err := openOn(opts, log)
	if err != nil {
		t.Fatal(err)
	}
	before := t.TempDir()
	if err := os.CopyFS(before, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	failing.Store(true)
	var held, total, failed atomic.Int64
	var callers sync.WaitGroup
	for caller := range 64 {
		callers.Go(func() {
			for i := range 40 {
				r := service.Reservation{Application: "a", Alias: "GET /x", ID: fmt.Sprint(caller, " ", i), Amount: 3, Limits: []service.Limit{{Amount: 1e9, Window: service.WindowMonth}}}
				if d, err := service.Reserve(t.Context(), s, r); err != nil || !d.Allowed {
					failed.Add(1)
					continue
				}
				held.Add(3)
				if i%2 == 0 {
					continue
				}
				if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: r.ID, Amount: 5}); err != nil {
					failed.Add(1)
					continue
				}
				held.Add(-3)
				total.Add(5)
			}
		})
	}
	callers.Wait()
	failing.Store(false)
	if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: "last", Amount: 5}); err != nil {
		t.Fatal(err)
	}
	total.Add(5)
	if failed.Load() == 0 || total.Load() < 100 {
		t.Errorf("%d failed, %d charged", failed.Load(), total.Load())
	}
	check := func(s *Store, when string) {
		t.Helper()
		l, _, err := s.Find(t.Context(), "a", "GET /x")
		if err != nil || int64(l.Total) != total.Load() || int64(l.Held) != held.Load() || len(l.Limits) != 1 || l.Limits[0].Held != l.Held || l.Limits[0].Used != l.Total {
			t.Errorf("%s: %+v, %v; acknowledged were %d charged and %d held", when, l, err, total.Load(), held.Load())
		}
		sum, err := s.Sweep(t.Context())
		if c := s.Counters(); err != nil || sum != 0 || int64(c.Held)*3 != held.Load() {
			t.Errorf("%s: %d allocations are held, want %d (%v)", when, c.Held, held.Load()/3, err)
		}
	}
	check(s, "before the crash")
	log.Files = disk.AfterCrash(rng, true, -1)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	opts.Dir = before
	s, err = openOn(opts, log)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check(s, "after it")
}
