package core_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// denyReports denies everything on /reports, and blocks /legacy.
func denyReports(s *sockettest.Server) {
	limitReports(s)
	s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/legacy"})
	s.Limit("GET /reports", 0)
}

// OnDeny writes the answer; where it writes nothing, or panics, the flow does.
func TestOnDeny(t *testing.T) {
	for name, tc := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request, *core.Denial)
		status int
		body   string
	}{
		"its own answer": {func(w http.ResponseWriter, r *http.Request, d *core.Denial) {
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(http.StatusTeapot)
			_, _ = fmt.Fprintf(w, "%s %s %d %s", r.URL.Path, d.Code, d.Status, w.Header().Get("RateLimit-Policy"))
		}, 418, `/reports rate_limit_exceeded 429 "default";q=0;w=60`},
		"a body only": {func(w http.ResponseWriter, _ *http.Request, _ *core.Denial) { _, _ = io.WriteString(w, "no") }, 200, "no"},
		"the flow's own answer": {func(w http.ResponseWriter, r *http.Request, d *core.Denial) {
			w.Header().Set("X-Seen", d.Code)
			d.ServeHTTP(w, r)
		}, 429, `{"error":"rate_limit_exceeded"`},
		"changed, and left alone": {func(_ http.ResponseWriter, _ *http.Request, d *core.Denial) { d.Status, d.Code = 402, "other" }, 429, `{"error":"rate_limit_exceeded"`},
		"nothing":                 {func(http.ResponseWriter, *http.Request, *core.Denial) {}, 429, `{"error":"rate_limit_exceeded"`},
		"a panic":                 {func(http.ResponseWriter, *http.Request, *core.Denial) { panic("boom") }, 429, `{"error":"rate_limit_exceeded"`},
		"another status, as usual": {func(w http.ResponseWriter, r *http.Request, d *core.Denial) {
			own := *d
			own.Status, own.Message = http.StatusPaymentRequired, "Buy more."
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(own.Status)
			_, _ = w.Write(own.Body())
		}, 402, `{"error":"rate_limit_exceeded","message":"Buy more."}`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, denyReports, func(c *core.Config) { c.OnDeny = tc.answer })
			w := h.do(h.route("/reports", func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") }), get("/reports"))
			if w.Code != tc.status || !strings.HasPrefix(w.Body.String(), tc.body) || (tc.body == "" && w.Body.Len() > 0) {
				t.Errorf("got %d %s", w.Code, w.Body)
			}
			if !retryAfter(w, 50, 66) {
				t.Errorf("header %v", w.Header())
			}
			if strings.Contains(name, "panic") != (h.logs.Count("OnDeny") == 1) {
				t.Errorf("log:\n%s", h.logs)
			}
			if w := h.do(h.route("/legacy", ok), get("/legacy")); tc.status == 429 && w.Code != 403 {
				t.Errorf("blocked: got %d", w.Code)
			}
		})
	}
}

// Where OnDeny panics in the middle of its answer, the client must not take that for a whole one; nor has a panic before it any trace.
func TestOnDenyPanics(t *testing.T) {
	h := newHarness(t, denyReports, func(c *core.Config) {
		c.OnDeny = func(w http.ResponseWriter, r *http.Request, _ *core.Denial) {
			w.Header().Set("Content-Length", "5")
			if r.URL.Path == "/legacy" {
				panic("early")
			}
			_, _ = io.WriteString(w, "ab")
			panic("late")
		}
	})
	ts := h.listen(h.route("/reports", ok))
	if resp, err := ts.Client().Get(ts.URL + "/reports"); err == nil {
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err == nil {
			t.Errorf("got %q as a whole answer", body)
		}
	}
	blocked := h.listen(h.route("/legacy", ok))
	resp, err := blocked.Client().Get(blocked.URL + "/legacy")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != 403 || !strings.HasPrefix(string(body), `{"error":"endpoint_blocked"`) || err != nil {
		t.Errorf("got %d %s, %v", resp.StatusCode, body, err)
	}
	if h.logs.Count("function=OnDeny") != 2 {
		t.Errorf("log:\n%s", h.logs)
	}
}

