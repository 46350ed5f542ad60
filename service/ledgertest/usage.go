package ledgertest

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func testUsage(t *testing.T, f *fixture) {
	start := f.clock.Now()
	reserve := func(app, alias, id string) {
		t.Helper()
		if _, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: app, Alias: alias, ID: id, Amount: unit}); err != nil {
			t.Fatal(err)
		}
	}
	settle := func(app, alias, id string, amount service.Micros) {
		t.Helper()
		if _, err := service.Settle(t.Context(), f.ledger, service.Settlement{Application: app, Alias: alias, ID: id, Amount: amount * unit}); err != nil {
			t.Fatal(err)
		}
	}
	for hour := range 50 {
		for i, alias := range []string{"GET /a ann", "GET /b"} {
			id := fmt.Sprint(hour, "-", i)
			reserve(app, alias, id)
			settle(app, alias, id, 3)
			settle(app, alias, id, 7) // a repeat changes nothing
		}
		f.clock.Move(time.Hour)
	}
	settle("other", "GET /a ann", "unreserved", 5)
	reserve("other", "GET /a ann", "void")
	settle("other", "GET /a ann", "void", 0)
	reserve("other", "GET /a ann", "late")
	f.clock.Move(HoldTime)
	f.sweep()
	f.usage(service.UsageQuery{From: start, To: f.clock.Now(), Bucket: service.WindowHour, Application: "other"},
		service.Usage{At: start.Add(50 * time.Hour), Application: "other", Alias: "GET /a ann", Amount: 5 * unit, Requests: 1, Voided: 1, Expired: 1, Flagged: 1})
	settle("other", "GET /a ann", "late", 2)
	f.usage(service.UsageQuery{From: start, To: f.clock.Now(), Bucket: service.WindowHour, Application: "other"},
		service.Usage{At: start.Add(50 * time.Hour), Application: "other", Alias: "GET /a ann", Amount: 7 * unit, Requests: 2, Voided: 1, Expired: 1, Flagged: 2})
	day := func(n int, alias string, requests uint64) service.Usage {
		return service.Usage{At: start.Add(time.Duration(n) * 24 * time.Hour), Application: app, Alias: alias, Amount: service.Micros(requests) * 3 * unit, Requests: requests}
	}
	f.usage(service.UsageQuery{From: start, To: f.clock.Now(), Bucket: service.WindowDay, Application: app},
		day(0, "GET /a ann", 24), day(0, "GET /b", 24), day(1, "GET /a ann", 24), day(1, "GET /b", 24), day(2, "GET /a ann", 2), day(2, "GET /b", 2))
	f.usage(service.UsageQuery{From: start.Add(25 * time.Hour), To: start.Add(30 * time.Hour), Bucket: service.WindowDay, Alias: "GET /b"}, day(1, "GET /b", 24))
	hour := day(0, "GET /b", 1)
	hour.At = start.Add(3 * time.Hour)
	f.usage(service.UsageQuery{From: start.Add(3*time.Hour + time.Minute), To: start.Add(3*time.Hour + 2*time.Minute), Bucket: service.WindowHour, Alias: "GET /b"}, hour)
	f.usage(service.UsageQuery{From: f.clock.Now().Add(time.Hour), To: f.clock.Now().Add(2 * time.Hour), Bucket: service.WindowHour})

	stop := errors.New("stop")
	rows := 0
	err := f.ledger.Usage(t.Context(), service.UsageQuery{From: start, To: f.clock.Now(), Bucket: service.WindowHour}, func(service.Usage) error {
		rows++
		return stop
	})
	if !errors.Is(err, stop) || rows != 1 {
		t.Errorf("%d rows, %v", rows, err)
	}
}

