package core_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// limit bounds every wait of a test that is to succeed.
const limit = 20 * time.Second

// harness is a flow over real sockets to a fake service.
type harness struct {
	t    *testing.T
	srv  *sockettest.Server
	flow *core.Flow
	logs *logtest.Buffer

	mu     sync.Mutex
	moved  chan struct{} // closed at the next event
	events []core.Event
}

// newHarness starts a service, scripts it, and waits until a flow has its configuration.
func newHarness(t *testing.T, script func(*sockettest.Server), change ...func(*core.Config)) *harness {
	t.Helper()
	srv := sockettest.New(t)
	if script != nil {
		script(srv)
	}
	h := joinHarness(t, srv, change...)
	h.wait("the first configuration", func(core.Stats) bool { return h.count(core.EventConfigured) > 0 })
	return h
}

// joinHarness makes a flow for a service, and does not wait for it.
func joinHarness(t *testing.T, srv *sockettest.Server, change ...func(*core.Config)) *harness {
	t.Helper()
	h := &harness{t: t, srv: srv, logs: &logtest.Buffer{}, moved: make(chan struct{})}
	cfg := core.Config{APIKey: "key", PoolSize: 3, Logger: slog.New(slog.NewTextHandler(h.logs, nil)), Observe: h.observe}
	if srv != nil {
		cfg.URL = srv.URL
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if h.flow, err = core.New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = h.flow.Shutdown(ctx) // what is unconfirmed is not this one's matter
	})
	return h
}

func (h *harness) observe(e core.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	close(h.moved)
	h.moved = make(chan struct{})
}

func (h *harness) count(kind core.EventKind) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, e := range h.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// wait waits until cond holds, which it looks at after every event of the flow.
func (h *harness) wait(what string, cond func(core.Stats) bool) {
	h.t.Helper()
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	for {
		h.mu.Lock()
		moved := h.moved
		h.mu.Unlock()
		if cond(h.flow.Stats()) {
			return
		}
		select {
		case <-moved:
		case <-timeout.C:
			h.t.Fatalf("waited in vain for %s; stats %+v; log:\n%s", what, h.flow.Stats(), h.logs)
		}
	}
}

// settled waits until n calls are settled or voided, and none is left.
func (h *harness) settled(n int64) core.Stats {
	h.t.Helper()
	h.wait("settlements", func(s core.Stats) bool { return s.Settled+s.Voided >= n && s.Pending == 0 })
	s := h.flow.Stats()
	if s.Settled+s.Voided != n {
		h.t.Fatalf("stats %+v, want %d settlements", s, n)
	}
	return s
}

// collected collects garbage until that has settled a call.
func (h *harness) collected() {
	h.t.Helper()
	timeout := time.After(limit)
	for h.flow.Stats().Settled == 0 {
		runtime.GC()
		select {
		case <-timeout:
			h.t.Fatal("not settled")
		default:
			runtime.Gosched()
		}
	}
}

// until waits until the service has seen what cond looks for.
func (h *harness) until(cond func(*sockettest.Record) bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	if err := h.srv.WaitFor(ctx, cond); err != nil {
		h.t.Fatalf("%v; stats %+v; log:\n%s", err, h.flow.Stats(), h.logs)
	}
}

// uses waits for n settlements at the service and returns them.
func (h *harness) uses(n int) []socket.UseAllocationRequest {
	h.t.Helper()
	h.until(func(r *sockettest.Record) bool { return r.Count(socket.TypeUseAllocation) >= n })
	var list []socket.UseAllocationRequest
	for _, m := range h.srv.Messages(socket.TypeUseAllocation) {
		list = append(list, m.Use())
	}
	if len(list) != n {
		h.t.Fatalf("%d settlements at the service, want %d", len(list), n)
	}
	return list
}

// use waits for the only settlement.
func (h *harness) use() socket.UseAllocationRequest {
	h.t.Helper()
	return h.uses(1)[0]
}

// route serves a handler behind the flow, as an adapter for net/http does.
func (h *harness) route(pattern string, next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !h.flow.Applies(r.Method, pattern) {
			next(w, r)
			return
		}
		h.flow.Serve(w, &core.Request{Request: r, Route: pattern, Param: r.PathValue, ClientIP: "192.0.2.1"}, next)
	})
}

// listen serves a handler over HTTP.
func (h *harness) listen(handler http.Handler) *httptest.Server {
	h.t.Helper()
	ts := httptest.NewUnstartedServer(handler)
	ts.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	ts.Start()
	h.t.Cleanup(ts.Close)
	return ts
}

// do serves one request without a network.
func (h *harness) do(handler http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

// ok is a handler that answers.
func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

// bubble is a service, a pool and a flow inside a testing/synctest bubble. The flow has its configuration.
func bubble(t *testing.T, script func(*sockettest.Server), change ...func(*core.Config)) *harness {
	t.Helper()
	srv := sockettest.New(t, sockettest.WithInMemory())
	if script != nil {
		script(srv)
	}
	pool, err := socket.NewManager(socket.ManagerConfig{
		APIKey: "key", URL: "ws://service/ws", PoolSize: 2, Dial: srv.Dial, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	h := joinHarness(t, srv, append([]func(*core.Config){func(c *core.Config) { c.Transport, c.APIKey = pool, "" }}, change...)...)
	h.wait("the first configuration", func(core.Stats) bool { return h.count(core.EventConfigured) > 0 })
	return h
}

// pass lets time go by in a bubble, which takes none.
func pass(d time.Duration) { <-time.After(d) }

func policy(method, url, location, name string) sockettest.Policy {
	return sockettest.Policy{Method: method, URL: url, IdentityFieldLocation: location, IdentityFieldName: name}
}

func limited(p sockettest.Policy) sockettest.Policy {
	p.HasRateLimit = true
	return p
}

func tracked(field string) sockettest.Policy {
	return sockettest.Policy{Method: "*", URL: "*", ResponseTrackingField: field, IsResponseTrackingEnabled: true}
}

func get(target string, header ...string) *http.Request {
	return request(http.MethodGet, target, nil, header...)
}

func request(method, target string, body io.Reader, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, body)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}
