package core_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/diskqueue"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A spool that was full comes back while requests go on, as soon as confirmations have made room.
func TestFullSpoolRecoversUnderTraffic(t *testing.T) {
	var silent atomic.Bool
	silent.Store(true)
	h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(t.TempDir()), func(c *core.Config) { c.MaxSpoolBytes = 1 })
	handler := h.route("/x", ok)
	request := func() bool {
		h.do(handler, get("/x"))
		return true
	}
	h.eventually("the full spool", func(core.Stats) bool { return request() && h.count(core.EventSpoolFailed) > 0 })
	silent.Store(false)
	h.srv.DropAll()
	h.eventually("room", func(core.Stats) bool { return request() && h.count(core.EventSpoolRecovered) > 0 })
}

// Clients that wait for less than Timeout, by a deadline (http.TimeoutHandler) or because they hang up: the breaker has to open all the same.
func TestBreakerWithImpatientClients(t *testing.T) {
	for name, impatient := range map[string]func() (context.Context, context.CancelFunc){
		"deadline": func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), time.Second)
		},
		"hang up": func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(time.Second, cancel)
			return ctx, cancel
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := bubble(t, limitReports)
				h.srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
				handler := h.route("/reports", ok)
				slow := 0
				for range 30 {
					ctx, cancel := impatient()
					start := time.Now()
					h.do(handler, get("/reports").WithContext(ctx))
					if time.Since(start) > 500*time.Millisecond {
						slow++
					}
					cancel()
				}
				if slow > 5 || h.flow.Stats().Breaker != core.BreakerOpen {
					t.Errorf("%d of 30 requests in a row waited; breaker %v", slow, h.flow.Stats().Breaker)
				}
			})
		})
	}
}

// The service answers everything but decisions.
func TestBreakerWithDecisionsAloneSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, limitReports)
		h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if m.Type == socket.TypeRequestForAllocation && m.Allocation().Alias == "GET /reports" {
				return sockettest.Silence()
			}
			return sockettest.Default()
		})
		reports, metered := h.route("/reports", ok), h.route("/m", ok)
		slow := 0
		for range 60 {
			start := time.Now()
			h.do(metered, get("/m"))
			h.do(reports, get("/reports"))
			if time.Since(start) > 500*time.Millisecond {
				slow++
			}
			pass(100 * time.Millisecond)
		}
		t.Logf("opened %d times, closed %d", h.count(core.EventBreakerOpened), h.count(core.EventBreakerClosed))
		if slow > 10 {
			t.Errorf("%d of 60 waited the whole Timeout", slow)
		}
	})
}

// Deadlines of requests that are shorter than a healthy service's answer must not open the breaker for all, with Lease as without.
func TestLeaseDeadlinesOpenTheBreaker(t *testing.T) {
	for _, lease := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := bubble(t, leaseReports(1e6), func(c *core.Config) { c.Lease = lease })
			h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
				ready := make(chan struct{})
				time.AfterFunc(20*time.Millisecond, func() { close(ready) })
				return sockettest.Default().After(ready)
			})
			handler := h.route("/reports", ok)
			for range 10 { // short of a slice
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
				h.do(handler, get("/reports").WithContext(ctx))
				cancel()
			}
			for range 20 {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
				h.do(handler, get("/reports").WithContext(ctx))
				cancel()
			}
			if n := h.count(core.EventBreakerOpened); n != 0 {
				t.Errorf("lease %v: the breaker has opened %d times, over a service that answers in 20 ms", lease, n)
			}
		})
	}
}

// A request that waits for the first configuration and then for a decision.
func TestWaitsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		limitReports(srv)
		srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if m.Type == socket.TypeRequestForAllocation {
				return sockettest.Silence()
			}
			ready := make(chan struct{})
			time.AfterFunc(600*time.Millisecond, func() { close(ready) })
			return sockettest.Default().After(ready)
		})
		pool, err := socket.NewManager(socket.ManagerConfig{APIKey: "key", URL: "ws://service/ws", PoolSize: 2, Dial: srv.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = pool.Close() }()
		h := joinHarness(t, srv, func(c *core.Config) { c.Transport, c.APIKey = pool, "" })
		start := time.Now()
		h.do(h.route("/reports", ok), get("/reports"))
		if d := time.Since(start); d > 2*time.Second+10*time.Millisecond {
			t.Errorf("the request waited %v, Timeout is 2 s", d)
		}
	})
}

// A slice that was reserved in one window, whose answer comes in the next.
func TestSliceOfTheLastWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 2000
		window := 10 * time.Second
		var slow atomic.Int64
		h := bubble(t, func(s *sockettest.Server) { limitReports(s); s.LimitWindow("GET /reports", n, window) }, leased)
		h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if m.Type == socket.TypeRequestForAllocation && slow.Load() == 1 {
				ready := make(chan struct{})
				time.AfterFunc(400*time.Millisecond, func() { close(ready) })
				return sockettest.Default().After(ready)
			}
			return sockettest.Default()
		})
		handler := h.route("/reports", ok)
		var firstAt time.Time
		var passed []time.Time
		serve := func() {
			if h.do(handler, get("/reports")).Code == 200 {
				passed = append(passed, time.Now())
			}
		}
		firstAt = time.Now()
		for time.Since(firstAt) < 1500*time.Millisecond {
			serve()
			pass(2 * time.Millisecond)
		}
		pass(time.Until(firstAt.Add(window - 1200*time.Millisecond))) // no slice is left
		for time.Since(firstAt) < window-250*time.Millisecond {
			serve()
			pass(2 * time.Millisecond)
		}
		pass(time.Until(firstAt.Add(window - 200*time.Millisecond)))
		slow.Store(1) // what is asked from here on is answered in the next window
		for time.Since(firstAt) < window+50*time.Millisecond {
			serve()
			pass(time.Millisecond)
		}
		slow.Store(0)
		for time.Since(firstAt) < 2*window-time.Second {
			serve()
			pass(500 * time.Microsecond)
		}
		second := 0
		for _, at := range passed {
			if d := at.Sub(firstAt); d >= window && d < 2*window {
				second++
			}
		}
		t.Logf("%d passed in all, %d in the second window", len(passed), second)
		if second > n {
			t.Errorf("%d requests ran in the second window, the limit is %d", second, n)
		}
	})
}

