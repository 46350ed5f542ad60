package core_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// retryAfter reports whether the answer names a wait within bounds.
func retryAfter(w *httptest.ResponseRecorder, least, most int) bool {
	seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
	return err == nil && seconds >= least && seconds <= most
}

func limitReports(s *sockettest.Server) {
	s.SetPolicies(limited(policy("GET", "/reports", "headers", "X-User")))
}

// 100 at once on a limit of 5: exactly 5 pass.
func TestLimitHoldsUnderConcurrency(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		limitReports(s)
		s.Limit("GET /reports acme", 5)
	})
	ts := h.listen(h.route("/reports", ok))
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 100}}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	got := make(map[int]int)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			r, _ := http.NewRequest("GET", ts.URL, nil)
			r.Header.Set("X-User", "acme")
			resp, err := client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			_ = resp.Body.Close()
			mu.Lock()
			defer mu.Unlock()
			got[resp.StatusCode]++
		})
	}
	all.Wait()
	if got[200] != 5 || got[429] != 95 {
		t.Errorf("got %v", got)
	}
	s := h.settled(5)
	if s.Admitted != 5 || s.Denied != 95 {
		t.Errorf("stats %+v", s)
	}
	check(t, h.srv)
}

// A denial is answered from memory until the window resets; an approval never is.
func TestDenialIsRememberedUntilReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, limitReports, func(c *core.Config) { c.RefreshInterval = time.Hour })
		h.srv.LimitWindow("GET /reports acme", 2, 20*time.Second)
		handler := h.route("/reports", ok)
		status := func(user string) int { return h.do(handler, get("/reports", "X-User", user)).Code }
		for i, want := range []int{200, 200, 429, 429, 429, 429} {
			if got := status("acme"); got != want {
				t.Fatalf("request %d: got %d, want %d", i, got, want)
			}
		}
		if n := h.srv.Count(socket.TypeRequestForAllocation); n != 3 {
			t.Errorf("%d reservations, want 3: two approvals and one denial", n)
		}
		if got := status("bob"); got != 200 {
			t.Errorf("another caller: %d", got)
		}
		pass(19 * time.Second)
		if got := status("acme"); got != 429 || h.srv.Count(socket.TypeRequestForAllocation) != 4 {
			t.Errorf("before the reset: %d", got)
		}
		pass(2 * time.Second)
		if got := status("acme"); got != 200 {
			t.Errorf("after the reset: %d", got)
		}
	})
}

// Where the service names no reset, a denial holds for at most 5 s; a refresh forgets it, for the limit may have been raised.
func TestDenialWithoutReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, limitReports, func(c *core.Config) { c.RefreshInterval = 7 * time.Second })
		h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if m.Type == socket.TypeRequestForAllocation {
				return sockettest.Deny("no", nil)
			}
			return sockettest.Default()
		})
		handler := h.route("/reports", ok)
		asked := func(after time.Duration, want int) {
			t.Helper()
			pass(after)
			w := h.do(handler, get("/reports"))
			if n := h.srv.Count(socket.TypeRequestForAllocation); n != want || w.Code != 429 {
				t.Errorf("%d reservations, want %d; status %d", n, want, w.Code)
			}
		}
		asked(0, 1)
		asked(4900*time.Millisecond, 1)
		asked(200*time.Millisecond, 2) // 5.1 s
		asked(2*time.Second, 3)        // the refresh was at 7 s
	})
}

