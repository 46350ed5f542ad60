package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/postgres"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// store is what serve keeps everything in.
type store interface {
	service.Ledger
	service.DocumentStore
	service.Outbox
}

// storeTimeout is how long the database may take to answer at the start.
const storeTimeout = 30 * time.Second

// openStore opens the store that the settings name.
func (o *serveOptions) openStore(ctx context.Context, log *slog.Logger) (store, error) {
	retention := o.retention
	if retention == 0 {
		retention = -1
	}
	if o.store != "" {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		defer cancel()
		s, err := postgres.Open(ctx, postgres.Options{URL: o.store, HoldTime: o.hold, Retention: retention, Logger: log})
		if err != nil {
			return nil, fmt.Errorf("--store %s: %w", redact(o.store), err)
		}
		return s, nil
	}
	s, err := sqlite.Open(sqlite.Options{Dir: o.data, HoldTime: o.hold, Retention: retention, Logger: log})
	if errors.Is(err, sqlite.ErrInUse) {
		return nil, fmt.Errorf("the data folder %s is in use by another process; choose another with --data", o.data)
	}
	if err != nil {
		return nil, fmt.Errorf("--data %s: %w", o.data, err)
	}
	return s, nil
}

// place names the store for people, without a password.
func (o *serveOptions) place() string {
	if o.store != "" {
		return redact(o.store)
	}
	return o.data
}

func redact(store string) string {
	u, err := url.Parse(store)
	if err != nil {
		return "postgres"
	}
	u.RawQuery = "" // it may hold a password too
	return u.Redacted()
}

func isPostgres(store string) bool {
	return strings.HasPrefix(store, "postgres://") || strings.HasPrefix(store, "postgresql://")
}