// One request that runs on keeps the usage of all the slice's others from being settled.
func TestOneLongRequestHoldsTheSlicesUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, leaseReports(1e6), leased)
		handler := h.route("/reports", ok)
		for range 300 {
			h.do(handler, get("/reports"))
			pass(time.Millisecond)
		}
		leave := make(chan struct{})
		var held sync.WaitGroup
		for range 1 {
			held.Go(func() {
				h.do(h.route("/reports", func(http.ResponseWriter, *http.Request) { <-leave }), get("/reports"))
			})
		}
		synctest.Wait()
		for range 100 {
			h.do(handler, get("/reports"))
			pass(time.Millisecond)
		}
		pass(10 * time.Minute)
		s := h.flow.Stats()
		if s.Pending != 1 {
			t.Errorf("after 10 minutes %d requests are unsettled, of which 1 runs", s.Pending)
		}
		close(leave)
		held.Wait()
	})
}

// Entries that recover can't read are lost: Stats has to say so.
func TestUnreadableIsCounted(t *testing.T) {
	dir := t.TempDir()
	q, err := diskqueue.Open(diskqueue.Options{Dir: dir, MaxBytes: 8 << 20, Segment: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := q.Append([]byte("\x02 of a newer version")); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	h := newHarness(t, nil, spooled(dir))
	if s := h.flow.Stats(); s.Dropped == 0 {
		t.Errorf("10 settlements are lost, says the log (%d lines); stats %+v", h.logs.Count("and are lost"), s)
	}
}

// Memory for settlements is full: slices are reserved at the service, forgotten, and never given back.
func TestSlicesWithoutRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		h := bubble(t, leaseReports(n), leased, func(c *core.Config) { c.MaxPendingBytes = 64 << 10 })
		h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if m.Type == socket.TypeUseAllocation {
				return sockettest.Silence()
			}
			return sockettest.Default()
		})
		for range 500 { // fills the outbox
			h.do(h.route("/m", ok), get("/m"))
		}
		synctest.Wait()
		handler := h.route("/reports", ok)
		passed, denied := 0, 0
		for range 200 {
			if h.do(handler, get("/reports")).Code == 200 {
				passed++
			} else {
				denied++
			}
			pass(5 * time.Millisecond)
		}
		t.Logf("passed %d, denied %d", passed, denied)
		if denied > 0 {
			t.Errorf("%d of 200 requests were denied, the limit is %d", denied, n)
		}
	})
}

// A slice that is asked for ahead does not outlive Shutdown.
func TestShutdownEndsAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		h := bubble(t, func(s *sockettest.Server) {
			leaseReports(100_000)(s)
			mute(s, &silent)
		}, leased)
		handler := h.route("/reports", ok)
		for range 100 {
			h.do(handler, get("/reports"))
			pass(time.Millisecond)
		}
		silent.Store(true)
		before := h.srv.Count(socket.TypeRequestForAllocation)
		for h.srv.Count(socket.TypeRequestForAllocation) == before {
			h.do(handler, get("/reports"))
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		_ = h.flow.Shutdown(ctx)
		if stacks := moduleStacks(); strings.Contains(stacks, "(*lease).reserve") {
			t.Error("a slice is still asked for")
		}
	})
}

// Limited routes alone, whose decisions the service does not answer, while it answers all else: the breaker opens and closes again and again.
func TestBreakerFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, limitReports)
		h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if m.Type == socket.TypeRequestForAllocation {
				return sockettest.Silence()
			}
			return sockettest.Default()
		})
		reports := h.route("/reports", ok)
		var all sync.WaitGroup
		var slow atomic.Int64
		for range 8 {
			all.Go(func() {
				for range 30 {
					start := time.Now()
					h.do(reports, get("/reports"))
					if time.Since(start) > 500*time.Millisecond {
						slow.Add(1)
					}
					pass(20 * time.Millisecond)
				}
			})
		}
		all.Wait()
		t.Logf("opened %d times, closed %d; %d of 240 requests waited the whole Timeout", h.count(core.EventBreakerOpened), h.count(core.EventBreakerClosed), slow.Load())
		if h.count(core.EventBreakerOpened) > 2 {
			t.Error("the breaker flaps")
		}
	})
}

// TestLeaseDeadlinesOpenTheBreaker without a lease, on the real clock.
func TestDeadlinesOpenTheBreaker(t *testing.T) {
	h := newHarness(t, limitReports)
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		ready := make(chan struct{})
		time.AfterFunc(50*time.Millisecond, func() { close(ready) })
		return sockettest.Default().After(ready)
	})
	handler := h.route("/reports", ok)
	for range 60 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		h.do(handler, get("/reports").WithContext(ctx))
		cancel()
	}
	if n := h.count(core.EventBreakerOpened); n != 0 {
		t.Errorf("the breaker has opened %d times, over a service that answers in 50 ms", n)
	}
}
