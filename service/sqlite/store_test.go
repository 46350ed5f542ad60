package sqlite_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

func open(t *testing.T, opts sqlite.Options) *sqlite.Store {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	opts.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	opts.HoldTime = ledgertest.HoldTime
	store, err := sqlite.Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestLedger(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T, now func() time.Time) service.Ledger {
		return open(t, sqlite.Options{Now: now})
	})
}

func TestOutbox(t *testing.T) {
	ledgertest.RunOutbox(t, func(t *testing.T, now func() time.Time) ledgertest.OutboxLedger {
		return open(t, sqlite.Options{Now: now})
	})
}

// TestLedgerFolding runs the suite with every batch folded at once, so that most lookups go to the tables.
func TestLedgerFolding(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T, now func() time.Time) service.Ledger {
		return open(t, sqlite.Options{Now: now, FoldAfter: 1, MaxUnfolded: 1})
	})
}

// Queries that never end, as many as there are connections and more, leave decisions alone.
func TestQueriesLeaveDecisionsAlone(t *testing.T) {
	s := open(t, sqlite.Options{FoldAfter: 1})
	defer s.Close()
	settle := func(id string) {
		t.Helper()
		if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /" + id, ID: id, Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	settle("1")
	settle("other") // of two rows, the first is told while the query goes on
	stop := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var queries sync.WaitGroup
	reading := make(chan struct{}, 100)
	for range 12 {
		queries.Go(func() {
			// The last ones get no connection, and end with ctx.
			_ = s.Usage(ctx, service.UsageQuery{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour), Bucket: service.WindowHour}, func(service.Usage) error {
				reading <- struct{}{}
				<-stop
				return errors.New("stop")
			})
		})
	}
	for range 6 {
		<-reading
	}
	settle("2")
	settle("1") // which is looked for in the tables
	cancel()
	close(stop)
	queries.Wait()
}
