package middlewaretest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// limit bounds every wait that is to succeed.
const limit = 20 * time.Second

// App is a flow over a fake service: the suite's own, and for an adapter's further tests. Its methods are for the test's goroutine.
type App struct {
	Flow    *core.Flow
	Service *sockettest.Server

	t       *testing.T
	adapter Adapter
	logs    *logtest.Buffer
}

// Start starts a service, which script prepares, and a flow whose configuration change may change. It returns when the flow
// has its policies. Both end with the test.
func Start(t *testing.T, script func(*sockettest.Server), change ...func(*core.Config)) *App {
	t.Helper()
	a := &App{t: t, Service: sockettest.New(t), logs: &logtest.Buffer{}}
	if script != nil {
		script(a.Service)
	}
	a.Flow = a.newFlow(change...)
	return a
}

func newApp(t *testing.T, adapter Adapter, script func(*sockettest.Server), change ...func(*core.Config)) *App {
	t.Helper()
	a := Start(t, script, change...)
	a.adapter = adapter
	return a
}

// newFlow makes another flow for the app's service.
func (a *App) newFlow(change ...func(*core.Config)) *core.Flow {
	a.t.Helper()
	ready := make(chan struct{})
	var once sync.Once
	cfg := core.Config{
		APIKey: "key", URL: a.Service.URL, PoolSize: 2, Logger: slog.New(slog.NewTextHandler(a.logs, nil)),
		Observe: func(e core.Event) {
			if e.Kind == core.EventConfigured {
				once.Do(func() { close(ready) })
			}
		},
	}
	tell := cfg.Observe
	for _, f := range change {
		f(&cfg)
	}
	own := cfg.Observe // tell, unless change has set another
	cfg.Observe = func(e core.Event) {
		tell(e)
		own(e)
	}
	flow, err := core.New(cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = flow.Shutdown(ctx) // what is unconfirmed is not this one's matter
	})
	select {
	case <-ready:
	case <-time.After(limit):
		a.t.Fatal("no configuration came")
	}
	return flow
}

// serve builds a router behind the app's flow, unless s has Flows, be they none, and listens. bare does so without any.
func (a *App) serve(s Setup) *httptest.Server {
	a.t.Helper()
	if s.Flows == nil {
		s.Flows = []*core.Flow{a.Flow}
	}
	return listen(a.t, a.adapter.New(s))
}

func (a *App) bare(s Setup) *httptest.Server {
	a.t.Helper()
	s.Flows = nil
	return listen(a.t, a.adapter.New(s))
}

func listen(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	ts := httptest.NewUnstartedServer(handler)
	ts.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	ts.Start()
	t.Cleanup(ts.Close)
	return ts
}

// at is a route for every method that the suite sends.
func at(pattern string, handler http.HandlerFunc) (routes []Route) {
	for _, method := range []string{"GET", "HEAD", "POST", "PUT"} {
		routes = append(routes, Route{Method: method, Pattern: pattern, Handler: handler})
	}
	return routes
}

// answer is what a client gets.
type answer struct {
	status  int
	header  http.Header // without the date
	trailer http.Header
	body    string
	err     error // from reading the body
}

func (a answer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d, err %v\n", a.status, a.err)
	for _, h := range []http.Header{a.header, a.trailer} {
		for _, name := range slices.Sorted(maps.Keys(h)) {
			fmt.Fprintf(&b, "%s: %q\n", name, h[name])
		}
	}
	return b.String() + a.body
}

// send sends a request, without following redirects, and reads the answer. fields are names and values of header fields.
func (a *App) send(ts *httptest.Server, method, path string, body io.Reader, fields ...string) answer {
	a.t.Helper()
	return a.do(ts, a.request(ts, method, path, body, fields...))
}

func (a *App) get(ts *httptest.Server, path string, fields ...string) answer {
	a.t.Helper()
	return a.send(ts, http.MethodGet, path, nil, fields...)
}

func (a *App) request(ts *httptest.Server, method, path string, body io.Reader, fields ...string) *http.Request {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), method, ts.URL+path, body)
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	return r
}

func (a *App) do(ts *httptest.Server, r *http.Request) answer {
	a.t.Helper()
	resp, err := ts.Client().Transport.RoundTrip(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	resp.Header.Del("Date")
	slices.Sort(resp.Header["Allow"]) // some routers keep their methods in a map
	return answer{resp.StatusCode, resp.Header, resp.Trailer, string(text), err}
}

// Log is what the flow has logged.
func (a *App) Log() string { return a.logs.String() }

// Uses waits for n settlements in all, and checks that no more came, and that each came behind its reservation.
func (a *App) Uses(n int) []socket.UseAllocationRequest {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), limit)
	defer cancel()
	if err := a.Service.WaitFor(ctx, func(r *sockettest.Record) bool { return r.Count(socket.TypeUseAllocation) >= n }); err != nil {
		a.t.Fatalf("%v; stats %+v; log:\n%s", err, a.Flow.Stats(), a.logs)
	}
	var list []socket.UseAllocationRequest
	for _, m := range a.Service.Messages(socket.TypeUseAllocation) {
		list = append(list, m.Use())
	}
	if len(list) != n {
		a.t.Fatalf("%d settlements, want %d: %+v", len(list), n, list)
	}
	for _, err := range []error{a.Service.CheckOrder(), a.Service.CheckProtocol()} {
		if err != nil {
			a.t.Error(err)
		}
	}
	return list
}

// use waits for the nth settlement, which is to be the last.
func (a *App) use(n int) socket.UseAllocationRequest {
	a.t.Helper()
	return a.Uses(n)[n-1]
}

// Drain ends the flow and checks that admitted requests, and no others, were settled or voided.
func (a *App) Drain(admitted int64) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), limit)
	defer cancel()
	if err := a.Flow.Shutdown(ctx); err != nil {
		a.t.Error(err)
	}
	if s := a.Flow.Stats(); s.Admitted != admitted || s.Settled+s.Voided != admitted || s.Missed != 0 {
		a.t.Errorf("stats %+v, want %d settlements; log:\n%s", s, admitted, a.logs)
	}
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

func policy(method, url, location, name string) sockettest.Policy {
	return sockettest.Policy{Method: method, URL: url, IdentityFieldLocation: location, IdentityFieldName: name}
}

func limited(p sockettest.Policy) sockettest.Policy {
	p.HasRateLimit = true
	return p
}

// track makes the service's policies track a field everywhere.
func track(field string) func(*sockettest.Server) {
	return func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "*", URL: "*", ResponseTrackingField: field, IsResponseTrackingEnabled: true})
	}
}
