package sqlite_test

import (
	"io"
	"log/slog"
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

func TestQueriesLeaveDecisionsAlone(t *testing.T) {
	s := open(t, sqlite.Options{FoldAfter: 1})
	defer s.Close()
	ledgertest.QueriesLeaveDecisionsAlone(t, s, 6)
}
