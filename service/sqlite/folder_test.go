package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
)

func settleOne(t *testing.T, s *Store, id string) service.Receipt {
	t.Helper()
	r, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "x", ID: id, Amount: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// One allocation that was recorded while the clock was ahead keeps the retention from nothing that comes after it.
func TestRetentionIsNotBlocked(t *testing.T) {
	clock := ledgertest.NewClock()
	opts := Options{Dir: t.TempDir(), Now: clock.Now, Logger: quiet(), Retention: 48 * time.Hour, FoldAfter: 1, MaxBatch: 1}
	reopen := func(s *Store) *Store {
		if s != nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Open(opts)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const years = 50 * 365 * 24 * time.Hour
	clock.Move(years)
	s := reopen(nil)
	settleOne(t, s, "early")
	clock.Move(-years)
	s = reopen(s)
	for day := range 40 {
		for i := range 20 {
			settleOne(t, s, fmt.Sprint(day, " ", i))
		}
		clock.Move(24 * time.Hour)
	}
	for i := range 20 {
		settleOne(t, s, fmt.Sprint("end ", i))
		if err := s.foldNow(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var n int
	if err := s.tables.others.QueryRow(`SELECT count(*) FROM allocations`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	if n > 200 {
		t.Errorf("%d of 821 allocations are left after 40 days with a retention of 2", n)
	}
	s = reopen(s)
	_ = s.Close()
}

// A backup, while there are queries, the retention, expiries and exports, holds what was acknowledged before it began.
func TestBackupBesideEverything(t *testing.T) {
	s, err := Open(Options{Dir: t.TempDir(), Logger: quiet(), FoldAfter: 50, foldInterval: 5 * time.Millisecond, Retention: 50 * time.Millisecond, HoldTime: 30 * time.Millisecond, MaxBatch: 8})
	if err != nil {
		t.Fatal(err)
	}
	var acked, stop atomic.Int64
	var wg sync.WaitGroup
	for c := range 8 {
		wg.Go(func() {
			for i := 0; stop.Load() == 0; i++ {
				id := fmt.Sprint(c, " ", i)
				alias := fmt.Sprint("GET /", i%50)
				limits := []service.Limit{{Amount: 1e12, Window: service.WindowSecond, Burst: 1e12}, {Amount: 1e12, Window: service.WindowDay, Ledger: "all"}}
				if i%3 > 0 {
					if _, err := service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: alias, ID: id, Amount: 1e6, Limits: limits}); err != nil {
						t.Error(err)
					}
				}
				if i%7 == 0 {
					continue
				}
				if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: alias, ID: id, Amount: 1e6, Limits: limits}); err != nil {
					t.Error(err)
					return
				}
				acked.Add(1)
			}
		})
	}
	wg.Go(func() {
		for stop.Load() == 0 {
			_, _ = s.Ledgers(t.Context(), service.LedgerQuery{Sort: service.SortShare})
			_, _ = s.Ledgers(t.Context(), service.LedgerQuery{})
			_, _ = s.Allocations(t.Context(), service.AllocationQuery{Limit: 100})
			_, _ = s.Allocations(t.Context(), service.AllocationQuery{Application: "a", Alias: "GET /1", Limit: 100})
			_, _, _ = s.Find(t.Context(), "a", "all")
			s.Counters()
		}
	})
	sum := func(s *Store) (requests uint64, total int64) {
		t.Helper()
		if err := s.Usage(t.Context(), service.UsageQuery{From: time.Now().Add(-48 * time.Hour), To: time.Now().Add(48 * time.Hour), Bucket: service.WindowDay}, func(u service.Usage) error {
			requests += u.Requests
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		page, err := s.Ledgers(t.Context(), service.LedgerQuery{Application: "a", Contains: "GET", Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range page.Ledgers {
			total += int64(l.Total)
		}
		return requests, total / 1e6
	}
	for range 6 {
		for more := acked.Load() + 500; acked.Load() < more; { // so that each backup has others to hold
			runtime.Gosched()
		}
		before := acked.Load()
		file := filepath.Join(t.TempDir(), "b")
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Backup(t.Context(), f); err != nil {
			t.Fatal(err)
		}
		after := acked.Load() + 8
		_ = f.Close()
		dir := filepath.Join(t.TempDir(), "r")
		if err := Restore(t.Context(), file, dir); err != nil {
			t.Fatal(err)
		}
		r, err := Open(Options{Dir: dir, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		requests, total := sum(r)
		if int64(requests) != total || total < before || total > after {
			t.Errorf("a backup has %d requests, %d charged; acknowledged were %d before, %d after", requests, total, before, after)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(1)
	wg.Wait()
	if requests, total := sum(s); int64(requests) != acked.Load() || total != acked.Load() {
		t.Errorf("%d requests, %d charged, %d acknowledged", requests, total, acked.Load())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// A data folder may have any name.
func TestFolderWithABracket(t *testing.T) {
	for _, name := range []string{"a[b", "a[1]"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		left := filepath.Join(dir, "backup-1.tmp")
		if err := os.WriteFile(left, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Options{Dir: dir, Logger: quiet()})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := os.Stat(left); err == nil {
			t.Errorf("%s: what a backup has left is still there", name)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
