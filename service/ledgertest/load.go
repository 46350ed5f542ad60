package ledgertest

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func testConcurrent(t *testing.T, f *fixture) {
	var allowed atomic.Int32
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			d, err := service.Reserve(t.Context(), f.ledger, service.Reservation{
				Application: app, Alias: alias, ID: strconv.Itoa(i), Amount: unit, Limits: perMinute(5),
			})
			if err != nil {
				t.Error(err)
			}
			if d.Allowed {
				allowed.Add(1)
			}
		})
	}
	callers.Wait()
	if got := allowed.Load(); got != 5 {
		t.Fatalf("%d of 100 concurrent reservations passed, want 5", got)
	}
	f.wantCounts(0, 5)
}

// testOrder submits reservations and their settlements without waiting.
func testOrder(t *testing.T, f *fixture) {
	const n = 500
	var answers sync.WaitGroup
	for i := range n {
		id := strconv.Itoa(i)
		answers.Add(2)
		err := f.ledger.SubmitReserve(service.Reservation{Application: app, Alias: alias, ID: id, Amount: unit}, func(_ service.Decision, err error) {
			if err != nil {
				t.Error(err)
			}
			answers.Done()
		})
		if err != nil {
			t.Fatal(err)
		}
		err = f.ledger.SubmitSettle(service.Settlement{Application: app, Alias: alias, ID: id, Amount: unit}, func(r service.Receipt, err error) {
			if err != nil || r.Flags != 0 {
				t.Errorf("settlement %s: %+v, %v", id, r, err)
			}
			answers.Done()
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	answers.Wait()
	f.wantCounts(n, 0)
	if c := f.ledger.Counters(); c.Reserved != n || c.Settled != n || c.Flagged != 0 || c.Ledgers != 1 || c.Held != 0 {
		t.Fatalf("counters %+v", c)
	}
}

func testQueries(t *testing.T, f *fixture) {
	meta := service.Metadata{Method: "GET", URL: "/api/:n", RawURL: "/api/7", Status: 200, DurationMS: 1.5}
	for i := range 300 {
		_, err := service.Reserve(t.Context(), f.ledger, service.Reservation{
			Application: app, Alias: fmt.Sprintf("GET /api/%03d", i), ID: strconv.Itoa(i), Amount: unit, Metadata: meta,
		})
		if err != nil {
			t.Fatal(err)
		}
		f.clock.Move(time.Millisecond)
	}
	ledgers := func(q service.LedgerQuery, want ...string) {
		t.Helper()
		found, err := f.ledger.Ledgers(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for i, alias := range want {
			if i >= len(found.Ledgers) || found.Ledgers[i].Alias != alias {
				t.Fatalf("Ledgers(%+v) = %d ledgers, want %q at %d", q, len(found.Ledgers), alias, i)
			}
		}
	}
	ledgers(service.LedgerQuery{}, "GET /api/299", "GET /api/298")
	ledgers(service.LedgerQuery{Offset: 250, Limit: 2}, "GET /api/049", "GET /api/048")
	ledgers(service.LedgerQuery{Contains: "/29"}, "GET /api/299", "GET /api/298")
	for q, want := range map[service.LedgerQuery]int{
		{}: service.DefaultQueryLimit, {Limit: 2}: 2, {Limit: 1e6}: 300, {Offset: 299}: 1, {Offset: 300}: 0, {Contains: "/29"}: 10, {Contains: "nothing"}: 0,
	} {
		if found, err := f.ledger.Ledgers(t.Context(), q); err != nil || len(found.Ledgers) != want {
			t.Errorf("Ledgers(%+v) = %d ledgers, %v, want %d", q, len(found.Ledgers), err, want)
		}
	}
	found, err := f.ledger.Allocations(t.Context(), service.AllocationQuery{Limit: 2})
	if err != nil || len(found) != 2 || found[0].ID != "299" || found[1].ID != "298" {
		t.Fatalf("Allocations = %+v, %v", found, err)
	}
	if a := found[0]; a.Metadata != meta || a.State != service.StateHeld || a.Reserved != unit || a.Application != app || !a.EndedAt.IsZero() || a.ReservedAt.IsZero() {
		t.Fatalf("allocation %+v", a)
	}
}
