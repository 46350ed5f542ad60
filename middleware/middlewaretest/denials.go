package middlewaretest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// denyAll denies /reports and blocks /legacy.
func denyAll(s *sockettest.Server) {
	s.SetPolicies(limited(policy("*", "/reports", "headers", "X-User")))
	s.SetBlocked(sockettest.Endpoint{Method: "*", URL: "/legacy"})
	s.Limit("GET /reports", 0)
	s.Limit("HEAD /reports", 0)
}

// denying is a router whose handlers must not run. What stands before the middleware sees the status.
func denying(t *testing.T, seen *[]string) Setup {
	handler := func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") }
	return Setup{
		Routes: append(at("/reports", handler), at("/legacy", handler)...),
		Before: []Middleware{func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Before", "set")
				next.ServeHTTP(w, r)
				*seen = append(*seen, r.URL.Path)
			})
		}},
		Behind: []Middleware{func(http.Handler) http.Handler {
			return http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("middleware behind ran") })
		}},
	}
}

// testDenials reads the answers that a caller over the limit, or to a blocked route, gets: all of their fields.
func testDenials(t *testing.T, adapter Adapter) {
	for form, want := range map[core.RateLimitHeaders]string{
		core.RateLimitIETF: "Content-Length Content-Type Ratelimit Ratelimit-Policy Retry-After Vary X-Before",
		core.RateLimitX:    "Content-Length Content-Type Retry-After Vary X-Before X-Ratelimit-Limit X-Ratelimit-Remaining X-Ratelimit-Reset",
		core.RateLimitNone: "Content-Length Content-Type Retry-After Vary X-Before",
	} {
		a := newApp(t, adapter, denyAll, func(c *core.Config) { c.RateLimitHeaders = form })
		var seen []string
		ts := a.serve(denying(t, &seen))
		denied, blocked, head := a.get(ts, "/reports"), a.get(ts, "/legacy"), a.send(ts, "HEAD", "/reports", nil)
		if denied.status != 429 || blocked.status != 403 || head.status != 429 || head.body != "" || len(seen) != 3 {
			t.Errorf("got %s\n%s\n%s\nseen %q", denied, blocked, head, seen)
		}
		if got := names(denied.header); got != want {
			t.Errorf("form %d: fields %s, want %s", form, got, want)
		}
		if got := names(blocked.header); got != "Content-Length Content-Type Vary X-Before" {
			t.Errorf("blocked: fields %s", got)
		}
		if form == core.RateLimitIETF {
			if policy, limit := denied.header.Get("RateLimit-Policy"), denied.header.Get("RateLimit"); policy != `"default";q=0;w=60` || !strings.HasPrefix(limit, `"default";r=0;t=`) {
				t.Errorf("got %s and %s", policy, limit)
			}
		}
		if wait, err := strconv.Atoi(denied.header.Get("Retry-After")); err != nil || wait < 30 || wait > 66 {
			t.Errorf("Retry-After %v, %v", wait, err)
		}
		a.Drain(0)
	}
}

func names(h http.Header) string {
	list := make([]string, 0, len(h))
	for line := range strings.SplitSeq(answer{header: h}.String(), "\n") {
		if name, _, ok := strings.Cut(line, ": "); ok {
			list = append(list, name)
		}
	}
	return strings.Join(list, " ")
}

// testProblems asks for a problem document.
func testProblems(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, denyAll)
	var seen []string
	ts := a.serve(denying(t, &seen))
	for path, status := range map[string]int{"/reports": 429, "/legacy": 403} {
		got := a.get(ts, path, "Accept", "text/html, application/problem+json;q=0.9")
		var problem struct {
			Type, Title, Detail, Error string
			Status                     int
		}
		if err := json.Unmarshal([]byte(got.body), &problem); err != nil || got.status != status || problem.Status != status || problem.Title == "" || problem.Detail == "" || problem.Error == "" {
			t.Errorf("got %s, %v", got, err)
		}
		if got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("header %v", got.header)
		}
	}
	a.Drain(0)
}

// testOnDeny writes answers of its own.
func testOnDeny(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, denyAll, func(c *core.Config) {
		c.OnDeny = func(w http.ResponseWriter, r *http.Request, d *core.Denial) {
			if r.URL.Path == "/legacy" {
				return // as usual
			}
			w.Header().Set("Content-Type", "text/plain")
			w.Header().Del("RateLimit")
			w.WriteHeader(http.StatusPaymentRequired)
			_, _ = fmt.Fprintf(w, "%s: buy more", d.Code)
		}
	})
	var seen []string
	ts := a.serve(denying(t, &seen))
	if got := a.get(ts, "/reports"); got.status != 402 || got.body != "rate_limit_exceeded: buy more" || got.header.Get("Content-Type") != "text/plain" || got.header.Get("RateLimit") != "" || got.header.Get("Retry-After") == "" {
		t.Errorf("got %s", got)
	}
	if got := a.get(ts, "/legacy"); got.status != 403 || !strings.HasPrefix(got.body, `{"error":"endpoint_blocked"`) {
		t.Errorf("got %s", got)
	}
	a.Drain(0)
}

// testShadow lets pass, and meters, what would be refused.
func testShadow(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, denyAll, func(c *core.Config) { c.Shadow = true })
	ts := a.serve(Setup{Routes: append(at("/reports", ok), at("/legacy", ok)...)})
	for _, path := range []string{"/reports", "/reports", "/legacy"} {
		if got := a.get(ts, path); got.status != 200 || got.body != "ok" || got.header.Get("RateLimit") != "" {
			t.Errorf("%s: got %s", path, got)
		}
	}
	if s := a.Flow.Stats(); s.Shadowed != 3 || s.Denied+s.Blocked != 0 {
		t.Errorf("stats %+v", s)
	}
	a.Drain(3)
}
