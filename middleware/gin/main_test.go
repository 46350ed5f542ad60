package usageflow_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

const limit = 20 * time.Second

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	gin.DefaultErrorWriter, gin.DefaultWriter = io.Discard, io.Discard
	os.Exit(m.Run())
}

// app is a gin application over a fake service.
type app struct {
	t    *testing.T
	srv  *sockettest.Server
	flow *core.Flow
	logs *lockedBuffer
}

// newApp starts a service and a flow, and waits until the flow has its configuration.
func newApp(t *testing.T, script func(*sockettest.Server), change ...func(*core.Config)) *app {
	t.Helper()
	srv := sockettest.New(t)
	if script != nil {
		script(srv)
	}
	a := &app{t: t, srv: srv, logs: &lockedBuffer{}}
	a.flow = a.newFlow(change...)
	return a
}

// newFlow makes another flow for the app's service.
func (a *app) newFlow(change ...func(*core.Config)) *core.Flow {
	a.t.Helper()
	ready := make(chan struct{})
	var once sync.Once
	cfg := core.Config{
		APIKey: "key", URL: a.srv.URL, PoolSize: 3, Logger: slog.New(slog.NewTextHandler(a.logs, nil)),
		Observe: func(e core.Event) {
			if e.Kind == core.EventConfigured {
				once.Do(func() { close(ready) })
			}
		},
	}
	for _, f := range change {
		f(&cfg)
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

// listen serves a handler over HTTP.
func (a *app) listen(handler http.Handler) *httptest.Server {
	a.t.Helper()
	ts := httptest.NewUnstartedServer(handler)
	ts.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	ts.Start()
	a.t.Cleanup(ts.Close)
	return ts
}

// send sends a request and returns the answer with its body.
func (a *app) send(ts *httptest.Server, method, path string, body io.Reader, header ...string) (*http.Response, string) {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), method, ts.URL+path, body)
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := ts.Client().Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return resp, string(text)
}

// uses waits for n settlements, and checks that no more came, and that each came behind its reservation.
func (a *app) uses(n int) []socket.UseAllocationRequest {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), limit)
	defer cancel()
	if err := a.srv.WaitFor(ctx, func(r *sockettest.Record) bool { return r.Count(socket.TypeUseAllocation) >= n }); err != nil {
		a.t.Fatalf("%v; stats %+v; log:\n%s", err, a.flow.Stats(), a.logs)
	}
	var list []socket.UseAllocationRequest
	for _, m := range a.srv.Messages(socket.TypeUseAllocation) {
		list = append(list, m.Use())
	}
	if len(list) != n {
		a.t.Errorf("%d settlements, want %d", len(list), n)
	}
	for _, err := range []error{a.srv.CheckOrder(), a.srv.CheckProtocol()} {
		if err != nil {
			a.t.Error(err)
		}
	}
	return list
}

func policy(method, url, location, name string) sockettest.Policy {
	return sockettest.Policy{Method: method, URL: url, IdentityFieldLocation: location, IdentityFieldName: name}
}

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lockedBuffer) has(text string) bool { return strings.Contains(l.String(), text) }
