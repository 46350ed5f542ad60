package sqlite_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// What is older than the retention goes, a bit at a time, but not before exports have it; sums stay, and the file does not
// grow for ever.
func TestRetention(t *testing.T) {
	clock := ledgertest.NewClock()
	dir := t.TempDir()
	s := open(t, sqlite.Options{Dir: dir, Now: clock.Now, Retention: 48 * time.Hour, FoldAfter: 1})
	start := clock.Now()
	day := func(n, requests int) {
		t.Helper()
		for i := range requests {
			id := fmt.Sprint(n, "-", i)
			r := service.Reservation{Application: "a", Alias: "GET /x", ID: id, Amount: 1e6, Metadata: service.Metadata{RawURL: "/x/with/a/long/path"}}
			if err := s.SubmitReserve(r, func(service.Decision, error) {}); err != nil {
				t.Fatal(err)
			}
			if i == requests-1 {
				if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: id, Amount: 1e6}); err != nil {
					t.Fatal(err)
				}
			} else if err := s.SubmitSettle(service.Settlement{Application: "a", Alias: "GET /x", ID: id, Amount: 1e6}, func(service.Receipt, error) {}); err != nil {
				t.Fatal(err)
			}
		}
		clock.Move(24 * time.Hour)
	}
	kept := func() int {
		t.Helper()
		found, err := s.Allocations(t.Context(), service.AllocationQuery{Application: "a", Alias: "GET /x", Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	total := func() (requests uint64) {
		t.Helper()
		err := s.Usage(t.Context(), service.UsageQuery{From: start, To: clock.Now().Add(time.Second), Bucket: service.WindowDay}, func(u service.Usage) error {
			requests += u.Requests
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return requests
	}
	if err := s.SetExports(t.Context(), []string{"slow"}); err != nil {
		t.Fatal(err)
	}
	for n := range 5 {
		day(n, 100)
	}
	if got := kept(); got != 500 || total() != 500 {
		t.Errorf("%d kept of %d that an export has not seen", got, total())
	}
	if err := s.SetExports(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	day(5, 100)
	day(6, 100)
	// The walk from the newest back ends where allocations have gone.
	if got := kept(); got > 300 || got < 200 || total() != 700 {
		t.Errorf("%d kept of %d", got, total())
	}
	// An id that has gone is not known any more; one that has not is.
	if r, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: "6-0", Amount: 9e6}); err != nil || !r.Repeated {
		t.Errorf("a recent id: %+v, %v", r, err)
	}
	if r, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: "0-0", Amount: 1e6}); err != nil || r.Repeated || r.Flags != service.FlagUnreserved {
		t.Errorf("an id that has gone: %+v, %v", r, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, sqlite.Options{Dir: dir, Now: clock.Now, Retention: 48 * time.Hour})
	if total() != 701 {
		t.Errorf("%d after a restart", total())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Usage is by the hour for 90 days, then by the day: nothing of it is lost, and the rows get fewer.
func TestHoursBecomeDays(t *testing.T) {
	clock := ledgertest.NewClock()
	s := open(t, sqlite.Options{Now: clock.Now, FoldAfter: 1})
	defer s.Close()
	start := clock.Now().Truncate(24 * time.Hour)
	n := 0
	settle := func() {
		t.Helper()
		n++
		if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: fmt.Sprint("GET /", n%3), ID: fmt.Sprint(n), Amount: 1e6}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(bucket service.Window) (rows int, sum service.Usage) {
		t.Helper()
		err := s.Usage(t.Context(), service.UsageQuery{From: start, To: start.Add(3 * 24 * time.Hour), Bucket: bucket}, func(u service.Usage) error {
			rows++
			sum.Amount += u.Amount
			sum.Requests += u.Requests
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return rows, sum
	}
	for clock.Now().Before(start.Add(50 * time.Hour)) {
		for range 6 {
			settle()
		}
		clock.Move(time.Hour)
	}
	hours, before := read(service.WindowHour)
	days, _ := read(service.WindowDay)
	if hours < 3*24 || days != 9 {
		t.Fatalf("%d rows by the hour, %d by the day", hours, days)
	}
	clock.Move(91 * 24 * time.Hour)
	for range 20 { // each fold does some of it
		settle()
	}
	hours, after := read(service.WindowHour)
	if hours >= 3*24 || after != before {
		t.Errorf("%d rows by the hour are left, sums %+v, before %+v", hours, after, before)
	}
	if again, sum := read(service.WindowDay); again != days || sum != before {
		t.Errorf("%d rows by the day, before %d; sums %+v, before %+v", again, days, sum, before)
	}
	clock.Move(24 * time.Hour * 3)
	for range 20 {
		settle()
	}
	if hours, sum := read(service.WindowHour); hours != days || sum != before {
		t.Errorf("%d rows for %d days of ledgers, sums %+v, before %+v", hours, days, sum, before)
	}
}
