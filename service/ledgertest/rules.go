package ledgertest

import (
	"errors"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func testReserveAndSettle(t *testing.T, f *fixture) {
	d := f.mustAllow("a", 2, perMinute(5))
	if !d.Limited || d.Limit != 5*unit || d.Remaining != 3*unit || d.WindowSeconds != 60 || d.Policy != "reports" || d.ID != "a" {
		t.Fatalf("decision %+v", d)
	}
	if want := f.clock.Now().Add(time.Minute); !d.ResetAt.Equal(want) {
		t.Fatalf("ResetAt %v, want %v", d.ResetAt, want)
	}
	f.wantCounts(0, 2)
	if r := f.settle("a", 1); r.Amount != unit || r.State != service.StateSettled || r.Flags != 0 || r.Repeated {
		t.Fatalf("receipt %+v", r)
	}
	f.wantCounts(1, 0)
}

func testLimit(t *testing.T, f *fixture) {
	f.mustAllow("a", 2, perMinute(3))
	if d := f.mustDeny("b", 2, perMinute(3)); d.Remaining != unit || d.Limit != 3*unit || d.WindowSeconds != 60 || d.Policy != "reports" || d.ResetAt.IsZero() {
		t.Fatalf("denial %+v", d)
	}
	f.mustAllow("c", 1, perMinute(3))
	f.mustDeny("d", 1, perMinute(3))
	f.settle("a", 1)
	f.wantCounts(1, 1)
	f.mustAllow("e", 1, perMinute(3))
	f.mustDeny("f", 1, perMinute(3))
	if d := f.mustDeny("g", service.MaxAmount/unit, perMinute(3)); d.Remaining != 0 {
		t.Fatalf("denial %+v", d)
	}
}

func testDenialNotRecorded(t *testing.T, f *fixture) {
	f.mustDeny("a", 6, perMinute(5))
	page, err := f.ledger.Ledgers(t.Context(), service.LedgerQuery{})
	if err != nil || len(page.Ledgers) != 0 || page.Total != 0 {
		t.Fatalf("a denial left %v, %v", page, err)
	}
	f.mustAllow("b", 5, perMinute(5))
	f.mustDeny("a", 5, perMinute(5))
	f.clock.Move(time.Minute)
	f.mustAllow("a", 5, perMinute(5))
}

func testRepeatedReservation(t *testing.T, f *fixture) {
	first := f.mustAllow("a", 2, perMinute(5))
	f.mustAllow("b", 2, perMinute(5))
	same := func() {
		t.Helper()
		again := f.mustAllow("a", 4, perMinute(5))
		if !again.Repeated {
			t.Fatalf("repeat %+v", again)
		}
		if again.Repeated = false; again != first {
			t.Fatalf("repeat %+v, want the first answer %+v", again, first)
		}
	}
	same()
	f.wantCounts(0, 4)
	f.settle("a", 2)
	same()
	f.wantCounts(2, 2)
	f.clock.Move(time.Hour)
	f.sweep()
	same()
}

func testConflict(t *testing.T, f *fixture) {
	f.mustAllow("a", 1, nil)
	check := func(err error) {
		t.Helper()
		if !errors.Is(err, service.ErrConflict) {
			t.Fatalf("error %v, want ErrConflict", err)
		}
	}
	for range 2 {
		_, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: app, Alias: "GET /other", ID: "a", Amount: unit})
		check(err)
		_, err = service.Settle(t.Context(), f.ledger, service.Settlement{Application: app, Alias: "GET /other", ID: "a", Amount: unit})
		check(err)
		f.settle("a", 1)
	}
	f.wantCounts(1, 0)
}

func testRepeatedSettlement(t *testing.T, f *fixture) {
	f.mustAllow("a", 1, nil)
	f.settle("a", 3)
	for _, amount := range []service.Micros{3, 7, 0} {
		r := f.settle("a", amount)
		if !r.Repeated || r.Amount != 3*unit || r.State != service.StateSettled {
			t.Fatalf("second settlement with %d: %+v", amount, r)
		}
	}
	f.wantCounts(3, 0)
}

func testVoid(t *testing.T, f *fixture) {
	f.mustAllow("a", 5, perMinute(5))
	if r := f.settle("a", 0); r.State != service.StateVoided || r.Amount != 0 {
		t.Fatalf("receipt %+v", r)
	}
	f.wantCounts(0, 0)
	if r := f.settle("a", 5); !r.Repeated || r.State != service.StateVoided || r.Amount != 0 {
		t.Fatalf("settlement after void %+v", r)
	}
	f.mustAllow("b", 5, perMinute(5))
}

