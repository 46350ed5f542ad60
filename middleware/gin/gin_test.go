package usageflow_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func ok(c *gin.Context) { c.String(http.StatusOK, "ok") }

// Every kind of route, over HTTP.
func TestRoutes(t *testing.T) {
	limited := policy("GET", "/api/reports", "headers", "X-User")
	limited.HasRateLimit = true
	a := newApp(t, func(s *sockettest.Server) {
		s.SetPolicies(policy("GET", "/api/users/:id", "headers", "X-User"), limited, policy("POST", "/api/orders", "body", "customer"),
			policy("GET", "/tenants/:tenant/*rest", "path_params", "tenant"))
		s.SetConfig(sockettest.Config{
			MonitoringPaths:    []sockettest.Endpoint{{Method: "*", URL: "/api/users/:id"}, {Method: "*", URL: "/api/reports"}, {Method: "*", URL: "/api/orders"}, {Method: "*", URL: "/api/legacy"}, {Method: "GET", URL: "/tenants/{tenant}/*"}},
			WhitelistEndpoints: []sockettest.Endpoint{{Method: "GET", URL: "/health"}},
		})
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/api/legacy"}, sockettest.Endpoint{Method: "GET", URL: "/health"},
			sockettest.Endpoint{Method: "GET", URL: "/api/users/:id", Identity: "evil"})
		s.Limit("GET /api/reports acme", 1)
	})
	r := gin.New()
	r.HandleMethodNotAllowed = true
	r.Use(usageflow.Middleware(a.flow))
	for _, route := range []string{"/api/users/:id", "/api/reports", "/api/legacy", "/health", "/free", "/tenants/:tenant/*rest"} {
		r.GET(route, ok)
		r.HEAD(route, ok)
	}
	r.OPTIONS("/api/users/:id", func(c *gin.Context) { c.Status(http.StatusNoContent) })
	r.POST("/api/orders", func(c *gin.Context) {
		body, err := io.ReadAll(c.Request.Body)
		c.String(http.StatusCreated, "%s %v", body, err)
	})
	ts := a.listen(r)
	metered := 0
	for _, tc := range []struct {
		method, path, user string
		status             int
		alias              string // "": not metered
	}{
		{"GET", "/api/users/7", "acme", 200, "GET /api/users/:id acme"},
		{"GET", "/api/users/8", "", 200, "GET /api/users/:id"},
		{"HEAD", "/api/users/7", "acme", 200, "HEAD /api/users/:id acme"},
		{"OPTIONS", "/api/users/7", "acme", 204, "OPTIONS /api/users/:id"},
		{"GET", "/api/users/7", "evil", 403, ""},
		{"HEAD", "/api/users/7", "evil", 403, ""},
		{"GET", "/api/reports", "acme", 200, "GET /api/reports acme"},
		{"GET", "/api/reports", "acme", 429, ""},
		{"GET", "/api/reports", "bob", 200, "GET /api/reports bob"},
		{"HEAD", "/api/reports", "acme", 200, "HEAD /api/reports acme"}, // a ledger of its own
		{"POST", "/api/orders", "", 201, "POST /api/orders acme"},
		{"GET", "/tenants/t1/a/b", "", 200, "GET /tenants/:tenant/* t1"},
		{"GET", "/api/legacy", "acme", 403, ""},
		{"HEAD", "/api/legacy", "", 403, ""},
		{"GET", "/health", "", 200, ""}, // the whitelist wins over the block
		{"HEAD", "/health", "", 200, ""},
		{"GET", "/free", "", 200, ""},
		{"GET", "/nowhere", "acme", 404, ""},
		{"OPTIONS", "/api/reports", "acme", 405, ""},
		{"PUT", "/api/users/7", "acme", 405, ""},
		{"BREW", "/api/users/7", "acme", 405, ""},
	} {
		var body io.Reader
		if tc.method == "POST" {
			body = strings.NewReader(`{"customer":"acme"}`)
		}
		header := []string{"Content-Type", "text/plain"}
		if tc.user != "" {
			header = append(header, "X-User", tc.user)
		}
		resp, text := a.send(ts, tc.method, tc.path, body, header...)
		if resp.StatusCode != tc.status {
			t.Errorf("%s %s: got %d, want %d", tc.method, tc.path, resp.StatusCode, tc.status)
		}
		switch want := map[int]string{403: `{"error":"endpoint_blocked","message":`, 429: `{"error":"rate_limit_exceeded","message":`, 201: `{"customer":"acme"} <nil>`}[tc.status]; {
		case tc.method == "HEAD":
		case !strings.HasPrefix(text, want):
			t.Errorf("%s %s: got %s", tc.method, tc.path, text)
		}
		if tc.status == 429 && (resp.Header.Get("Retry-After") == "" || resp.Header.Get("RateLimit-Policy") != `"default";q=1;w=60` || !strings.HasPrefix(resp.Header.Get("RateLimit"), `"default";r=0;t=`)) {
			t.Errorf("headers %v", resp.Header)
		}
		if tc.alias == "" {
			continue
		}
		metered++
		uses := a.uses(metered)
		if got := uses[metered-1]; got.Alias != tc.alias || got.Metadata["rawUrl"] != tc.path || got.Metadata["responseStatusCode"] != float64(tc.status) || got.Metadata["clientIP"] != "127.0.0.1" {
			t.Errorf("%s %s: settlement %+v, want alias %q", tc.method, tc.path, got, tc.alias)
		}
	}
	if s := a.flow.Stats(); s.Admitted != int64(metered) || s.Blocked != 4 || s.Denied != 1 {
		t.Errorf("stats %+v", s)
	}
}