// What is voided is free again: the denial that it caused is forgotten.
func TestVoidForgetsDenial(t *testing.T) {
	h := newHarness(t, limitReports)
	free := make(chan struct{}) // closed when there is room
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeRequestForAllocation && h.srv.Count(socket.TypeRequestForAllocation) == 2 {
			return sockettest.Deny("no", map[string]any{"resetAt": time.Now().Add(time.Hour).UnixMilli()})
		}
		return sockettest.Default()
	})
	inside := make(chan struct{})
	handler := h.route("/reports", func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Wait") != "" {
			close(inside)
			<-free
			core.FromContext(r.Context()).Void()
		}
	})
	first := make(chan struct{})
	go func() {
		defer close(first)
		h.do(handler, get("/reports", "X-Wait", "1"))
	}()
	<-inside
	if w := h.do(handler, get("/reports")); w.Code != 429 {
		t.Fatalf("got %d", w.Code)
	}
	if w := h.do(handler, get("/reports")); w.Code != 429 || !retryAfter(w, 3600, 3630) {
		t.Fatalf("got %d %v", w.Code, w.Header())
	}
	close(free)
	<-first
	h.settled(1)
	if w := h.do(handler, get("/reports")); w.Code != 200 {
		t.Errorf("after the void: %d", w.Code)
	}
}

