package core_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// New neither dials nor blocks, and a request waits for the first configuration for at most Timeout; then requests pass
// at once.
func TestSilentEndpoint(t *testing.T) {
	srv := sockettest.New(t)
	srv.SilentHandshake()
	start := time.Now()
	h := joinHarness(t, srv, func(c *core.Config) { c.Timeout = 50 * time.Millisecond })
	if d := time.Since(start); d > 100*time.Millisecond {
		t.Errorf("New took %v", d)
	}
	if w := h.do(h.route("/x", ok), get("/x")); w.Code != 200 {
		t.Errorf("got %d", w.Code)
	}
	if d := time.Since(start); d < 40*time.Millisecond {
		t.Errorf("the first request waited %v", d)
	}
	for !strings.Contains(h.logs.String(), "no configuration yet") { // the first try is over
		if h.do(h.route("/x", ok), get("/x")).Code != 200 {
			t.Fatal("a request did not pass")
		}
	}
	if n := testing.AllocsPerRun(100, func() { h.flow.Applies("GET", "/x") }); n != 0 || h.flow.Applies("GET", "/x") {
		t.Errorf("without a configuration: applies, %v allocations", n)
	}
	if s := h.flow.Stats(); s.Admitted != 0 {
		t.Errorf("stats %+v", s)
	}
}

// Requests that come before the first configuration wait for it.
func TestRequestsWaitForTheFirstConfiguration(t *testing.T) {
	srv := sockettest.New(t)
	limitReports(srv)
	srv.Limit("GET /reports", 0)
	ready := make(chan struct{})
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeGetBlockedEndpoints {
			return sockettest.Default().After(ready)
		}
		return sockettest.Default()
	})
	h := joinHarness(t, srv, func(c *core.Config) { c.Timeout = limit })
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != 429 {
				t.Errorf("got %d", w.Code)
			}
		})
	}
	h.until(func(r *sockettest.Record) bool { return r.Count(socket.TypeGetBlockedEndpoints) == 1 })
	close(ready)
	all.Wait()
}

// Where nothing listens, requests pass as soon as the first round of connecting has failed.
func TestNothingListens(t *testing.T) {
	srv := sockettest.New(t)
	srv.Stop()
	start := time.Now()
	h := joinHarness(t, srv, func(c *core.Config) { c.Timeout, c.FailClosed = limit, true })
	for range 100 {
		if w := h.do(h.route("/x", ok), get("/x")); w.Code != 200 {
			t.Errorf("got %d", w.Code)
		}
	}
	if d := time.Since(start); d > limit {
		t.Errorf("it took %v", d)
	}
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// A service that comes up late is found.
func TestServiceComesUpLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.Stop()
		pool, err := socket.NewManager(socket.ManagerConfig{APIKey: "key", URL: "ws://service/ws", PoolSize: 2, Dial: srv.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		h := joinHarness(t, srv, func(c *core.Config) { c.Transport = pool })
		pass(10 * time.Minute)
		h.do(h.route("/x", ok), get("/x"))
		if err := srv.Start(); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		h.do(h.route("/x", ok), get("/x"))
		synctest.Wait()
		if s := h.flow.Stats(); s.Admitted != 1 || s.Settled != 1 {
			t.Errorf("stats %+v", s)
		}
		if h.logs.Count("no configuration yet") != 1 || h.logs.Count("configuration loaded") != 1 {
			t.Errorf("log:\n%s", h.logs)
		}
	})
}

// A limited request passes without a decision, or gets 503 where the flow is to fail closed.
func TestOutageOfDecisions(t *testing.T) {
	for name, reply := range map[string]sockettest.Reply{"silent": sockettest.Silence(), "dropped": sockettest.Drop(), "reset": sockettest.Reset()} {
		for _, closed := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				h := newHarness(t, limitReports, func(c *core.Config) { c.Timeout, c.FailClosed = 200*time.Millisecond, closed })
				var broken atomic.Bool
				broken.Store(true)
				h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
					if m.Type == socket.TypeRequestForAllocation && broken.Load() {
						if name != "silent" {
							broken.Store(false)
						}
						return reply
					}
					return sockettest.Default()
				})
				w := h.do(h.route("/reports", ok), get("/reports"))
				broken.Store(false)
				u := h.use()
				h.wait("the settlement", func(s core.Stats) bool { return s.Pending == 0 })
				s := h.flow.Stats()
				if id := h.srv.Messages(socket.TypeRequestForAllocation)[0].Allocation().AllocationID; u.AllocationID != id {
					t.Errorf("settled under %q, reserved under %q", u.AllocationID, id)
				}
				if closed {
					if w.Code != 503 || w.Header().Get("Retry-After") == "" || !strings.HasPrefix(w.Body.String(), `{"error":"service_unavailable"`) {
						t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
					}
					if u.Amount != 0 || s.FailedClosed != 1 || s.Admitted != 0 {
						t.Errorf("amount %v, stats %+v", u.Amount, s)
					}
					if err := h.flow.Shutdown(t.Context()); err != nil { // it waits for the void
						t.Error(err)
					}
					return
				}
				if w.Code != 200 || u.Amount != 1 || s.FailedOpen != 1 || s.Settled != 1 {
					t.Errorf("got %d, amount %v, stats %+v", w.Code, u.Amount, s)
				}
				check(t, h.srv)
				if h.count(core.EventOutage) != 1 || h.logs.Count("gives no decisions") != 1 {
					t.Errorf("log:\n%s", h.logs)
				}
				if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != 200 || h.count(core.EventRecovered) != 1 {
					t.Errorf("after the outage: %d, %d", w.Code, h.count(core.EventRecovered))
				}
				h.settled(2)
			})
		}
	}
}

