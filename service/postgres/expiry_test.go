//go:build unix

package postgres_test

import (
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/pgtest"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/postgres"
)

// What expires between the statement that reads the ledgers and the one that reads the allocations fails no batch.
func TestExpiresBetweenStatements(t *testing.T) {
	cluster := pgtest.Start(t)
	s, err := postgres.Open(t.Context(), postgres.Options{URL: cluster.Database(t), HoldTime: 300 * time.Millisecond, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var failed atomic.Int64
	var first atomic.Pointer[error]
	slots := make(chan struct{}, 64)
	end := time.Now().Add(3 * time.Second)
	n := 0
	for ; time.Now().Before(end); n++ {
		slots <- struct{}{}
		r := service.Reservation{Application: "a", Alias: fmt.Sprint("GET /", n), ID: fmt.Sprint(n), Amount: 1}
		if err := s.SubmitReserve(r, func(_ service.Decision, err error) {
			if err != nil {
				failed.Add(1)
				first.CompareAndSwap(nil, &err)
			}
			<-slots
		}); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(slots) { // all have been answered
		slots <- struct{}{}
	}
	t.Logf("%d reservations, %d failed", n, failed.Load())
	if failed.Load() > 0 {
		t.Errorf("%d of %d reservations failed on a database that works: %v", failed.Load(), n, *first.Load())
	}
}

// An operation whose alias is the name of the ledger that its limits share fails no other in its batch.
func TestAliasOfASharedLedger(t *testing.T) {
	cluster := pgtest.Start(t)
	url := cluster.Database(t)
	s := open(t, postgres.Options{URL: url})
	defer s.Close()
	unlock := lock(t, url)
	answers := make(chan string, 10)
	submit := func(alias, id string, limits []service.Limit) {
		if err := s.SubmitReserve(service.Reservation{Application: "a", Alias: alias, ID: id, Amount: 1, Limits: limits}, func(d service.Decision, err error) {
			answers <- fmt.Sprintf("%s: allowed %v, %v", alias, d.Allowed, err)
		}); err != nil {
			t.Fatal(err)
		}
	}
	submit("GET /first", "0", nil) // what comes behind it is one batch
	submit("GET /good", "1", nil)
	submit("* *", "2", []service.Limit{{Amount: 100e6, Window: service.WindowMonth, Policy: "plan", Ledger: "* *", Soft: true}})
	submit("GET /good", "3", nil)
	unlock()
	for range 4 {
		if got := <-answers; got[len(got)-5:] != "<nil>" {
			t.Error(got)
		}
	}
}

// One allocation that was recorded while the clock was ahead keeps the retention from nothing that comes after it.
func TestRetentionIsNotBlocked(t *testing.T) {
	cluster := pgtest.Start(t)
	clock := ledgertest.NewClock()
	s := open(t, postgres.Options{URL: cluster.Database(t), Now: clock.Now})
	defer s.Close()
	settle := func(id string) {
		t.Helper()
		if _, err := service.Settle(t.Context(), s, settlement("a", "x", id, 1e6)); err != nil {
			t.Fatal(err)
		}
	}
	const years = 50 * 365 * 24 * time.Hour
	clock.Move(years)
	settle("early")
	clock.Move(-years)
	for i := range 50 {
		settle(fmt.Sprint(i))
	}
	clock.Move(40 * 24 * time.Hour)
	if err := s.Retire(t.Context(), clock.Now().Add(-48*time.Hour).UnixMilli()); err != nil {
		t.Fatal(err)
	}
	found, err := s.Allocations(t.Context(), service.AllocationQuery{Limit: 1000})
	if err != nil || len(found) > 1 {
		t.Errorf("%d of 51 allocations are left after 40 days with a retention of 2, %v", len(found), err)
	}
}
