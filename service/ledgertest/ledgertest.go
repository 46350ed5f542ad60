// Package ledgertest is the suite that every service.Ledger passes.
//
//	func TestLedger(t *testing.T) {
//		ledgertest.Run(t, func(t *testing.T, now func() time.Time) service.Ledger { … })
//	}
//
// open must return an empty ledger that reads the time from now and holds allocations for HoldTime;
// the suite closes it. Time only moves when the suite moves it.
package ledgertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// HoldTime is how long the ledgers under test hold an allocation.
const HoldTime = 5 * time.Minute

// Open opens an empty ledger.
type Open func(t *testing.T, now func() time.Time) service.Ledger

// Clock is a clock that stands still until it is moved. It is safe for concurrent use.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock returns a clock at the beginning of a day in the middle of a month.
func NewClock() *Clock { return &Clock{now: time.Date(2026, 3, 14, 0, 0, 0, 0, time.UTC)} }

// Now returns the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Move moves the clock by d, which may be negative.
func (c *Clock) Move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, *fixture){
		"reserve and settle":                testReserveAndSettle,
		"limit":                             testLimit,
		"denial is not recorded":            testDenialNotRecorded,
		"repeated reservation":              testRepeatedReservation,
		"conflict":                          testConflict,
		"repeated settlement":               testRepeatedSettlement,
		"void":                              testVoid,
		"settle more than reserved":         testSettleMore,
		"settle without reservation":        testSettleUnreserved,
		"expiry":                            testExpiry,
		"settle after expiry":               testSettleAfterExpiry,
		"windows":                           testWindows,
		"hold across windows":               testHoldAcrossWindows,
		"clock steps back":                  testClockStepsBack,
		"no limit":                          testNoLimit,
		"applications are apart":            testApplications,
		"concurrent reservations":           testConcurrent,
		"order":                             testOrder,
		"queries":                           testQueries,
		"closed":                            testClosed,
		"random operations match a model":   testModel,
		"changed limit takes effect":        testChangedLimit,
		"settlement before its reservation": testSettleBeforeReserve,
		"several limits":                    testSeveralLimits,
		"a limit comes back":                testLimitComesBack,
		"burst":                             testBurst,
		"burst beside a window":             testBurstBeside,
		"shared ledger":                     testSharedLedger,
		"own shared ledger":                 testOwnSharedLedger,
		"soft limit":                        testSoftLimit,
		"concurrent in a shared ledger":     testSharedConcurrent,
		"clock was ahead":                   testClockWasAhead,
		"usage":                             testUsage,
		"usage saturates":                   testUsageSaturates,
		"held saturates":                    testHeldSaturates,
		"queries of ledgers":                testLedgerQueries,
		"allocations of a ledger":           testAllocationsOfLedger,
	} {
		t.Run(name, func(t *testing.T) {
			clock := NewClock()
			ledger := open(t, clock.Now)
			t.Cleanup(func() {
				if err := ledger.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			test(t, &fixture{TB: t, clock: clock, ledger: ledger})
		})
	}
}

// fixture is a ledger with a short way to use it: one application, failures end the test.
type fixture struct {
	testing.TB
	clock  *Clock
	ledger service.Ledger
}

const (
	app   = "acme"
	alias = "GET /api/reports ann"
	unit  = service.Micros(1e6)
)

func perMinute(n service.Micros) []service.Limit {
	return []service.Limit{{Amount: n * unit, Window: service.WindowMinute, Policy: "reports"}}
}

func (f *fixture) reserve(id string, amount service.Micros, limits []service.Limit) service.Decision {
	f.Helper()
	d, err := service.Reserve(f.Context(), f.ledger, service.Reservation{Application: app, Alias: alias, ID: id, Amount: amount * unit, Limits: limits})
	if err != nil {
		f.Fatalf("Reserve(%s, %d): %v", id, amount, err)
	}
	return d
}

func (f *fixture) mustAllow(id string, amount service.Micros, limits []service.Limit) service.Decision {
	f.Helper()
	d := f.reserve(id, amount, limits)
	if !d.Allowed {
		f.Fatalf("Reserve(%s, %d) = %+v, want it allowed", id, amount, d)
	}
	return d
}

func (f *fixture) mustDeny(id string, amount service.Micros, limits []service.Limit) service.Decision {
	f.Helper()
	d := f.reserve(id, amount, limits)
	if d.Allowed {
		f.Fatalf("Reserve(%s, %d) = %+v, want it denied", id, amount, d)
	}
	return d
}

func (f *fixture) settle(id string, amount service.Micros) service.Receipt {
	f.Helper()
	r, err := service.Settle(f.Context(), f.ledger, service.Settlement{Application: app, Alias: alias, ID: id, Amount: amount * unit})
	if err != nil {
		f.Fatalf("Settle(%s, %d): %v", id, amount, err)
	}
	return r
}

func (f *fixture) sweep() int {
	f.Helper()
	n, err := f.ledger.Sweep(f.Context())
	if err != nil {
		f.Fatalf("Sweep: %v", err)
	}
	return n
}

// wantCounts checks used and held of alias, in units.
func (f *fixture) wantCounts(used, held service.Micros) {
	f.Helper()
	l := f.state(app, alias)
	if l.Used != used*unit || l.Held != held*unit {
		f.Fatalf("used %v held %v, want %d and %d", l.Used.Units(), l.Held.Units(), used, held)
	}
}

func (f *fixture) state(app, alias string) service.LedgerState {
	f.Helper()
	l, ok, err := f.ledger.Find(f.Context(), app, alias)
	if err != nil || !ok {
		f.Fatalf("Find(%s, %q) = %+v, %v, %v", app, alias, l, ok, err)
	}
	return l
}

func (f *fixture) allocation(id string) service.Allocation {
	f.Helper()
	found, err := f.ledger.Allocations(f.Context(), service.AllocationQuery{Limit: service.MaxQueryLimit})
	if err != nil {
		f.Fatalf("Allocations: %v", err)
	}
	for _, a := range found {
		if a.ID == id {
			return a
		}
	}
	f.Fatalf("no allocation %s among %d", id, len(found))
	return service.Allocation{}
}

func testClosed(t *testing.T, f *fixture) {
	f.mustAllow("a", 1, nil)
	for range 2 {
		if err := f.ledger.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
	}
	_, err := service.Reserve(context.Background(), f.ledger, service.Reservation{Application: app, Alias: alias, ID: "b"})
	if !errors.Is(err, service.ErrLedgerClosed) {
		t.Fatalf("Reserve after Close: %v, want ErrLedgerClosed", err)
	}
	if _, err := f.ledger.Sweep(context.Background()); !errors.Is(err, service.ErrLedgerClosed) {
		t.Fatalf("Sweep after Close: %v, want ErrLedgerClosed", err)
	}
}
