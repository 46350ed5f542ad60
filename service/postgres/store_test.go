//go:build unix

package postgres_test

import (
	"io"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/usageflow/usageflow-go-middleware/internal/pgtest"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/documenttest"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/postgres"
)

func open(t *testing.T, opts postgres.Options) *postgres.Store {
	t.Helper()
	opts.HoldTime = ledgertest.HoldTime
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	s, err := postgres.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLedger(t *testing.T) {
	cluster := pgtest.Start(t)
	ledgertest.Run(t, func(t *testing.T, now func() time.Time) service.Ledger {
		return open(t, postgres.Options{URL: cluster.Database(t), Now: now})
	})
}

func TestOutbox(t *testing.T) {
	cluster := pgtest.Start(t)
	ledgertest.RunOutbox(t, func(t *testing.T, now func() time.Time) ledgertest.OutboxLedger {
		return open(t, postgres.Options{URL: cluster.Database(t), Now: now})
	})
}

func TestDocument(t *testing.T) {
	cluster := pgtest.Start(t)
	documenttest.Run(t, func(t *testing.T) func() documenttest.Store {
		url := cluster.Database(t)
		return func() documenttest.Store { return open(t, postgres.Options{URL: url}) }
	})
}

// Usage of long ago is by the day: nothing of it is lost, and later days stay by the hour.
func TestHoursBecomeDays(t *testing.T) {
	url := pgtest.Start(t).Database(t)
	s := open(t, postgres.Options{URL: url})
	defer s.Close()
	if _, err := service.Settle(t.Context(), s, settlement("a", "GET /x", "1", 1)); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	const day = 24 * 3600 * 1000
	if _, err := conn.Exec(t.Context(), `INSERT INTO usageflow.usage SELECT d * 86400000::bigint + h * 3600000, 1, 10, 1, 2, 3, 1 FROM generate_series(100, 102) AS d, generate_series(0, 23) AS h`); err != nil {
		t.Fatal(err)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), postgres.MergeLockSQL); err != nil { // as another replica that is at it
		t.Fatal(err)
	}
	if err := s.MergeHours(t.Context(), 102*day); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := s.MergeHours(t.Context(), 102*day); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []struct{ day, rows, amount, voided int64 }{{100, 1, 240, 48}, {101, 1, 240, 48}, {102, 24, 240, 48}} {
		var rows, amount, voided int64
		if err := conn.QueryRow(t.Context(), `SELECT count(*), sum(amount), sum(voided) FROM usageflow.usage WHERE at >= $1 AND at < $2`, want.day*day, (want.day+1)*day).Scan(&rows, &amount, &voided); err != nil {
			t.Fatal(err)
		}
		if rows != want.rows || amount != want.amount || voided != want.voided {
			t.Errorf("day %d: %d rows, amount %d, voided %d", want.day, rows, amount, voided)
		}
	}
}

// What is old, over and exported goes, however much it is; what is held or young stays, and so do sums.
func TestRetention(t *testing.T) {
	clock := ledgertest.NewClock()
	s := open(t, postgres.Options{URL: pgtest.Start(t).Database(t), Now: clock.Now})
	defer s.Close()
	const many = 12_000 // more than go at once
	settle := func(from, to int) {
		t.Helper()
		var answers sync.WaitGroup
		for i := from; i < to; i++ {
			answers.Add(1)
			if err := s.SubmitSettle(settlement("a", "GET /x", strconv.Itoa(i), 1), func(_ service.Receipt, err error) {
				if err != nil {
					t.Error(err)
				}
				answers.Done()
			}); err != nil {
				t.Fatal(err)
			}
		}
		answers.Wait()
	}
	retired := func(want int) {
		t.Helper()
		if err := s.Retire(t.Context(), clock.Now().Add(-24*time.Hour).UnixMilli()); err != nil {
			t.Fatal(err)
		}
		if l, _, err := s.Find(t.Context(), "a", "GET /x"); err != nil || l.Total != many+10 {
			t.Errorf("the sum is %v, %v", l.Total, err)
		}
		found, err := s.Allocations(t.Context(), service.AllocationQuery{Application: "a", Alias: "GET /x", Limit: 1000})
		if err != nil || len(found) != want {
			t.Errorf("%d are kept, want %d, %v", len(found), want, err)
		}
	}
	settle(0, many)
	clock.Move(48 * time.Hour)
	settle(many, many+10)
	retired(10)
	clock.Move(48 * time.Hour)
	retired(0)
}