// usage checks what a query yields.
func (f *fixture) usage(q service.UsageQuery, want ...service.Usage) {
	f.Helper()
	var got []service.Usage
	if err := f.ledger.Usage(f.Context(), q, func(u service.Usage) error { got = append(got, u); return nil }); err != nil {
		f.Fatalf("Usage: %v", err)
	}
	if len(got) != len(want) {
		f.Fatalf("Usage(%+v): %+v, want %+v", q, got, want)
	}
	for i := range got {
		if !got[i].At.Equal(want[i].At) {
			f.Errorf("row %d is at %v, want %v", i, got[i].At, want[i].At)
		}
		if got[i].At = want[i].At; got[i] != want[i] {
			f.Errorf("row %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

func testLedgerQueries(t *testing.T, f *fixture) {
	for i, l := range []struct {
		app, alias string
		used, held service.Micros
	}{
		{app, "GET /c", 1, 2}, {app, "GET /a", 3, 0}, {"other", "GET /b", 2, 1}, {app, "GET /d", 0, 4},
	} {
		reserve := func(id string, amount service.Micros) {
			t.Helper()
			_, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: l.app, Alias: l.alias, ID: id, Amount: amount * unit, Limits: perMinute(5)})
			if err != nil {
				t.Fatal(err)
			}
		}
		reserve("used"+strconv.Itoa(i), l.used)
		if _, err := service.Settle(t.Context(), f.ledger, service.Settlement{Application: l.app, Alias: l.alias, ID: "used" + strconv.Itoa(i), Amount: l.used * unit}); err != nil {
			t.Fatal(err)
		}
		reserve("held"+strconv.Itoa(i), l.held)
		f.clock.Move(time.Millisecond)
	}
	for _, test := range []struct {
		q     service.LedgerQuery
		total int
		want  string
	}{
		{service.LedgerQuery{}, 4, "dbac"},
		{service.LedgerQuery{Sort: service.SortAlias}, 4, "abcd"},
		{service.LedgerQuery{Sort: service.SortUsed}, 4, "abcd"},
		{service.LedgerQuery{Sort: service.SortHeld}, 4, "dcba"},
		{service.LedgerQuery{Sort: service.SortShare}, 4, "dbac"},
		{service.LedgerQuery{Sort: service.SortAlias, Offset: 1, Limit: 2}, 4, "bc"},
		{service.LedgerQuery{Application: app}, 3, "dac"},
		{service.LedgerQuery{Application: app, Contains: "/a"}, 1, "a"},
		{service.LedgerQuery{Contains: "%"}, 0, ""},
		{service.LedgerQuery{Contains: "_"}, 0, ""},
		{service.LedgerQuery{Offset: 9}, 4, ""},
	} {
		page, err := f.ledger.Ledgers(t.Context(), test.q)
		got := ""
		for _, l := range page.Ledgers {
			got += l.Alias[len("GET /"):]
		}
		if err != nil || got != test.want || page.Total != test.total {
			t.Errorf("Ledgers(%+v) = %q of %d, %v, want %q of %d", test.q, got, page.Total, err, test.want, test.total)
		}
	}
	if _, ok, err := f.ledger.Find(t.Context(), app, "GET /b"); ok || err != nil {
		t.Errorf("another application's ledger is found (%v)", err)
	}
}

// testAllocationsOfLedger looks at one ledger among many.
func testAllocationsOfLedger(t *testing.T, f *fixture) {
	for i := range 300 {
		_, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: app, Alias: "GET /" + strconv.Itoa(i%3), ID: strconv.Itoa(i), Amount: unit})
		if err != nil {
			t.Fatal(err)
		}
	}
	for q, want := range map[service.AllocationQuery]struct {
		n     int
		first string
	}{
		{Application: app, Alias: "GET /1", Limit: 1000}: {100, "298"},
		{Application: app, Alias: "GET /2", Limit: 7}:    {7, "299"},
		{Application: "other", Alias: "GET /2"}:          {0, ""},
		{Application: app, Limit: 5}:                     {5, "299"},
		{Application: "other"}:                           {0, ""},
	} {
		found, err := f.ledger.Allocations(t.Context(), q)
		if err != nil || len(found) != want.n || want.n > 0 && found[0].ID != want.first {
			t.Errorf("Allocations(%+v): %d, %v, want %+v", q, len(found), err, want)
		}
		for _, a := range found {
			if q.Alias != "" && a.Alias != q.Alias {
				t.Errorf("Allocations(%+v) has one of %s", q, a.Alias)
			}
		}
	}
}

// testUsageSaturates charges more than a sum can hold: it stays at its largest, and everything goes on.
func testUsageSaturates(t *testing.T, f *fixture) {
	start := f.clock.Now()
	for i := range 12 {
		if i%3 == 0 {
			f.clock.Move(time.Hour)
		}
		f.settle(strconv.Itoa(i), service.MaxAmount/unit)
		if i == 9 { // a store may sum up now
			f.usage(service.UsageQuery{From: start, To: start, Bucket: service.WindowHour})
		}
	}
	f.usage(service.UsageQuery{From: start, To: f.clock.Now().Add(time.Hour), Bucket: service.WindowDay},
		service.Usage{At: start, Application: app, Alias: alias, Amount: math.MaxInt64, Requests: 12, Flagged: 12})
	for i := range 12 {
		f.settle("same hour"+strconv.Itoa(i), service.MaxAmount/unit)
		f.usage(service.UsageQuery{From: start, To: start, Bucket: service.WindowHour})
	}
}

// testHeldSaturates holds more than a ledger can count: that is refused, so that what is held is never less than nothing.
func testHeldSaturates(t *testing.T, f *fixture) {
	held := []string{}
	for i := range 12 {
		id := strconv.Itoa(i)
		_, err := service.Reserve(t.Context(), f.ledger, service.Reservation{Application: app, Alias: alias, ID: id, Amount: service.MaxAmount})
		switch {
		case err == nil:
			held = append(held, id)
		case !errors.Is(err, service.ErrHeldTooMuch):
			t.Fatal(err)
		}
	}
	if len(held) != 9 {
		t.Errorf("%d were held", len(held))
	}
	for _, id := range held {
		f.settle(id, 0)
	}
	f.wantCounts(0, 0)
}
