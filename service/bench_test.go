package service_test

import (
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// benchmarkWire measures durable reservations over real WebSockets: 8 connections share what is in
// flight; the client is in the same process and on the same processors.
func benchmarkWire(b *testing.B, inFlight int) {
	config, err := service.ParseConfig("bench.yaml", []byte("applications: [{name: bench, keys: [k], policies: [{method: GET, url: '*', hasRateLimit: true, limit: 1e9, window: day}]}]"))
	if err != nil {
		b.Fatal(err)
	}
	store, err := sqlite.Open(sqlite.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	svc, err := service.New(service.Options{Config: config, Ledger: store})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := svc.Listen("127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- svc.Serve(ln) }()

	conns := min(8, inFlight)
	work := make(chan int, 1024)
	var agents sync.WaitGroup
	for range conns {
		ws, _, err := websocket.DefaultDialer.Dial("ws://"+ln.Addr().String()+"/ws", http.Header{"x-usage-key": {"k"}})
		if err != nil {
			b.Fatal(err)
		}
		slots := make(chan struct{}, inFlight/conns)
		agents.Go(func() { // sends
			for i := range work {
				slots <- struct{}{}
				text := reserveText(strconv.Itoa(i), "GET /api/users/:id customer-"+strconv.Itoa(i%10_000), uuid.NewString(), 1)
				if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
					b.Error(err)
				}
			}
			for range cap(slots) {
				slots <- struct{}{}
			}
			_ = ws.Close()
		})
		go func() { // receives, until the connection is closed
			for {
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
				<-slots
			}
		}()
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		work <- n
		n++
	}
	close(work)
	agents.Wait()
	b.StopTimer()
	c := store.Counters()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reservations/s")
	b.ReportMetric(float64(c.Reserved)/float64(max(c.Commits, 1)), "reservations/commit")
	if err := svc.Shutdown(b.Context()); err != nil {
		b.Error(err)
	}
	if err := <-served; err != nil {
		b.Error(err)
	}
	if err := store.Close(); err != nil {
		b.Error(err)
	}
}
