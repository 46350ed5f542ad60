package sqlite_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// BenchmarkReserve measures durable reservations: each of the callers waits for its answer, which
// comes after the fsync, before it sends the next. Ids are random UUIDs made by the caller.
//
//	go test -run - -bench Reserve -benchtime 5s ./service/sqlite
func BenchmarkReserve(b *testing.B) {
	for _, aliases := range []int{10_000, 1} {
		for _, inFlight := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("aliases=%d/inflight=%d", aliases, inFlight), func(b *testing.B) {
				benchmarkReserve(b, aliases, inFlight)
			})
		}
	}
}

func benchmarkReserve(b *testing.B, aliases, inFlight int) {
	ledger, err := sqlite.Open(sqlite.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	names := make([]string, aliases)
	for i := range names {
		names[i] = "GET /api/users/:id customer-" + strconv.Itoa(i)
	}
	limit := []service.Limit{{Amount: service.MaxAmount, Window: service.WindowDay, Policy: "GET /api/users/:id"}}
	work := make(chan int, inFlight)
	var callers sync.WaitGroup
	for range inFlight {
		callers.Go(func() {
			for i := range work {
				_, err := service.Reserve(context.Background(), ledger, service.Reservation{
					Application: "bench", Alias: names[i%aliases], ID: uuid.NewString(), Amount: 1e6, Limits: limit,
				})
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		work <- i
		i++
	}
	close(work)
	callers.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reservations/s")
	b.ReportMetric(float64(ledger.Counters().Reserved)/float64(max(ledger.Counters().Commits, 1)), "reservations/commit")
	if err := ledger.Close(); err != nil {
		b.Fatal(err)
	}
}
