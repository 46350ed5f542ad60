package sqlite

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
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

// nowAndThen makes one of 15 changes of the disk fail. The rng is used with mu held.
func nowAndThen(disk *waltest.Disk, rng *rand.Rand, mu *sync.Mutex) {
	disk.Fault(func(string, string) error {
		mu.Lock()
		defer mu.Unlock()
		if rng.IntN(15) == 0 {
			return syscall.EIO
		}
		return nil
	})
}

// copyOf is a folder with what is in dir.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// In lives with faults and crashes every operation is sent again until it is answered: in the end each id is charged once, no more
// were admitted than the limit lets pass, and nothing acknowledged is missing.
func TestLivesWithFaults(t *testing.T) {
	for s := range 12 {
		t.Run(fmt.Sprint(s), func(t *testing.T) { live(t, uint64(s)) })
	}
}

func live(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 99))
	var rngMu sync.Mutex
	const limit, callers, each = 150, 12, 20 // 240 reservations of 1
	limits := []service.Limit{{Amount: limit * 1e6, Window: service.WindowMonth}, {Amount: 1000e6, Window: service.WindowDay, Ledger: "shared"}}
	type op struct{ reserved, denied, settled bool }
	ops := make([]op, callers*each)
	var admitted atomic.Int64
	dir, disk := t.TempDir(), waltest.New(-1)
	for life := 0; ; life++ {
		last := life == 8
		folds := rng.IntN(2) == 0
		opts := Options{Dir: dir, Logger: quiet(), MaxBatch: 1 + rng.IntN(5), foldInterval: time.Hour}
		if folds {
			opts.foldInterval, opts.FoldAfter = 3*time.Millisecond, 4
		}
		saved := copyOf(t, dir)
		left := -1
		if !last {
			left = 20 + rng.IntN(150)
		}
		disk = disk.AfterCrash(rng, life > 0 && rng.IntN(2) == 0, left)
		if !last {
			nowAndThen(disk, rng, &rngMu)
		}
		store, err := openOn(opts, wal.Options{Files: disk, Segment: 2048})
		if err != nil {
			if last || !errors.Is(err, waltest.ErrCrashed) && !errors.Is(err, syscall.EIO) {
				t.Fatalf("life %d: %v", life, err)
			}
			continue
		}
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				for i := range each {
					o := &ops[c*each+i]
					id := fmt.Sprint(c, "-", i)
					if !o.reserved {
						d, err := service.Reserve(t.Context(), store, service.Reservation{Application: "a", Alias: "GET /x", ID: id, Amount: 1e6, Limits: limits})
						if err != nil {
							continue
						}
						if !d.Allowed {
							o.denied = true
							continue
						}
						o.reserved = true
						admitted.Add(1)
					}
					r, err := service.Settle(t.Context(), store, service.Settlement{Application: "a", Alias: "GET /x", ID: id, Amount: 1e6, Limits: limits})
					if err != nil {
						continue
					}
					if r.Flags != 0 {
						t.Errorf("life %d: id %s was admitted, and is settled with flags %v", life, id, r.Flags)
					}
					if o.settled && !r.Repeated {
						t.Errorf("life %d: id %s was settled, and is charged again", life, id)
					}
					o.settled = true
				}
			})
		}
		wg.Wait()
		if last {
			l, _, err := store.Find(t.Context(), "a", "GET /x")
			b, _, err2 := store.Find(t.Context(), "a", "shared")
			if err != nil || err2 != nil || int64(l.Total) != admitted.Load()*1e6 || l.Held != 0 || admitted.Load() != limit || b.Total != l.Total || b.Held != 0 {
				t.Errorf("%d admitted of %d; %+v; shared %+v", admitted.Load(), limit, l, b)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		_ = store.Close()
		if !folds { // the tables as they were, as no fold had come in this life
			dir = saved
		}
	}
}

// No window admits more than its limit, though windows end while batches fail and the journal crashes.
func TestWindowsWithFaults(t *testing.T) {
	for seed := range 10 {
		rng := rand.New(rand.NewPCG(uint64(seed), 55))
		var mu sync.Mutex
		const limit = 7
		clock := ledgertest.NewClock()
		limits := []service.Limit{{Amount: limit * 1e6, Window: service.WindowMinute}}
		admitted := map[int64]map[string]bool{} // by the end of the window
		dir, disk := t.TempDir(), waltest.New(-1)
		var n atomic.Int64
		for life := range 6 {
			folds := rng.IntN(2) == 0
			opts := Options{Dir: dir, Now: clock.Now, HoldTime: 1e6 * time.Hour, Logger: quiet(), MaxBatch: 1 + rng.IntN(3), foldInterval: time.Hour}
			if folds {
				opts.foldInterval, opts.FoldAfter = 2*time.Millisecond, 3
			}
			saved := copyOf(t, dir)
			disk = disk.AfterCrash(rng, life > 0 && rng.IntN(2) == 0, 60+rng.IntN(150))
			nowAndThen(disk, rng, &mu)
			s, err := openOn(opts, wal.Options{Files: disk, Segment: 2048})
			if err != nil {
				if !errors.Is(err, waltest.ErrCrashed) && !errors.Is(err, syscall.EIO) {
					t.Fatal(err)
				}
				continue
			}
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					for !disk.Crashed() {
						id := fmt.Sprint(n.Add(1))
						for try := 0; try < 20 && !disk.Crashed(); try++ {
							d, err := service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: "x", ID: id, Amount: 1e6, Limits: limits})
							if err != nil {
								continue
							}
							mu.Lock()
							if d.Allowed {
								at := d.ResetAt.Unix()
								if admitted[at] == nil {
									admitted[at] = map[string]bool{}
								}
								admitted[at][id] = true
							} else if rng.IntN(6) == 0 {
								clock.Move(time.Duration(rng.IntN(30)) * time.Second)
							}
							mu.Unlock()
							break
						}
					}
				})
			}
			wg.Wait()
			_ = s.Close()
			if !folds {
				dir = saved
			}
		}
		full := 0
		for at, ids := range admitted {
			if len(ids) > limit {
				t.Errorf("seed %d: %d admitted in the window that ends at %d", seed, len(ids), at)
			}
			if len(ids) == limit {
				full++
			}
		}
		if full == 0 {
			t.Errorf("seed %d: no window was full", seed)
		}
	}
}
