//go:build unix

package postgres_test

import (
	"io"
	"log/slog"
	"testing"
	"time"

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
