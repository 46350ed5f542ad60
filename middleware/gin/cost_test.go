//go:build !race

// The race detector allocates too: what is counted here is what a build without it does.

package usageflow_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// nullService is a transport that approves and confirms everything at once, in no time.
type nullService struct{}

var (
	_ socket.Transport   = nullService{}
	_ wire.LaneTransport = nullService{}
)

func (nullService) Lane(context.Context) (wire.Lane, error)                      { return nullService{}, nil }
func (n nullService) Self() any                                                  { return n }
func (nullService) Busy() bool                                                   { return false }
func (nullService) Alive() bool                                                  { return true }
func (nullService) IsConnected() bool                                            { return true }
func (nullService) Close() error                                                 { return nil }
func (nullService) Notify(context.Context, *socket.UsageFlowSocketMessage) error { return nil }

func (nullService) Call(_ context.Context, m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	payload := map[string]any{}
	if m.Type == socket.TypeGetConfig {
		payload["monitoringPaths"] = []any{map[string]any{"method": "GET", "url": "/metered"}}
		payload["whitelistEndpoints"] = []any{map[string]any{"method": "GET", "url": "/white"}}
	}
	return &socket.UsageFlowSocketResponse{Payload: payload}, nil
}

func (nullService) Post(_, _ string, _ []byte, done wire.Completion) error {
	if done != nil {
		done.Complete(&wire.Reply{}, nil)
	}
	return nil
}

// handlers are the same routes without the flow and with it.
func handlers(tb testing.TB) (bare, with http.Handler) {
	tb.Helper()
	flow, err := core.New(core.Config{Transport: nullService{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = flow.Shutdown(context.Background()) })
	engine := func(middleware ...gin.HandlerFunc) http.Handler {
		r := gin.New()
		r.Use(middleware...)
		for _, path := range []string{"/white", "/free", "/metered"} {
			r.GET(path, func(c *gin.Context) { c.Status(http.StatusNoContent) })
		}
		return r
	}
	bare, with = engine(), engine(usageflow.Middleware(flow))
	with.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/metered", nil)) // waits for the configuration
	return bare, with
}

// A route that is not metered costs no allocation; a metered one at most 10 on its own goroutine, and 3 beside.
func TestAllocations(t *testing.T) {
	bare, with := handlers(t)
	for path, most := range map[string]float64{"/white": 0, "/free": 0, "/nowhere": 0, "/metered": 13} {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = "192.0.2.1:1234"
		w := discard{http.Header{}}
		cost := func(h http.Handler) float64 { return testing.AllocsPerRun(500, func() { h.ServeHTTP(w, r) }) }
		extra := cost(with) - cost(bare)
		t.Logf("%s: %v allocations more than without", path, extra)
		if extra > most {
			t.Errorf("%s: %v allocations more than without, want at most %v", path, extra, most)
		}
	}
}

// BenchmarkGin is what a request costs without the flow and with it; the sender's work is in it where processors are few.
func BenchmarkGin(b *testing.B) {
	bare, with := handlers(b)
	for _, bc := range []struct {
		name, path string
		handler    http.Handler
	}{{"bare", "/free", bare}, {"unmonitored", "/free", with}, {"whitelisted", "/white", with}, {"metered", "/metered", with}} {
		b.Run(bc.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", bc.path, nil)
			w := discard{http.Header{}}
			b.ReportAllocs()
			for b.Loop() {
				bc.handler.ServeHTTP(w, r)
			}
		})
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
