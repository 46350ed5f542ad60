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

func testSeveralLimits(t *testing.T, f *fixture) {
	limits := []service.Limit{
		{Amount: 2 * unit, Window: service.WindowSecond, Policy: "second"},
		{Amount: 5 * unit, Window: service.WindowMinute, Policy: "minute"},
		{Amount: 6 * unit, Window: service.WindowHour, Policy: "hour"},
	}
	if d := f.mustAllow("a", 2, limits); d.Policy != "second" || d.Remaining != 0 || d.WindowSeconds != 1 {
		t.Fatalf("decision %+v, want the limit that is nearest", d)
	}
	if d := f.mustDeny("b", 1, limits); d.Policy != "second" {
		t.Fatalf("denial %+v", d)
	}
	f.clock.Move(time.Second)
	if d := f.mustDeny("b", 4, limits); d.Policy != "minute" || d.Remaining != 3*unit {
		t.Fatalf("denial %+v, want the limit that is the last to let it pass", d)
	}
	if d := f.mustDeny("b", 5, limits); d.Policy != "hour" || d.Remaining != 4*unit {
		t.Fatalf("denial %+v", d)
	}
	f.mustAllow("c", 2, limits) // what was denied has taken nothing
	f.settle("c", 1)
	f.clock.Move(time.Second)
	f.mustAllow("d", 2, limits) // 2 held, 1 used
	f.clock.Move(time.Second)
	f.mustDeny("e", 1, limits)
	f.clock.Move(time.Minute)
	if d := f.mustAllow("f", 1, limits); d.Policy != "hour" || d.Remaining != 0 {
		t.Fatalf("decision %+v", d)
	}
	l := f.state(app, alias)
	if len(l.Limits) != 3 || l.Policy != "hour" || l.Used != unit || l.Held != 5*unit || l.Limit != 6*unit {
		t.Fatalf("state %+v", l)
	}
	f.settle("a", 2)
	f.settle("d", 0)
	f.settle("f", 3) // 2 more than was reserved
	for i, want := range []service.Micros{3, 3, 6} {
		if got := f.state(app, alias).Limits[i]; got.Used != want*unit || got.Held != 0 {
			t.Errorf("limit %d: %+v, want %d used", i, got, want)
		}
	}
}

// A limit that is taken out of the policy and put back finds what was counted.
func testLimitComesBack(t *testing.T, f *fixture) {
	hour := []service.Limit{{Amount: 5 * unit, Window: service.WindowHour, Policy: "hour"}}
	f.mustAllow("a", 3, hour)
	f.mustAllow("b", 9, perMinute(9))
	f.mustAllow("c", 2, nil)
	if l := f.state(app, alias); l.Limited || l.Held != 14*unit {
		t.Fatalf("state %+v", l)
	}
	f.mustDeny("d", 1, perMinute(9))
	f.settle("b", 1)
	f.mustAllow("d", 6, perMinute(9))
	f.mustDeny("e", 1, hour) // 3 of a, 1 of b, 2 of c and 6 of d
	f.clock.Move(time.Hour)
	f.mustAllow("e", 5, hour)
}

func testBurst(t *testing.T, f *fixture) {
	limits := []service.Limit{{Amount: 60 * unit, Window: service.WindowMinute, Burst: 5 * unit, Policy: "burst"}} // one a second
	take := func(id string, amount service.Micros) {
		t.Helper()
		f.mustAllow(id, amount, limits)
		f.settle(id, amount)
	}
	for i := range 5 {
		take("a"+strconv.Itoa(i), 1)
	}
	d := f.mustDeny("b", 1, limits)
	if d.Limit != 5*unit || d.Remaining != 0 || !d.ResetAt.Equal(f.clock.Now().Add(time.Second)) || d.WindowSeconds != 5 {
		t.Fatalf("denial %+v at %v", d, f.clock.Now())
	}
	f.clock.Move(999 * time.Millisecond)
	f.mustDeny("b", 1, limits)
	f.clock.Move(time.Millisecond)
	take("b", 1)
	f.mustDeny("c", 1, limits)
	f.clock.Move(2500 * time.Millisecond)
	f.mustAllow("c", 2, limits)
	f.mustDeny("d", 1, limits)
	f.clock.Move(time.Hour)
	f.settle("c", 0) // it had expired, and takes nothing
	take("d", 5)     // no more than the bucket holds, however long it was
	f.mustDeny("e", 1, limits)
	f.clock.Move(3 * time.Second)
	f.mustAllow("e", 3, limits)
	f.settle("e", 8) // 5 more than reserved: the bucket owes them
	f.clock.Move(9 * time.Second)
	f.mustDeny("f", 5, limits)
	f.clock.Move(time.Second)
	take("f", 5)
	l := f.state(app, alias)
	if len(l.Limits) != 2 || l.Limits[0].Burst || !l.Limits[1].Burst || l.Limits[1].Amount != 5*unit {
		t.Fatalf("state %+v", l)
	}
}

// testBurstBeside shows that neither the bucket nor the window lets more pass than it may.
func testBurstBeside(t *testing.T, f *fixture) {
	limits := []service.Limit{{Amount: 10 * unit, Window: service.WindowMinute, Burst: 4 * unit, Policy: "p"}} // one in 6 s
	passed := 0
	for i := range 600 {
		if f.reserve(strconv.Itoa(i), 1, limits).Allowed {
			f.settle(strconv.Itoa(i), 1)
			passed++
		}
		f.clock.Move(100 * time.Millisecond)
	}
	if passed != 10 {
		t.Errorf("%d passed in a minute, want 10", passed)
	}
}

