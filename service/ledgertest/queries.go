package ledgertest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// QueriesLeaveDecisionsAlone has more queries that don't end than the ledger has connections for queries, which are conns,
// and decides meanwhile.
func QueriesLeaveDecisionsAlone(t *testing.T, ledger service.Ledger, conns int) {
	settle := func(id string) {
		t.Helper()
		if _, err := service.Settle(t.Context(), ledger, service.Settlement{Application: app, Alias: "GET /" + id, ID: id, Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	settle("1")
	settle("other") // of two rows, the first is told while the query goes on
	stop, reading := make(chan struct{}), make(chan struct{}, 2*conns)
	ctx, cancel := context.WithCancel(t.Context())
	var queries sync.WaitGroup
	for range 2 * conns {
		queries.Go(func() {
			// The last ones get no connection, and end with ctx.
			_ = ledger.Usage(ctx, service.UsageQuery{From: time.Now().Add(-time.Hour), To: time.Now().Add(time.Hour), Bucket: service.WindowHour}, func(service.Usage) error {
				reading <- struct{}{}
				<-stop
				return errors.New("stop")
			})
		})
	}
	for range conns {
		<-reading
	}
	settle("2")
	settle("1") // which may have to be looked for
	cancel()
	close(stop)
	queries.Wait()
}
