package core_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// plain is a pool for cfg's service that shows nothing but its Transport.
func plain(t *testing.T, cfg *core.Config) socket.Transport {
	t.Helper()
	pool, err := socket.NewManager(socket.ManagerConfig{APIKey: "key", URL: cfg.URL, PoolSize: 2, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	return struct{ socket.Transport }{pool}
}

func contextFor(t *testing.T, name string) (context.Context, context.CancelFunc) {
	if name == "with a deadline" {
		return context.WithTimeout(t.Context(), time.Hour)
	}
	return context.WithCancel(t.Context())
}

// A transport of which the flow knows no more than the interface serves as well, and is not closed.
func TestWrappedTransport(t *testing.T) {
	var given socket.Transport
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(limited(policy("GET", "/limited", "headers", "X-User"))) },
		func(c *core.Config) { given = plain(t, c); c.Transport = given })
	h.srv.Limit("GET /limited", 3)
	var all sync.WaitGroup
	for range 200 {
		all.Go(func() { h.do(h.route("/x", ok), get("/x")) })
		all.Go(func() { h.do(h.route("/limited", ok), get("/limited")) })
	}
	all.Wait()
	if s := h.settled(203); s.Denied != 197 {
		t.Errorf("stats %+v", s)
	}
	check(t, h.srv)
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !given.IsConnected() {
		t.Error("the flow closed a transport that it was given")
	}
}

// fake is a transport of somebody else's.
type fake struct {
	mu    sync.Mutex
	calls []*socket.UsageFlowSocketMessage
	call  func(m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error)
	down  bool
}

func (f *fake) Call(ctx context.Context, m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	f.mu.Lock()
	f.calls = append(f.calls, m)
	f.mu.Unlock()
	if f.call != nil {
		if r, err := f.call(m); r != nil || err != nil {
			return r, err
		}
	}
	return &socket.UsageFlowSocketResponse{Payload: map[string]any{}}, nil
}

func (f *fake) Notify(context.Context, *socket.UsageFlowSocketMessage) error { return nil }
func (f *fake) IsConnected() bool                                            { return !f.down }
func (f *fake) Close() error                                                 { panic("the flow closed a transport that it was given") }

// of returns the messages of a type.
func (f *fake) of(typ string) (list []*socket.UsageFlowSocketMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.calls {
		if m.Type == typ {
			list = append(list, m)
		}
	}
	return list
}

func withFake(t *testing.T, tr *fake, change ...func(*core.Config)) *harness {
	t.Helper()
	h := joinHarness(t, nil, append([]func(*core.Config){func(c *core.Config) { c.Transport, c.APIKey = tr, "" }}, change...)...)
	h.wait("the first configuration", func(core.Stats) bool { return h.count(core.EventConfigured) > 0 })
	return h
}

// A transport that is not ours gets payloads in their documented types, in order.
func TestFakeTransportGetsTypedPayloads(t *testing.T) {
	tr := &fake{}
	h := withFake(t, tr)
	h.do(h.route("/x", ok), get("/x"))
	h.settled(1)
	reserved, used := tr.of(socket.TypeRequestForAllocation), tr.of(socket.TypeUseAllocation)
	if len(reserved) != 1 || len(used) != 1 {
		t.Fatalf("%d reservations, %d settlements", len(reserved), len(used))
	}
	r, ok1 := reserved[0].Payload.(*socket.RequestForAllocation)
	u, ok2 := used[0].Payload.(*socket.UseAllocationRequest)
	if !ok1 || !ok2 || r.AllocationID == "" || r.AllocationID != u.AllocationID || r.Alias != "GET /x" || u.Alias != "GET /x" || r.Amount != 1 || u.Amount != 1 {
		t.Errorf("payloads %+v %+v", reserved[0].Payload, used[0].Payload)
	}
	if reserved[0].ID == used[0].ID || u.Metadata["method"] != "GET" {
		t.Errorf("ids %q %q, metadata %v", reserved[0].ID, used[0].ID, u.Metadata)
	}
}

// A reservation that such a transport loses goes out again before its settlement.
func TestFakeTransportLosesMessages(t *testing.T) {
	tr := &fake{}
	lost := make(map[string]int)
	tr.call = func(m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
		if m.Type != socket.TypeRequestForAllocation && m.Type != socket.TypeUseAllocation {
			return nil, nil
		}
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if lost[m.Type]++; lost[m.Type] < 3 {
			return nil, errors.New("lost")
		}
		return nil, nil
	}
	h := withFake(t, tr)
	h.do(h.route("/x", ok), get("/x"))
	h.settled(1)
	if used := tr.of(socket.TypeUseAllocation); len(used) != 3 || used[0].ID != used[2].ID {
		t.Errorf("%d settlements", len(used))
	}
	if r := tr.of(socket.TypeRequestForAllocation); len(r) != 3 {
		t.Errorf("%d reservations", len(r))
	}
}

// One that answers nothing at all, without an error, is an outage.
func TestFakeTransportGivesNothing(t *testing.T) {
	broken := false
	tr := &brokenTransport{fake: &fake{}, broken: func() bool { return broken }}
	tr.call = func(m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
		if m.Type != socket.TypeGetPolicies {
			return nil, nil
		}
		var payload map[string]any
		err := json.Unmarshal([]byte(`{"policies":[{"method":"GET","url":"/limited","hasRateLimit":true}]}`), &payload)
		return &socket.UsageFlowSocketResponse{Payload: payload}, err
	}
	h := joinHarness(t, nil, func(c *core.Config) { c.Transport = tr })
	h.wait("the first configuration", func(core.Stats) bool { return h.count(core.EventConfigured) > 0 })
	broken = true
	if w := h.do(h.route("/limited", ok), get("/limited")); w.Code != http.StatusOK {
		t.Errorf("got %d", w.Code)
	}
	if s := h.flow.Stats(); s.FailedOpen != 1 {
		t.Errorf("stats %+v", s)
	}
}

// brokenTransport gives neither a reply nor an error to reservations.
type brokenTransport struct {
	*fake
	broken func() bool
}

func (b *brokenTransport) Call(ctx context.Context, m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	if m.Type == socket.TypeRequestForAllocation && b.broken() {
		return nil, nil
	}
	return b.fake.Call(ctx, m)
}

func (b *brokenTransport) Close() error { return nil }

// traced is a pool with a Call of its own; its other methods, those for the flow alone among them, are the pool's.
type traced struct {
	*socket.UsageFlowSocketManager
	mu    sync.Mutex
	types map[string]int
}

func (tr *traced) Call(ctx context.Context, m *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	tr.mu.Lock()
	tr.types[m.Type]++
	tr.mu.Unlock()
	return tr.UsageFlowSocketManager.Call(ctx, m)
}

// Who embeds the pool to see its traffic sees all of it.
func TestEmbeddedPoolIsNotPassedBy(t *testing.T) {
	tr := &traced{types: map[string]int{}}
	h := newHarness(t, nil, func(c *core.Config) {
		pool, err := socket.NewManager(socket.ManagerConfig{APIKey: "key", URL: c.URL, PoolSize: 2, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = pool.Close() })
		tr.UsageFlowSocketManager = pool
		c.Transport = tr
	})
	h.do(h.route("/x", ok), get("/x"))
	h.settled(1)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.types[socket.TypeRequestForAllocation] != 1 || tr.types[socket.TypeUseAllocation] != 1 {
		t.Errorf("it saw %v", tr.types)
	}
}
