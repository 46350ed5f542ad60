package sqlite

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"strconv"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
)

func TestFilter(t *testing.T) {
	rng := rand.New(rand.NewPCG(ledgertest.Seed, 4))
	key := func() (k book.Key) {
		binary.LittleEndian.PutUint64(k[:8], rng.Uint64())
		binary.LittleEndian.PutUint64(k[8:], rng.Uint64())
		return k
	}
	f := newFilter(minFilter)
	keys := make([]book.Key, f.room)
	for i := range keys {
		keys[i] = key()
		f.add(&keys[i])
	}
	for i := range keys {
		if !f.has(&keys[i]) {
			t.Fatalf("key %d was added, and is not there", i)
		}
	}
	wrong := 0
	for range 100_000 {
		if other := key(); f.has(&other) {
			wrong++
		}
	}
	if wrong > 500 {
		t.Errorf("wrong about %d of 100,000 others", wrong)
	}
}

// Every id is known again, whether the filter is being filled, ready, outgrown or given up.
func TestFilterOfAStore(t *testing.T) {
	dir := t.TempDir()
	n := 0
	for _, state := range []string{"new", "filled at open", "outgrown", "given up"} {
		s, err := Open(Options{Dir: dir, FoldAfter: 1, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		settle := func(i int, wantRepeated bool) {
			t.Helper()
			r, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: strconv.Itoa(i), Amount: 1})
			if err != nil || r.Repeated != wantRepeated {
				t.Fatalf("%s: id %d: %+v, %v", state, i, r, err)
			}
		}
		change := func(f func()) { // when no operation is on its way
			if err := s.foldNow(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			f()
		}
		for round := range 3 {
			switch {
			case state == "outgrown" && round == 1:
				change(func() {
					if s.filter != nil {
						s.filter.room = 1
					}
				})
			case state == "given up" && round == 1:
				change(func() { s.filter = nil })
			}
			for range 200 {
				settle(n, false)
				n++
			}
			for i := range n {
				settle(i, true)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A filter that would be too large takes no memory.
func TestFilterThatIsTooLarge(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{Dir: dir, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "x", ID: "1", Amount: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(Options{Dir: dir, Logger: quiet()}); err != nil {
		t.Fatal(err)
	}
	// As if 300 million had been recorded and retired but for the oldest (or as if there were so many).
	if _, err := s.tables.others.Exec(`INSERT INTO allocations SELECT 300000000, randomblob(16), ledger, 'z', reserved, reserved_at, age, 0, detail, state, flags, charged, ended_at, meta FROM allocations LIMIT 1`); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if s, err = Open(Options{Dir: dir, Logger: quiet()}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "x", ID: "2", Amount: 1}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 256<<20 {
		t.Errorf("%d MiB were allocated for a filter that is not kept", got>>20)
	}
}
