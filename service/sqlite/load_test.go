package sqlite_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// What is held expires in the order in which it was reserved, and ledgers are listed in the order of use, also after a
// start, which reads the tables in parts.
func TestOrderAfterStart(t *testing.T) {
	const n, step = 1000, 100 * time.Millisecond
	clock := ledgertest.NewClock()
	opts := sqlite.Options{Dir: t.TempDir(), Now: clock.Now}
	s := open(t, opts)
	reserve := func(i int) {
		t.Helper()
		clock.Move(step)
		if _, err := service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: fmt.Sprint("GET /", i%(n/2)), ID: fmt.Sprint(i), Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		reserve(i)
	}
	for i := 0; i < n; i += 3 { // there are gaps in what is held
		if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: fmt.Sprint("GET /", i%(n/2)), ID: fmt.Sprint(i), Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	reserve(n + 7)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, opts)
	if c := s.Counters(); c.Held != n-n/3 || c.Ledgers != n/2 {
		t.Fatalf("%d held in %d ledgers", c.Held, c.Ledgers)
	}
	page, err := s.Ledgers(t.Context(), service.LedgerQuery{Sort: service.SortRecent, Limit: 2})
	if err != nil || len(page.Ledgers) != 2 || page.Ledgers[0].Alias != "GET /7" {
		t.Errorf("the most recently used: %+v, %v", page.Ledgers, err)
	}
	clock.Move(ledgertest.HoldTime - (n/2+1)*step)
	if _, err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := s.Allocations(t.Context(), service.AllocationQuery{Limit: n})
	if err != nil || len(found) != n {
		t.Fatalf("%d allocations, %v", len(found), err)
	}
	for i, al := range found[1:] {
		want := service.StateHeld
		switch k := n - 1 - i; {
		case k%3 == 0:
			want = service.StateSettled
		case k < n/2:
			want = service.StateExpired
		}
		if al.ID != fmt.Sprint(n-1-i) || al.State != want {
			t.Errorf("%s is %v, want %v", al.ID, al.State, want)
		}
	}
}