func testSettleMore(t *testing.T, f *fixture) {
	f.mustAllow("a", 1, perMinute(5))
	if r := f.settle("a", 9); r.Amount != 9*unit || r.Flags != 0 {
		t.Fatalf("receipt %+v", r)
	}
	f.wantCounts(9, 0)
	if d := f.mustDeny("b", 1, perMinute(5)); d.Remaining != 0 {
		t.Fatalf("denial %+v", d)
	}
}

func testSettleUnreserved(t *testing.T, f *fixture) {
	s := service.Settlement{Application: app, Alias: alias, ID: "a", Amount: 4 * unit, Limits: perMinute(5)}
	r, err := service.Settle(t.Context(), f.ledger, s)
	if err != nil || r.Amount != 4*unit || r.State != service.StateSettled || r.Flags&service.FlagUnreserved == 0 {
		t.Fatalf("Settle = %+v, %v", r, err)
	}
	f.wantCounts(4, 0)
	f.mustDeny("b", 2, perMinute(5))
	f.mustAllow("c", 1, perMinute(5))
	if r := f.settle("a", 9); !r.Repeated || r.Amount != 4*unit {
		t.Fatalf("second settlement %+v", r)
	}
	if got := f.allocation("a").Flags; got&service.FlagUnreserved == 0 {
		t.Fatalf("flags %v", got.Names())
	}
}

func testSettleBeforeReserve(t *testing.T, f *fixture) {
	f.settle("a", 4)
	if d := f.mustAllow("a", 1, nil); !d.Repeated {
		t.Fatalf("decision %+v, want a repeat", d)
	}
	f.wantCounts(4, 0)
}

func testExpiry(t *testing.T, f *fixture) {
	day := []service.Limit{{Amount: 5 * unit, Window: service.WindowDay}}
	f.mustAllow("a", 3, day)
	f.clock.Move(time.Minute)
	f.mustAllow("b", 2, day)
	f.clock.Move(HoldTime - time.Minute - time.Millisecond)
	f.mustDeny("c", 1, day)
	if n := f.sweep(); n != 0 {
		t.Fatalf("%d expired too early", n)
	}
	f.clock.Move(time.Millisecond)
	f.mustAllow("c", 3, day)
	f.wantCounts(0, 5)
	f.clock.Move(time.Minute)
	if n := f.sweep(); n != 1 {
		t.Fatalf("%d expired, want b", n)
	}
	f.wantCounts(0, 3)
	if got := f.allocation("b").State; got != service.StateExpired {
		t.Fatalf("b is %v", got)
	}
}

func testSettleAfterExpiry(t *testing.T, f *fixture) {
	day := []service.Limit{{Amount: 5 * unit, Window: service.WindowDay}}
	f.mustAllow("a", 5, day)
	f.clock.Move(HoldTime)
	f.mustAllow("b", 5, day)
	if r := f.settle("a", 2); r.Amount != 2*unit || r.State != service.StateSettled || r.Flags != service.FlagLate {
		t.Fatalf("receipt %+v", r)
	}
	f.wantCounts(2, 5)
	if r := f.settle("a", 4); !r.Repeated || r.Amount != 2*unit {
		t.Fatalf("second settlement %+v", r)
	}
}

func testNoLimit(t *testing.T, f *fixture) {
	for _, id := range []string{"a", "b", "c"} {
		if d := f.mustAllow(id, 1e6, nil); d.Limited {
			t.Fatalf("decision %+v", d)
		}
		f.settle(id, 1e6)
		f.clock.Move(40 * 24 * time.Hour)
	}
	f.wantCounts(3e6, 0)
	if l := f.state(app, alias); l.Limited || !l.ResetAt.IsZero() {
		t.Fatalf("state %+v", l)
	}
}

func testApplications(t *testing.T, f *fixture) {
	f.mustAllow("a", 5, perMinute(5))
	d, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: "other", Alias: alias, ID: "a", Amount: 5 * unit, Limits: perMinute(5)})
	if err != nil || !d.Allowed || d.Repeated {
		t.Fatalf("another application: %+v, %v", d, err)
	}
	if _, err := service.Settle(t.Context(), f.ledger, service.Settlement{Application: "other", Alias: alias, ID: "a", Amount: unit}); err != nil {
		t.Fatal(err)
	}
	f.wantCounts(0, 5)
	if l := f.state("other", alias); l.Used != unit || l.Held != 0 {
		t.Fatalf("state %+v", l)
	}
}

func testChangedLimit(t *testing.T, f *fixture) {
	f.mustAllow("a", 3, perMinute(5))
	f.mustDeny("b", 1, perMinute(3))
	f.mustAllow("c", 7, perMinute(10))
	f.wantCounts(0, 10)
}