// While nothing is connected, blocks hold, requests pass, and their settlements go out later: each behind its reservation.
func TestOutageDuringTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, func(s *sockettest.Server) {
			limitReports(s)
			s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/blocked"})
		})
		h.srv.Stop()
		synctest.Wait()
		before := time.Now()
		for range 20 {
			if w := h.do(h.route("/x", ok), get("/x")); w.Code != 200 {
				t.Errorf("got %d", w.Code)
			}
			if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != 200 {
				t.Errorf("limited: got %d", w.Code)
			}
			if w := h.do(h.route("/blocked", ok), get("/blocked")); w.Code != 403 {
				t.Errorf("blocked: got %d", w.Code)
			}
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("the outage cost %v", d)
		}
		pass(10 * time.Minute)
		if s := h.flow.Stats(); s.Pending != 40 {
			t.Errorf("stats %+v", s)
		}
		if err := h.srv.Start(); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		if s := h.flow.Stats(); s.Settled != 40 || s.Pending != 0 {
			t.Errorf("stats %+v", s)
		}
		h.uses(40)
		check(t, h.srv)
	})
}

// 2,000 requests at once on a metered route: for each id the service sees the reservation before the use.
func TestReservationBeforeUse(t *testing.T) {
	h := newHarness(t, nil, func(c *core.Config) { c.PoolSize = 10 })
	handler := h.route("/x", ok)
	start := make(chan struct{})
	var all sync.WaitGroup
	for range 2_000 {
		all.Go(func() {
			<-start
			h.do(handler, get("/x"))
		})
	}
	close(start)
	all.Wait()
	h.settled(2_000)
	check(t, h.srv)
	ids := make(map[string]bool)
	for _, u := range h.uses(2_000) {
		ids[u.AllocationID] = true
	}
	if len(ids) != 2_000 || h.srv.Count(socket.TypeRequestForAllocation) != 2_000 {
		t.Errorf("%d ids, %d reservations", len(ids), h.srv.Count(socket.TypeRequestForAllocation))
	}
}

// Traffic, refreshes and lost connections at once, for the race detector: each call is charged once, in order.
func TestTrafficRefreshAndReconnect(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(limited(policy("GET", "/limited", "query", "u")), tracked("n"))
	}, func(c *core.Config) { c.RefreshInterval, c.PoolSize = time.Millisecond, 10 })
	var drops atomic.Int32 // fewer than connections: the backoff of a real clock is long
	var charged sync.Map   // id -> times that the service was told, for the first time
	stop := make(chan struct{})
	var disturbers, all sync.WaitGroup
	disturbers.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				h.srv.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/none", Identity: strings.Repeat("x", i%7)})
				_ = h.flow.Stats()
			}
		}
	})
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeUseAllocation {
			charged.Store(m.Use().AllocationID, true)
			if m.Seq%50 == 0 && drops.Add(1) < 8 {
				return sockettest.Drop()
			}
		}
		return sockettest.Default()
	})
	handlers := []http.Handler{
		h.route("/limited", ok),
		h.route("/x", func(w http.ResponseWriter, r *http.Request) {
			core.FromContext(r.Context()).AddAmount(1)
			_, _ = w.Write([]byte(`{"n":2}`))
		}),
	}
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				h.do(handlers[(i+j)%2], get("/x?u=a"))
			}
		})
	}
	all.Wait()
	close(stop)
	disturbers.Wait()
	h.srv.Handle(nil)
	h.settled(400)
	n := 0
	charged.Range(func(any, any) bool { n++; return true })
	for _, m := range h.srv.Messages(socket.TypeUseAllocation) {
		charged.Store(m.Use().AllocationID, true)
	}
	n = 0
	charged.Range(func(any, any) bool { n++; return true })
	if n != 400 {
		t.Errorf("%d ids were charged", n)
	}
	check(t, h.srv)
}