func shared(n service.Micros) []service.Limit {
	return []service.Limit{
		{Amount: 5 * unit, Window: service.WindowMinute, Policy: "route"},
		{Amount: n * unit, Window: service.WindowDay, Policy: "budget", Ledger: "* * ann"},
	}
}

func testSharedLedger(t *testing.T, f *fixture) {
	reserve := func(alias, id string, amount service.Micros) service.Decision {
		t.Helper()
		d, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: app, Alias: alias, ID: id, Amount: amount * unit, Limits: shared(8)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	settle := func(alias, id string, amount service.Micros) service.Receipt {
		t.Helper()
		r, err := service.Settle(t.Context(), f.ledger, service.Settlement{Application: app, Alias: alias, ID: id, Amount: amount * unit, Limits: shared(8)})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	want := func(alias string, used, held service.Micros) {
		t.Helper()
		if l := f.state(app, alias); l.Used != used*unit || l.Held != held*unit {
			t.Fatalf("%s: used %v held %v, want %d and %d", alias, l.Used.Units(), l.Held.Units(), used, held)
		}
	}
	reserve("GET /a ann", "1", 5)
	if d := reserve("GET /a ann", "2", 1); d.Allowed || d.Policy != "route" {
		t.Fatalf("decision %+v", d)
	}
	want("* * ann", 0, 5) // all or none
	if d := reserve("GET /b ann", "3", 3); !d.Allowed || d.Policy != "budget" || d.Remaining != 0 {
		t.Fatalf("decision %+v", d)
	}
	if d := reserve("GET /c ann", "4", 1); d.Allowed || d.Policy != "budget" {
		t.Fatalf("decision %+v", d)
	}
	if _, ok, err := f.ledger.Find(t.Context(), app, "GET /c ann"); ok || err != nil {
		t.Fatalf("a denial has made a ledger (%v)", err)
	}
	settle("GET /a ann", "1", 2)
	want("* * ann", 2, 3)
	settle("GET /b ann", "3", 0)
	want("* * ann", 2, 0)
	settle("GET /d ann", "never reserved", 4)
	want("* * ann", 6, 0)
	if d := reserve("GET /b ann", "5", 3); d.Allowed {
		t.Fatalf("decision %+v", d)
	}
	reserve("GET /b ann", "6", 2)
	f.clock.Move(HoldTime)
	f.sweep()
	want("* * ann", 6, 0)
	if r := settle("GET /b ann", "6", 2); r.Flags != service.FlagLate {
		t.Fatalf("receipt %+v", r)
	}
	want("* * ann", 8, 0)
	want("GET /b ann", 2, 0)
}

// A ledger that has the name of one that its limits share is that one: its own limits hold.
func testOwnSharedLedger(t *testing.T, f *fixture) {
	limits := []service.Limit{
		{Amount: 5 * unit, Window: service.WindowMonth, Policy: "own"},
		{Amount: 100 * unit, Window: service.WindowDay, Policy: "shared", Ledger: alias},
	}
	for i := range 5 {
		f.mustAllow(fmt.Sprint(i), 1, limits)
	}
	f.mustDeny("6", 1, limits)
	page, err := f.ledger.Ledgers(t.Context(), service.LedgerQuery{Application: app})
	if err != nil || page.Total != 1 {
		t.Errorf("%d ledgers, %v", page.Total, err)
	}
}

func testSoftLimit(t *testing.T, f *fixture) {
	limits := []service.Limit{{Amount: 3 * unit, Window: service.WindowMonth, Policy: "plan", Ledger: "* *", Soft: true}}
	for i := range 5 {
		if d := f.mustAllow(strconv.Itoa(i), 1, limits); d.Limited {
			t.Fatalf("decision %+v", d)
		}
		f.settle(strconv.Itoa(i), 1)
	}
	l := f.state(app, "* *")
	if len(l.Limits) != 1 || !l.Limits[0].Soft || l.Limits[0].Used != 5*unit || l.Limits[0].Amount != 3*unit {
		t.Fatalf("state %+v", l)
	}
}

// testSharedConcurrent has many aliases meet in one budget.
func testSharedConcurrent(t *testing.T, f *fixture) {
	const callers, limit = 300, 40
	var allowed atomic.Int32
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			d, err := service.Reserve(t.Context(), f.ledger, service.Reservation{
				Application: app, Alias: fmt.Sprintf("GET /%d ann", i%50), ID: strconv.Itoa(i), Amount: unit, Limits: shared(limit),
			})
			if err != nil {
				t.Error(err)
			}
			if d.Allowed {
				allowed.Add(1)
			}
		})
	}
	wg.Wait()
	if got := allowed.Load(); got != limit {
		t.Fatalf("%d of %d passed, want %d", got, callers, limit)
	}
}

// testClockWasAhead has the clock go back for good: limits hold, and do not hold for ever.
func testClockWasAhead(t *testing.T, f *fixture) {
	f.clock.Move(365 * 24 * time.Hour)
	f.mustAllow("a", 5, perMinute(5))
	f.settle("a", 5)
	f.clock.Move(-365 * 24 * time.Hour)
	f.mustDeny("b", 1, perMinute(5))
	f.settle("c", 1)
}
