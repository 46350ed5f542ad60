package middlewaretest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// testOptions: the user's own functions see the same of a request on every router, and what is captured is the same.
func testOptions(t *testing.T, adapter Adapter) {
	var seen []string
	a := newApp(t, adapter, nil, func(c *core.Config) {
		c.Identify = func(r *core.Request) (string, bool) {
			seen = append(seen, fmt.Sprintf("%s %s %q %s", r.Method, r.URL.Path, r.Param("id"), r.ClientIP))
			return "id:" + r.Param("id"), r.Param("id") != "none"
		}
		c.Skip = func(r *core.Request) bool { return r.Param("id") == "skip" }
		c.VoidStatus = func(status int) bool { return status >= 500 }
		c.Capture = core.Capture{PathParams: true, Query: true}
	})
	ts := a.serve(Setup{Routes: at("/users/:id", func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "fail") {
			w.WriteHeader(http.StatusBadGateway)
		}
	})})
	for i, want := range []struct {
		path, alias string // "": it is skipped
		amount      float64
		id          string
	}{
		{"/users/7?x=1", "GET /users/:id id:7", 1, "7"}, {"/users/a%2Fb", "GET /users/:id id:a/b", 1, "a/b"}, {"/users/none", "GET /users/:id", 1, "none"},
		{"/users/fail", "GET /users/:id id:fail", 0, "fail"}, {"/users/skip", "", 0, ""},
	} {
		a.get(ts, want.path)
		if want.alias == "" {
			continue
		}
		use := a.use(i + 1)
		params, _ := use.Metadata["pathParams"].(map[string]any)
		query, _ := use.Metadata["queryParams"].(map[string]any)
		if use.Alias != want.alias || use.Amount != want.amount || params["id"] != want.id || (query["x"] == "1") != (i == 0) {
			t.Errorf("%s: settlement %+v, want %+v", want.path, use, want)
		}
	}
	if got := strings.Join(seen, ", "); got != `GET /users/7 "7" 127.0.0.1, GET /users/a/b "a/b" 127.0.0.1, GET /users/none "none" 127.0.0.1, GET /users/fail "fail" 127.0.0.1` {
		t.Errorf("Identify saw %s", got)
	}
	a.Drain(4)
}

// testFailClosed: without a service, limited routes get 503 where that is wanted, and others pass.
func testFailClosed(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, func(s *sockettest.Server) { s.SetPolicies(limited(policy("GET", "/limited", "", ""))) }, func(c *core.Config) { c.FailClosed = true })
	ts := a.serve(Setup{Routes: append(at("/limited", ok), at("/metered", ok)...)})
	a.Service.Stop()
	if got := a.get(ts, "/limited"); got.status != 503 || got.header.Get("Retry-After") != "5" || !strings.HasPrefix(got.body, `{"error":"service_unavailable"`) {
		t.Errorf("got %s", got)
	}
	if got := a.get(ts, "/metered"); got.status != 200 || got.body != "ok" {
		t.Errorf("got %s", got)
	}
}
