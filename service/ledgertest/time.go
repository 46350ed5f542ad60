package ledgertest

import (
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func testWindows(t *testing.T, f *fixture) {
	for _, test := range []struct {
		window      service.Window
		last, reset time.Duration // after the clock's first time
		seconds     int64
	}{
		{service.WindowSecond, 999 * time.Millisecond, time.Second, 1},
		{service.WindowMinute, 59 * time.Second, time.Minute, 60},
		{service.WindowHour, 59 * time.Minute, time.Hour, 3600},
		{service.WindowDay, 23 * time.Hour, 24 * time.Hour, 86400},
		{service.WindowMonth, 17 * 24 * time.Hour, 18 * 24 * time.Hour, 31 * 86400},
	} {
		start := f.clock.Now()
		name := "GET /" + test.window.String()
		reserve := func(id string) service.Decision {
			t.Helper()
			d, err := service.Reserve(t.Context(), f.ledger, service.Reservation{
				Application: app, Alias: name, ID: name + id, Amount: unit,
				Limits: []service.Limit{{Amount: unit, Window: test.window}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := service.Settle(t.Context(), f.ledger, service.Settlement{Application: app, Alias: name, ID: name + id, Amount: unit}); d.Allowed && err != nil {
				t.Fatal(err)
			}
			return d
		}
		d := reserve("a")
		if !d.Allowed || !d.ResetAt.Equal(start.Add(test.reset)) || d.WindowSeconds != test.seconds {
			t.Errorf("%v: first %+v, want reset at %v", test.window, d, start.Add(test.reset))
		}
		f.clock.Move(test.last)
		if d, err := service.Reserve(t.Context(), f.ledger, service.Reservation{
			Application: app, Alias: name, ID: name + "b", Amount: unit, Limits: []service.Limit{{Amount: unit, Window: test.window}},
		}); err != nil || d.Allowed {
			t.Errorf("%v: at the window's end %+v, %v", test.window, d, err)
		}
		f.clock.Move(test.reset - test.last)
		if l := f.state(app, name); l.Used != 0 || l.Held != 0 || !l.ResetAt.After(f.clock.Now()) {
			t.Errorf("%v: the next window begins with %+v", test.window, l)
		}
		if d := reserve("c"); !d.Allowed {
			t.Errorf("%v: in the next window %+v", test.window, d)
		}
		f.clock.Move(start.Sub(f.clock.Now()))
	}
}

func testHoldAcrossWindows(t *testing.T, f *fixture) {
	f.clock.Move(59 * time.Second)
	f.mustAllow("a", 5, perMinute(5))
	f.clock.Move(time.Second)
	f.mustAllow("b", 3, perMinute(5))
	f.wantCounts(0, 3)
	f.settle("a", 5) // counts where it was reserved
	f.wantCounts(0, 3)
	f.mustAllow("c", 2, perMinute(5))
	f.mustDeny("d", 1, perMinute(5))
	f.clock.Move(time.Minute)
	f.settle("b", 7) // 4 more than reserved, which nobody has seen yet
	f.wantCounts(4, 0)
	f.mustDeny("d", 2, perMinute(5))
	f.mustAllow("d", 1, perMinute(5))
	f.clock.Move(HoldTime) // c and d expire in windows that are over
	f.mustAllow("e", 5, perMinute(5))
	f.wantCounts(0, 5)
}

func testClockStepsBack(t *testing.T, f *fixture) {
	f.clock.Move(2 * time.Minute)
	f.mustAllow("a", 5, perMinute(5))
	f.clock.Move(-time.Minute)
	f.mustDeny("b", 1, perMinute(5))
	f.clock.Move(time.Minute)
	f.mustDeny("b", 1, perMinute(5))

	day := []service.Limit{{Amount: 5 * unit, Window: service.WindowDay}}
	hold := func(id string) bool {
		t.Helper()
		d, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: app, Alias: "GET /day", ID: id, Amount: 5 * unit, Limits: day})
		if err != nil {
			t.Fatal(err)
		}
		return d.Allowed
	}
	if !hold("h1") {
		t.Fatal("h1 denied")
	}
	f.clock.Move(-time.Hour)
	f.sweep()
	f.clock.Move(time.Hour) // back where it was: no time has passed
	if hold("h2") {
		t.Fatal("a clock that went back and forth ended a hold")
	}
	f.clock.Move(HoldTime)
	if !hold("h2") {
		t.Fatal("the hold did not end")
	}
}
