package sqlite

import (
	"encoding/binary"
	"math/rand/v2"
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
