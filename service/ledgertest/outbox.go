package ledgertest

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// OpenOutbox opens an empty ledger that has an outbox.
type OpenOutbox func(t *testing.T, now func() time.Time) OutboxLedger

// OutboxLedger is a ledger that has an outbox.
type OutboxLedger interface {
	service.Ledger
	service.Outbox
}

// RunOutbox runs the suite of service.Outbox.
func RunOutbox(t *testing.T, open OpenOutbox) {
	clock := NewClock()
	ledger := open(t, clock.Now)
	t.Cleanup(func() {
		if err := ledger.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	testOutbox(t, &fixture{TB: t, clock: clock, ledger: ledger}, ledger)
}

func testOutbox(t *testing.T, f *fixture, outbox service.Outbox) {
	set := func(names ...string) {
		t.Helper()
		if err := outbox.SetExports(t.Context(), names); err != nil {
			t.Fatal(err)
		}
	}
	left := func(export string, limit int, want ...string) (last uint64) {
		t.Helper()
		found, err := outbox.Undelivered(t.Context(), export, limit)
		if err != nil {
			t.Fatal(err)
		}
		ids := make([]string, len(found))
		for i, s := range found {
			ids[i] = s.ID
			if s.N <= last || s.Application != app || s.Alias != alias || s.State != service.StateSettled {
				t.Errorf("settlement %d: %+v", i, s)
			}
			last = s.N
		}
		if len(ids) != len(want) {
			t.Fatalf("%s has %q to see, want %q", export, ids, want)
		}
		for i := range want {
			if ids[i] != want[i] {
				t.Fatalf("%s has %q to see, want %q", export, ids, want)
			}
		}
		return last
	}
	delivered := func(export string, n uint64) {
		t.Helper()
		if err := outbox.Delivered(t.Context(), export, n); err != nil {
			t.Fatal(err)
		}
	}
	f.settle("before", 1)
	set("one", "two")
	left("one", 10)
	for i := range 4 {
		f.mustAllow(strconv.Itoa(i), 1, nil)
		f.settle(strconv.Itoa(i), service.Micros(i)) // the first is void
		f.settle(strconv.Itoa(i), 9)                 // a repeat
	}
	f.mustAllow("late", 1, nil)
	f.clock.Move(HoldTime)
	f.sweep()
	left("one", 10, "1", "2", "3")
	f.settle("late", 2)
	left("one", 10, "1", "2", "3", "late")
	last := left("one", 2, "1", "2")
	delivered("one", last)
	left("one", 10, "3", "late")
	left("two", 10, "1", "2", "3", "late")
	delivered("one", last-1) // it never goes back
	left("one", 10, "3", "late")
	set("two", "three")
	left("one", 10)
	f.settle("more", 1)
	left("three", 10, "more")
	left("two", 10, "1", "2", "3", "late", "more")
	set()
	left("two", 10)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for range 2 { // one after the other has its turn
		worked := false
		if err := outbox.Exclusively(ctx, "two", func(context.Context) error { worked = true; return nil }); err != nil || !worked {
			t.Fatalf("Exclusively: %v, %v", worked, err)
		}
	}
}
