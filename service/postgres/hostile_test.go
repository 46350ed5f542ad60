//go:build unix

package postgres_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usageflow/usageflow-go-middleware/internal/pgtest"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/postgres"
)

// lock holds the lock that decisions need until it is given back, so that what is submitted meanwhile is one batch.
func lock(t *testing.T, url string) (unlock func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err == nil {
		_, err = tx.Exec(t.Context(), `SELECT 1 FROM usageflow.clock FOR UPDATE`)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(tx.Rollback(t.Context()), conn.Close(t.Context())); err != nil {
			t.Error(err)
		}
	}
}

func settlement(app, alias, id string, amount service.Micros) service.Settlement {
	return service.Settlement{Application: app, Alias: alias, ID: id, Amount: amount}
}

// What the database can't store is refused for itself, not for those whose operations are in the same transaction.
func TestOneBadOperation(t *testing.T) {
	cluster := pgtest.Start(t)
	url := cluster.Database(t)
	s := open(t, postgres.Options{URL: url})
	defer s.Close()
	long := make([]byte, 4000)
	for i := range long {
		long[i] = "abcdefghijklmnopqrstuvwxyz0123456789"[rand.IntN(36)]
	}
	unlock := lock(t, url)
	var answers sync.WaitGroup
	submit := func(op service.Settlement, good bool) {
		t.Helper()
		answers.Add(1)
		err := s.SubmitSettle(op, func(r service.Receipt, err error) {
			defer answers.Done()
			if (err == nil) != good {
				t.Errorf("%.40q: %+v, %v", op.Alias, r, err)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	submit(settlement("acme", "GET /first", "first", 1), true)
	for i := range 10 {
		submit(settlement("acme", "GET /good", fmt.Sprint(i), 1), true)
		submit(settlement("acme", "GET /nul\x00", fmt.Sprint("nul", i), 1), false)
		submit(settlement("acme", "GET /nul", fmt.Sprint("nul\x00", i), 1), false)
		submit(settlement("acme", "GET /"+string(long), fmt.Sprint("long", i), 1), true)
	}
	unlock()
	answers.Wait()
}

// Expired holds end before a batch, also when it names one that is young, and however many there are.
func TestExpiredBeforeYoung(t *testing.T) {
	cluster := pgtest.Start(t)
	clock := ledgertest.NewClock()
	s := open(t, postgres.Options{URL: cluster.Database(t), Now: clock.Now})
	defer s.Close()
	limits := []service.Limit{{Amount: 5, Window: service.WindowDay, Policy: "p"}}
	reserve := func(id string) bool {
		t.Helper()
		d, err := service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: "GET /x", ID: id, Amount: 1, Limits: limits})
		if err != nil {
			t.Fatal(err)
		}
		return d.Allowed
	}
	for i := range 4 {
		reserve(fmt.Sprint("old", i))
	}
	clock.Move(ledgertest.HoldTime - time.Second)
	reserve("young")
	clock.Move(time.Second)
	if _, err := service.Settle(t.Context(), s, settlement("a", "GET /x", "young", 1)); err != nil {
		t.Fatal(err)
	}
	if l, _, err := s.Find(t.Context(), "a", "GET /x"); err != nil || l.Held != 0 || l.Used != 1 {
		t.Errorf("%+v, %v", l, err)
	}
}

// What one replica has swept stays out of the way of another with another hold time.
func TestHoldTimeChanges(t *testing.T) {
	cluster := pgtest.Start(t)
	clock, url := ledgertest.NewClock(), cluster.Database(t)
	for i, hold := range []time.Duration{time.Minute, time.Hour, time.Second, time.Minute} {
		s, err := postgres.Open(t.Context(), postgres.Options{URL: url, Now: clock.Now, HoldTime: hold})
		if err != nil {
			t.Fatal(err)
		}
		sweep := func(want int) {
			t.Helper()
			if n, err := s.Sweep(t.Context()); n != want || err != nil {
				t.Errorf("hold time %v: %d expired, %v; want %d", hold, n, err, want)
			}
		}
		for j := range 2 {
			r := service.Reservation{Application: "a", Alias: "GET /x", ID: fmt.Sprint(i, j), Amount: 1}
			if _, err := service.Reserve(t.Context(), s, r); err != nil {
				t.Fatal(err)
			}
			clock.Move(hold - time.Microsecond)
			sweep(0)
			clock.Move(time.Microsecond)
			sweep(1)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestQueriesLeaveDecisionsAlone(t *testing.T) {
	s := open(t, postgres.Options{URL: pgtest.Start(t).Database(t)})
	defer s.Close()
	ledgertest.QueriesLeaveDecisionsAlone(t, s, 8)
}

// A password is in no error.
func TestPasswordStaysSecret(t *testing.T) {
	for _, url := range []string{"postgres://user:hunter2@127.0.0.1:1/x?connect_timeout=1", "postgres://user:hunter2@127.0.0.1:bad/x"} {
		if _, err := postgres.Open(t.Context(), postgres.Options{URL: url}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}