// Installed on the engine and on a group, and by two flows, it meters once.
func TestInstalledTwice(t *testing.T) {
	a := newApp(t, nil)
	other := a.newFlow()
	r := gin.New()
	r.Use(usageflow.Middleware(a.flow), usageflow.Middleware(a.flow))
	g := r.Group("/api", usageflow.Middleware(a.flow), usageflow.Middleware(other))
	g.GET("/x", func(c *gin.Context) { core.FromContext(c.Request.Context()).SetAmount(5); ok(c) }, usageflow.Middleware(other))
	a.send(a.listen(r), "GET", "/api/x", nil)
	if u := a.uses(1); u[0].Amount != 5 {
		t.Errorf("amount %v", u[0].Amount)
	}
	for _, f := range []*core.Flow{a.flow, other} {
		if err := f.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if n := other.Stats().Admitted + a.flow.Stats().Admitted; n != 1 || a.srv.Count(socket.TypeRequestForAllocation) != 1 {
		t.Errorf("%d calls", n)
	}
}

// Where the key can't be used, an error is logged and requests pass.
func TestGinWithoutKey(t *testing.T) {
	logs := &lockedBuffer{}
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(logs, nil)))
	defer slog.SetDefault(old)
	r := gin.New()
	r.Use(usageflow.Gin(""), usageflow.Middleware(nil))
	r.GET("/x", ok)
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
	if w.Code != 200 || w.Body.String() != "ok" || !logs.has("level=ERROR") {
		t.Errorf("got %d %s, log %s", w.Code, w.Body, logs)
	}
}

// Where the service can't be reached, Gin returns at once and requests pass.
func TestGinPassesWithoutService(t *testing.T) {
	t.Setenv(socket.EnvURL, "ws://127.0.0.1:1/ws") // nothing listens there
	old := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(old)
	r := gin.New()
	r.Use(usageflow.Gin("key"))
	r.GET("/x", ok)
	for range 10 {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
		if w.Code != 200 {
			t.Errorf("got %d", w.Code)
		}
	}
}

// However many paths and methods clients think of, only routes have ledgers.
func TestBoundedNumberOfLedgers(t *testing.T) {
	a := newApp(t, nil)
	r := gin.New()
	r.Use(usageflow.Middleware(a.flow))
	r.Any("/items/:id", ok)
	r.GET("/files/*path", ok)
	r.NoRoute(func(c *gin.Context) { c.Status(http.StatusNotFound) })
	methods := []string{"GET", "POST", "BREW", "get", "X-1"}
	n := 0
	for i := range 10_000 {
		path := fmt.Sprintf("/%x/%x", rand.Uint32(), i)
		method := methods[i%len(methods)]
		switch i % 20 {
		case 0: // GET
			path = "/items" + path[:5]
			n++
		case 5: // GET
			path = "/files" + path
			n++
		case 7: // BREW
			path = "/items" + path[:5]
		}
		r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, path, nil))
	}
	ledgers := make(map[string]bool)
	for _, u := range a.uses(n) {
		ledgers[u.Alias] = true
	}
	if len(ledgers) != 2 || !ledgers["GET /items/:id"] || !ledgers["GET /files/*"] {
		t.Errorf("ledgers %v", ledgers)
	}
}

// 2,000 requests over HTTP, many at once: all are settled, each behind its reservation.
func TestTraffic(t *testing.T) {
	a := newApp(t, nil)
	r := gin.New()
	r.Use(usageflow.Middleware(a.flow))
	r.GET("/x", ok)
	ts := a.listen(r)
	ts.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			for range 50 {
				if resp, _ := a.send(ts, "GET", "/x", nil); resp.StatusCode != 200 {
					t.Errorf("got %d", resp.StatusCode)
				}
			}
		})
	}
	all.Wait()
	a.uses(2_000)
	if err := a.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
