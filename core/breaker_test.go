package core_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// After three decisions without an answer nobody waits; when the service answers again, decisions come again within a second, though there are no
// requests, and what was let pass is charged once.
func TestBreaker(t *testing.T) {
	for name, closed := range map[string]bool{"open": false, "closed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var silent atomic.Bool
				h := bubble(t, func(s *sockettest.Server) {
					limitReports(s)
					mute(s, &silent)
				}, func(c *core.Config) { c.FailClosed = closed })
				want := http.StatusOK
				if closed {
					want = http.StatusServiceUnavailable
				}
				reports := func() time.Duration {
					start := time.Now()
					if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != want {
						t.Errorf("got %d", w.Code)
					}
					return time.Since(start)
				}
				silent.Store(true)
				for range 3 {
					if d := reports(); d != 2*time.Second {
						t.Errorf("waited %v", d)
					}
				}
				if s := h.flow.Stats(); s.Breaker != core.BreakerOpen {
					t.Errorf("stats %+v", s)
				}
				for range 100 {
					if d := reports(); d != 0 {
						t.Fatalf("waited %v", d)
					}
					pass(time.Second)
				}
				silent.Store(false)
				pass(time.Second)
				synctest.Wait()
				s := h.flow.Stats()
				if s.Breaker != core.BreakerClosed || s.FailedOpen+s.FailedClosed != 103 {
					t.Errorf("stats %+v", s)
				}
				if !closed && (s.Settled != 103 || s.Pending != 0) {
					t.Errorf("stats %+v", s)
				}
				want = http.StatusOK
				reports()
				synctest.Wait()
				if s := h.flow.Stats(); s.FailedOpen+s.FailedClosed != 103 {
					t.Errorf("stats %+v", s)
				}
				for _, line := range []string{"decisions stop waiting", "answers again", "gives no decisions", "gives decisions again"} {
					if n := h.logs.Count(line); n != 1 {
						t.Errorf("%d lines of %q", n, line)
					}
				}
				if h.count(core.EventBreakerOpened) != 1 || h.count(core.EventBreakerClosed) != 1 {
					t.Error("the events are not one each")
				}
			})
		})
	}
}

// A service that answers now and then has answered: two failures in a row open nothing, and without a connection nobody waits anyway.
func TestBreakerStaysClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int32
		h := bubble(t, func(s *sockettest.Server) {
			limitReports(s)
			s.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type == socket.TypeRequestForAllocation {
					if n.Add(1)%3 != 0 {
						return sockettest.Silence()
					}
				}
				return sockettest.Default()
			})
		})
		var release []func()
		for range 30 {
			h.do(h.route("/reports", func(_ http.ResponseWriter, r *http.Request) {
				release = append(release, core.FromContext(r.Context()).Hold()) // so that no settlement is answered either
			}), get("/reports"))
		}
		for _, f := range release {
			f()
		}
		h.srv.DropAll()
		synctest.Wait()
		for range 10 {
			h.do(h.route("/reports", ok), get("/reports"))
		}
		if h.count(core.EventBreakerOpened) != 0 || h.flow.Stats().Breaker.String() != "closed" {
			t.Errorf("log:\n%s", h.logs)
		}
	})
}

// What a policy says goes before Config.FailClosed.
func TestPolicyFailsClosed(t *testing.T) {
	yes, no := true, false
	for _, tc := range []struct {
		policy *bool
		config bool
		want   int
	}{{nil, false, 200}, {nil, true, 503}, {&yes, false, 503}, {&no, true, 200}} {
		h := newHarness(t, func(s *sockettest.Server) {
			p := limited(policy("GET", "/reports", "headers", "X-User"))
			p.FailClosed = tc.policy
			s.SetPolicies(p, limited(policy("GET", "/reports", "headers", "X-Other")))
			s.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type == socket.TypeRequestForAllocation {
					return sockettest.Drop()
				}
				return sockettest.Default()
			})
		}, func(c *core.Config) { c.FailClosed = tc.config })
		if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != tc.want {
			t.Errorf("%+v: got %d", tc, w.Code)
		}
	}
}