// Only an answer of the service is a denial, whatever its words.
func TestDenialsWithAnyText(t *testing.T) {
	for name, reply := range map[string]string{
		"the documented form": `{"type":"error","replyTo":%s,"error":"rate_limit_exceeded","message":"Too many."}`,
		"timeout":             `{"type":"error","replyTo":%s,"error":"timeout","message":"timeout"}`,
		"authorization":       `{"type":"error","replyTo":%s,"error":"authorization failed"}`,
		"not connected":       `{"type":"request_for_allocation","replyTo":%s,"error":"socket: not connected"}`,
		"type error only":     `{"type":"error","replyTo":%s}`,
		"empty texts":         `{"type":"error","replyTo":%s,"error":"","message":""}`,
		"error only":          `{"replyTo":%s,"error":"no"}`,
		"matched by id":       `{"type":"error","id":%s,"error":"context deadline exceeded"}`,
		"with an allocation":  `{"type":"error","replyTo":%s,"payload":{"allocationId":"x"}}`,
		"with a null payload": `{"type":"error","replyTo":%s,"payload":null}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, limitReports)
			h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type != socket.TypeRequestForAllocation {
					return sockettest.Default()
				}
				return sockettest.Raw(fmt.Appendf(nil, reply, strconv.Quote(m.ID)))
			})
			w := h.do(h.route("/reports", func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") }), get("/reports", "X-User", name))
			var body struct{ Error, Message string }
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			if w.Code != 429 || body.Error != "rate_limit_exceeded" || body.Message == "" || w.Header().Get("Content-Type") != "application/json; charset=utf-8" {
				t.Errorf("got %d %s %v", w.Code, w.Body, w.Header())
			}
			if !retryAfter(w, 5, 6) || w.Header().Get("RateLimit") != "" {
				t.Errorf("header %v", w.Header())
			}
			if s := h.flow.Stats(); s.Denied != 1 || s.Admitted != 0 || s.FailedOpen != 0 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// An answer that is no denial admits, whatever it holds.
func TestApprovals(t *testing.T) {
	for name, reply := range map[string]string{
		"no payload":    `{"replyTo":%s}`,
		"null payload":  `{"replyTo":%s,"payload":null,"error":null}`,
		"empty error":   `{"replyTo":%s,"error":"","payload":{"allocationId":""}}`,
		"array payload": `{"replyTo":%s,"payload":[1]}`,
		"words":         `{"type":"denied","replyTo":%s,"message":"rate_limit_exceeded","payload":{"remaining":0}}`,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, limitReports)
			h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type != socket.TypeRequestForAllocation {
					return sockettest.Default()
				}
				return sockettest.Raw(fmt.Appendf(nil, reply, strconv.Quote(m.ID)))
			})
			if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != 200 {
				t.Errorf("got %d", w.Code)
			}
			if id := h.srv.Messages(socket.TypeRequestForAllocation)[0].Allocation().AllocationID; h.use().AllocationID != id {
				t.Errorf("settled under %q, reserved under %q", h.use().AllocationID, id)
			}
		})
	}
}

// A service that makes its own id for an allocation gets it back.
func TestAllocationIDOfTheService(t *testing.T) {
	h := newHarness(t, limitReports)
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeRequestForAllocation {
			return sockettest.OK(map[string]any{"allocationId": `own "id"`})
		}
		return sockettest.Default()
	})
	seen := ""
	h.do(h.route("/reports", func(_ http.ResponseWriter, r *http.Request) { seen = core.FromContext(r.Context()).AllocationID() }), get("/reports"))
	if u := h.use(); u.AllocationID != `own "id"` || seen != u.AllocationID {
		t.Errorf("settled %q, in the handler %q", u.AllocationID, seen)
	}
}

func TestDenialHeaders(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		payload map[string]any
		want    map[string]string
	}{
		"all": {
			map[string]any{"limit": 100, "remaining": 0, "resetAt": now.Add(time.Hour).UnixMilli(), "windowSeconds": 12, "policy": "per user"},
			map[string]string{"RateLimit-Policy": `"per user";q=100;w=12`, "RateLimit": `"per user";r=0;t=12`},
		},
		"no window": {
			map[string]any{"limit": 5, "remaining": 0.5},
			map[string]string{"RateLimit-Policy": `"default";q=5`, "RateLimit": `"default";r=0`},
		},
		"a reset that is over": {
			map[string]any{"limit": 5, "resetAt": now.Add(-time.Hour).UnixMilli(), "windowSeconds": 60},
			map[string]string{"RateLimit-Policy": `"default";q=5;w=60`, "RateLimit": `"default";r=0`},
		},
		"a name that needs care": {
			map[string]any{"limit": 1, "policy": "a\"b\\c\r\nX: é"},
			map[string]string{"RateLimit-Policy": `"a\"b\\c??X: ??";q=1`},
		},
		"no limit":       {map[string]any{"remaining": 3, "policy": "p"}, map[string]string{"RateLimit": "", "RateLimit-Policy": ""}},
		"absurd figures": {map[string]any{"limit": 1e300, "remaining": -1, "resetAt": 1e300, "windowSeconds": -1}, map[string]string{"RateLimit-Policy": `"default";q=999999999999999`}},
		"wrong types":    {map[string]any{"limit": "5", "resetAt": "soon", "windowSeconds": true, "policy": 7}, map[string]string{"RateLimit": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, limitReports)
			h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type == socket.TypeRequestForAllocation {
					return sockettest.Deny("no", tc.payload)
				}
				return sockettest.Default()
			})
			w := h.do(h.route("/reports", ok), get("/reports"))
			if !retryAfter(w, 5, 13) {
				t.Errorf("header %v", w.Header())
			}
			for header, want := range tc.want {
				if got := w.Header().Get(header); got != want {
					t.Errorf("%s: got %s, want %s", header, got, want)
				}
			}
		})
	}
}

// A client that hangs up before the decision does not get its request past the limit.
func TestCancelledRequestIsDecidedAllTheSame(t *testing.T) {
	for name, change := range map[string]func(*core.Config){
		"own pool":         func(*core.Config) {},
		"a given pool":     func(c *core.Config) { c.Transport = plain(t, c) },
		"fail closed":      func(c *core.Config) { c.FailClosed = true },
		"with a deadline":  func(*core.Config) {},
		"already canceled": func(*core.Config) {},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, limitReports, change)
			ctx, cancel := contextFor(t, name)
			h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type != socket.TypeRequestForAllocation {
					return sockettest.Default()
				}
				cancel()
				return sockettest.Deny("no", nil).After(ctx.Done())
			})
			if name == "already canceled" {
				cancel()
			}
			w := h.do(h.route("/reports", func(http.ResponseWriter, *http.Request) { t.Error("the handler ran") }), get("/reports").WithContext(ctx))
			if s := h.flow.Stats(); w.Code != 429 || s.Denied != 1 || s.FailedOpen+s.FailedClosed != 0 {
				t.Errorf("got %d, stats %+v", w.Code, s)
			}
		})
	}
}
