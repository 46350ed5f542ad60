package sqlite

import (
	"errors"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/internal/wal/waltest"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
)

// caller reserves and settles, one after the other, and knows what was acknowledged.
type caller struct {
	store   *Store
	clock   *ledgertest.Clock
	n       int
	held    []string
	settled map[string]service.Micros
	ids     []string // those of settled
	charged service.Micros
	unknown service.Settlement // its answer was lost in the crash
}

const crashLimit = 400

// call does one thing.
func (c *caller) call(t *testing.T, rng *rand.Rand) error {
	limits := []service.Limit{{Amount: crashLimit, Window: service.WindowHour}}
	switch n := rng.IntN(10); {
	case n < 5 || len(c.held) == 0:
		c.n++
		id := strconv.Itoa(c.n)
		d, err := service.Reserve(t.Context(), c.store, service.Reservation{Application: "a", Alias: "GET /x", ID: id, Amount: service.Micros(1 + rng.IntN(9)), Limits: limits})
		if err == nil && d.Allowed {
			c.held = append(c.held, id)
		}
		return err
	case n < 8:
		i := rng.IntN(len(c.held))
		id := c.held[i]
		c.held = append(c.held[:i], c.held[i+1:]...)
		return c.settle(t, service.Settlement{Application: "a", Alias: "GET /x", ID: id, Amount: service.Micros(rng.IntN(9)), Limits: limits})
	case n < 9 && len(c.ids) > 0:
		id := c.ids[rng.IntN(len(c.ids))]
		r, err := service.Settle(t.Context(), c.store, service.Settlement{Application: "a", Alias: "GET /x", ID: id, Amount: 99})
		if err == nil && (!r.Repeated || r.Amount != c.settled[id]) {
			t.Fatalf("%s was settled with %d; again: %+v", id, c.settled[id], r)
		}
		return err
	default:
		c.clock.Move(time.Duration(rng.IntN(200)) * time.Second)
		return nil
	}
}

func (c *caller) settle(t *testing.T, s service.Settlement) error {
	r, err := service.Settle(t.Context(), c.store, s)
	if err != nil {
		c.unknown = s
		return err
	}
	if r.Amount != s.Amount {
		t.Fatalf("%s was settled with %d: %+v", s.ID, s.Amount, r)
	}
	c.settled[s.ID] = s.Amount
	c.ids = append(c.ids, s.ID)
	c.charged += s.Amount
	return nil
}

// check compares what is there with what was acknowledged. The settlement whose answer was lost is sent again first, as an agent
// does: it is charged once, whether the crash came before or after it was on disk.
func (c *caller) check(t *testing.T) {
	t.Helper()
	if c.unknown.ID != "" {
		if err := c.settle(t, c.unknown); err != nil {
			t.Fatal(err)
		}
		c.unknown = service.Settlement{}
	}
	for _, id := range c.ids {
		r, err := service.Settle(t.Context(), c.store, service.Settlement{Application: "a", Alias: "GET /x", ID: id, Amount: 99})
		if err != nil || !r.Repeated || r.Amount != c.settled[id] {
			t.Fatalf("%s was settled with %d; after the crash: %+v, %v", id, c.settled[id], r, err)
		}
	}
	l, found, err := c.store.Find(t.Context(), "a", "GET /x")
	if err != nil || l.Total != c.charged {
		t.Fatalf("charged are %d (%v, %v), acknowledged %d", l.Total, found, err, c.charged)
	}
	for _, limit := range l.Limits {
		if limit.Used+limit.Held > crashLimit {
			t.Fatalf("%d used and %d held of %d", limit.Used, limit.Held, crashLimit)
		}
	}
}

// TestCrashAtEveryWrite crashes at each change that the journal makes to its disk, twice in a row, with and without the loss of what
// was not durable. The tables stay as they were before the crash, or have all that was folded since.
func TestCrashAtEveryWrite(t *testing.T) {
	const calls = 60
	for n := 1; ; n++ {
		rng := rand.New(rand.NewPCG(ledgertest.Seed, uint64(n)))
		c := &caller{clock: ledgertest.NewClock(), settled: map[string]service.Micros{}}
		disk, dir, crashes := waltest.New(n), t.TempDir(), 0
		for life := range 3 {
			folding := rng.IntN(2) == 0
			opts := Options{Dir: dir, Now: c.clock.Now, Logger: quiet(), foldInterval: time.Hour}
			if folding {
				opts.FoldAfter = 1 + rng.IntN(20)
			}
			before := t.TempDir()
			if err := os.CopyFS(before, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			var err error
			c.store, err = openOn(opts, wal.Options{Files: disk, Segment: 8192})
			if err == nil {
				c.check(t)
				for range calls {
					if err = c.call(t, rng); err != nil {
						break
					}
				}
				_ = c.store.Close() // the journal can't be closed after the crash; what the tables have counts
			}
			if life == 2 || err == nil {
				break
			}
			if !errors.Is(err, waltest.ErrCrashed) {
				t.Fatalf("change %d, life %d: %v", n, life, err)
			}
			crashes++
			if !folding {
				dir = before
			}
			next := -1
			if life == 0 {
				next = 1 + rng.IntN(80)
			}
			disk = disk.AfterCrash(rng, rng.IntN(3) > 0, next)
		}
		if crashes == 0 {
			if n < calls {
				t.Errorf("%d changes only", n)
			}
			return
		}
	}
}