// OnDeny gets refusals that are an outage's too.
func TestOnDenyFailClosed(t *testing.T) {
	h := newHarness(t, limitReports, func(c *core.Config) {
		c.FailClosed = true
		c.OnDeny = func(w http.ResponseWriter, _ *http.Request, d *core.Denial) {
			w.WriteHeader(599)
			_, _ = io.WriteString(w, d.Code)
		}
	})
	h.srv.Stop()
	if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != 599 || w.Body.String() != core.CodeUnavailable {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// The fields that tell of the limit have the form that was chosen.
func TestRateLimitHeaders(t *testing.T) {
	fields := []string{"RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
	for form, want := range map[core.RateLimitHeaders]string{
		core.RateLimitIETF: `"p";r=2;t=12 "p";q=5;w=60`,
		core.RateLimitX:    `5 2 RESET`,
		core.RateLimitNone: "",
	} {
		synctest.Test(t, func(t *testing.T) {
			h := bubble(t, limitReports, func(c *core.Config) { c.RateLimitHeaders = form })
			reset := time.Now().Add(12 * time.Second)
			h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type != socket.TypeRequestForAllocation {
					return sockettest.Default()
				}
				return sockettest.Deny("no", map[string]any{"limit": 5, "remaining": 2, "resetAt": reset.UnixMilli(), "windowSeconds": 60, "policy": "p"})
			})
			w := h.do(h.route("/reports", ok), get("/reports"))
			var got []string
			for _, f := range fields {
				if v := w.Header().Get(f); v != "" {
					got = append(got, v)
				}
			}
			if g, want := strings.Join(got, " "), strings.ReplaceAll(want, "RESET", strconv.FormatInt(reset.Unix(), 10)); g != want {
				t.Errorf("form %d: got %s, want %s", form, g, want)
			}
			if !retryAfter(w, 12, 13) {
				t.Errorf("form %d: %v", form, w.Header())
			}
		})
	}
}

// Whoever comes back after Retry-After comes after the reset, and not with all the others.
func TestRetryAfterHasJitter(t *testing.T) {
	h := newHarness(t, limitReports)
	h.srv.LimitWindow("GET /reports", 0, 10*time.Minute)
	handler := h.route("/reports", ok)
	seen := make(map[string]bool)
	for range 200 {
		w := h.do(handler, get("/reports"))
		_, after, _ := strings.Cut(w.Header().Get("RateLimit"), ";t=")
		reset, err := strconv.Atoi(after)
		if err != nil || !retryAfter(w, reset, reset+30) {
			t.Fatalf("header %v", w.Header())
		}
		seen[w.Header().Get("Retry-After")] = true
	}
	if len(seen) < 10 {
		t.Errorf("200 callers are told %d different waits", len(seen))
	}
}

// A caller that asks for a problem document gets one.
func TestProblems(t *testing.T) {
	h := newHarness(t, denyReports)
	for accept, want := range map[string]bool{
		"":                                    false,
		"*/*":                                 false,
		"application/json":                    false,
		"application/*":                       false,
		"application/problem+json":            true,
		"Application/Problem+JSON; q=0.5":     true,
		"application/problem+json;q=0":        false,
		"application/problem+json;q=x":        false,
		"text/html, application/problem+json": true,
		"application/json, application/problem+json":               true,
		"application/json, application/problem+json;q=0.5":         false,
		"application/json;q=0.1, application/problem+json;q=0.5":   true,
		"application/problem+json" + strings.Repeat(", a/b", 1000): false,
		";;;, application/problem+json":                            true,
	} {
		for path, status := range map[string]int{"/reports": 429, "/legacy": 403} {
			r := get(path)
			if accept != "" {
				r.Header.Set("Accept", accept)
			}
			w := h.do(h.route(path, ok), r)
			var body struct {
				Type, Title, Detail, Error, Message string
				Status                              int
				Violated                            []string `json:"violated-policies"`
			}
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			contentType := "application/json; charset=utf-8"
			if want {
				contentType = "application/problem+json"
			}
			if w.Code != status || w.Header().Get("Content-Type") != contentType || w.Header().Get("Vary") != "Accept" || body.Error == "" {
				t.Errorf("Accept %q: got %d %v %s", accept, w.Code, w.Header(), w.Body)
			}
			if want && (body.Status != status || body.Title == "" || body.Detail == "" || (status == 429) != strings.HasSuffix(body.Type, "#quota-exceeded") || (status == 429) != (len(body.Violated) == 1)) {
				t.Errorf("got %s", w.Body)
			}
		}
	}
}

// A denial answers a request that nobody has.
func TestDenialWithoutARequest(t *testing.T) {
	w := httptest.NewRecorder()
	(&core.Denial{Status: 429, Code: "c", Message: "m"}).ServeHTTP(w, nil)
	if w.Code != 429 || w.Body.String() != `{"error":"c","message":"m"}` {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// In shadow mode everything passes; what would have been refused is counted, told and metered.
func TestShadow(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(limited(policy("GET", "/reports", "headers", "X-User")))
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/legacy"}, sockettest.Endpoint{Method: "GET", URL: "/users", Identity: "evil"})
		s.Limit("GET /reports acme", 2)
	}, func(c *core.Config) {
		c.Shadow, c.FailClosed = true, true
		c.OnDeny = func(http.ResponseWriter, *http.Request, *core.Denial) { t.Error("something was denied") }
	})
	request := func(path, user string) {
		t.Helper()
		if w := h.do(h.route(path, ok), get(path, "X-User", user)); w.Code != 200 || w.Body.String() != "ok" {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	for range 5 {
		request("/reports", "acme")
	}
	request("/legacy", "acme")
	request("/users", "evil")
	s := h.settled(7)
	if s.Shadowed != 4 || s.Denied+s.Blocked+s.FailedClosed != 0 || h.count(core.EventShadowed) != 4 || h.count(core.EventDenied)+h.count(core.EventBlocked) != 0 {
		t.Errorf("stats %+v", s)
	}
	if n := h.logs.Count("in shadow mode"); n < 1 || n > 4 {
		t.Errorf("log:\n%s", h.logs)
	}
	h.uses(7)
	if n := h.srv.Count(socket.TypeRequestForAllocation); n != 2+1+1+1 {
		t.Errorf("%d reservations: those that the memory of a denial answers are not sent", n)
	}
	h.srv.Stop()
	request("/reports", "bob") // FailClosed
	if s := h.flow.Stats(); s.Shadowed != 5 || s.FailedClosed != 0 || s.FailedOpen != 1 {
		t.Errorf("stats %+v", s)
	}
}

// A job that is blocked or over its limit runs in shadow mode.
func TestShadowJobs(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(limited(policy("JOB", "mail", "", "")))
		s.SetBlocked(sockettest.Endpoint{Method: "JOB", URL: "thumbs"})
		s.Limit("JOB mail", 0)
	}, func(c *core.Config) { c.Shadow = true })
	for _, name := range []string{"mail", "thumbs"} {
		if err := h.flow.Do(t.Context(), core.Job{Name: name}, nop); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := h.settled(2); s.Shadowed != 2 {
		t.Errorf("stats %+v", s)
	}
}

// What an adapter learns too late is counted where it matters.
func TestMissed(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetConfig(sockettest.Config{WhitelistEndpoints: []sockettest.Endpoint{{Method: "GET", URL: "/health"}}})
	})
	for _, route := range []string{"/x", "/x", "/health", ""} {
		h.flow.ReportMissed("GET", route)
	}
	if s := h.flow.Stats(); s.Missed != 2 || s.Admitted != 0 || h.logs.Count("served behind its back") != 1 {
		t.Errorf("stats %+v, log:\n%s", s, h.logs)
	}
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	h.flow.ReportMissed("GET", "/x")
	if s := h.flow.Stats(); s.Missed != 2 {
		t.Errorf("stats %+v", s)
	}
}

// The rest of the path is an identity under one name, whatever the router calls it.
func TestIdentityInTheRestOfThePath(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(policy("GET", "/files/*", "path_params", "*")) })
	for route, value := range map[string]string{"/files/*path": "/a/b", "/files/*": "a/b", "/files/{path...}": "a/b"} {
		params := map[string]string{"path": value, "*": value}
		call, _ := h.flow.Begin(t.Context(), &core.Request{Request: get("/files/a/b"), Route: route, Param: func(name string) string { return params[name] }})
		if call.Alias() != "GET /files/* a/b" {
			t.Errorf("%s: %s", route, call.Alias())
		}
		call.End(200)
	}
	h.settled(3)
}

func TestBadForms(t *testing.T) {
	for _, change := range []func(*core.Config){
		func(c *core.Config) { c.CutOff = 3 }, func(c *core.Config) { c.CutOff = -1 },
		func(c *core.Config) { c.RateLimitHeaders = 3 }, func(c *core.Config) { c.RateLimitHeaders = -1 },
	} {
		cfg := core.Config{APIKey: "key"}
		change(&cfg)
		if _, err := core.New(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
