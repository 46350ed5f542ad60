//go:build !race

// The race detector allocates too: what is counted here is what a build without it does.

package core_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// nullService is a transport that approves and confirms everything at once, in no time.
type nullService struct{ fake }

var _ wire.LaneTransport = (*nullService)(nil)

func (n *nullService) Self() any { return n }

func (n *nullService) Lane(context.Context) (wire.Lane, error) { return nullLane{}, nil }

func (n *nullService) Call(_ context.Context, m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	payload := map[string]any{}
	if m.Type == socket.TypeGetConfig {
		payload["whitelistEndpoints"] = []any{map[string]any{"method": "GET", "url": "/free"}}
	}
	return &socket.UsageFlowSocketResponse{Payload: payload}, nil
}

type nullLane struct{}

func (nullLane) Alive() bool { return true }
func (nullLane) Busy() bool  { return false }

func (nullLane) Post(_, _ string, _ []byte, done wire.Completion) error {
	if done != nil {
		done.Complete(&wire.Reply{}, nil)
	}
	return nil
}

// nullFlow is a flow over a nullService that has its configuration.
func nullFlow(tb testing.TB) *core.Flow {
	tb.Helper()
	flow, err := core.New(core.Config{Transport: &nullService{}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = flow.Shutdown(context.Background()) })
	r := httptest.NewRequest("GET", "/x", nil)
	call, _ := flow.Begin(tb.Context(), &core.Request{Request: r, Route: "/x"}) // waits
	call.End(200)
	return flow
}

// What a request allocates, the sender's part of it included: that runs beside.
func TestAllocations(t *testing.T) {
	flow := nullFlow(t)
	r := httptest.NewRequest("GET", "/x", nil)
	for name, tc := range map[string]struct {
		run  func()
		most float64
	}{
		"whitelisted": {func() { flow.Applies("GET", "/free") }, 0},
		"unmatched":   {func() { flow.Applies("GET", "") }, 0},
		"metered":     {func() { meter(flow, r) }, 10},
	} {
		n := testing.AllocsPerRun(500, tc.run)
		t.Logf("%s: %v allocations", name, n)
		if n > tc.most {
			t.Errorf("%s: %v allocations, want at most %v", name, n, tc.most)
		}
	}
}

// meter does what an adapter does for a metered request.
func meter(flow *core.Flow, r *http.Request) {
	call, _ := flow.Begin(r.Context(), &core.Request{Request: r, Route: "/x", Param: r.PathValue})
	w := call.Writer(discard{})
	_, _ = w.Write(nil)
	call.Request(r)
	call.End(w.Status())
}

// BenchmarkRequest is what a request costs beside its handler.
func BenchmarkRequest(b *testing.B) {
	flow := nullFlow(b)
	r := httptest.NewRequest("GET", "/x", nil)
	b.Run("metered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			meter(flow, r)
		}
	})
	b.Run("whitelisted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			flow.Applies("GET", "/free")
		}
	})
}

type discard struct{}

func (discard) Header() http.Header         { return nil }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}
