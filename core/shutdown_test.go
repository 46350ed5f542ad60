package core_test

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// Shutdown waits for running requests and for confirmations; later requests pass unmetered.
func TestShutdownDrains(t *testing.T) {
	h := newHarness(t, limitReports)
	confirm, inside, leave := make(chan struct{}), make(chan struct{}), make(chan struct{})
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeUseAllocation {
			return sockettest.Default().After(confirm)
		}
		return sockettest.Default()
	})
	var running sync.WaitGroup
	running.Go(func() {
		h.do(h.route("/x", func(http.ResponseWriter, *http.Request) {
			close(inside)
			<-leave
		}), get("/x"))
	})
	<-inside
	shut := make(chan error, 1)
	go func() { shut <- h.flow.Shutdown(t.Context()) }()
	for h.flow.Applies("GET", "/x") {
		runtime.Gosched() // Shutdown has begun when nothing applies any more
	}
	for _, path := range []string{"/x", "/reports"} {
		if w := h.do(h.route(path, ok), get(path)); w.Code != 200 {
			t.Errorf("got %d", w.Code)
		}
	}
	if s := h.flow.Stats(); s.Admitted != 1 || s.Pending != 1 {
		t.Errorf("stats %+v", s)
	}
	close(leave)
	running.Wait()
	h.use()
	select {
	case err := <-shut:
		t.Fatalf("it returned before the confirmation: %v", err)
	default:
	}
	close(confirm)
	if err := <-shut; err != nil {
		t.Fatal(err)
	}
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Errorf("the second time: %v", err)
	}
	if s := h.flow.Stats(); s.Settled != 1 || s.Pending != 0 {
		t.Errorf("stats %+v", s)
	}
	if left := moduleStacks(); strings.Contains(left, "core.(*Flow).refresh") || strings.Contains(left, "core.(*sender).run") {
		t.Errorf("goroutines left behind:\n%s", left)
	}
	if err := h.flow.Do(t.Context(), core.Job{Name: "late"}, func(ctx context.Context) error {
		if core.FromContext(ctx) != nil {
			t.Error("a job was metered after the end")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// An error says what is left when ctx ends first; that is counted as dropped and logged.
func TestShutdownInVain(t *testing.T) {
	h := newHarness(t, nil, func(c *core.Config) { c.Timeout = 100 * time.Millisecond })
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeUseAllocation {
			return sockettest.Silence()
		}
		return sockettest.Default()
	})
	for range 3 {
		h.do(h.route("/x", ok), get("/x"))
	}
	h.uses(3)
	inside, leave := make(chan struct{}), make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		h.do(h.route("/x", func(http.ResponseWriter, *http.Request) {
			close(inside)
			<-leave
		}), get("/x"))
	})
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	err := h.flow.Shutdown(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "4 settlements are not confirmed") {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 6*time.Second {
		t.Errorf("it took %v", d)
	}
	if again := h.flow.Shutdown(t.Context()); !errors.Is(again, context.DeadlineExceeded) {
		t.Errorf("the second time: %v", again)
	}
	if s := h.flow.Stats(); s.Dropped != 3 || s.Pending != 1 || s.Admitted != 4 {
		t.Errorf("stats %+v", s)
	}
	close(leave) // a request that ends after the end
	running.Wait()
	if s := h.flow.Stats(); s.Dropped != 4 || s.Pending != 0 || s.Admitted != 4 {
		t.Errorf("stats %+v", s)
	}
	if h.logs.Count("shut down before every settlement was confirmed") != 1 {
		t.Errorf("log:\n%s", h.logs)
	}
}

// A second Shutdown waits for the first no longer than its own context says.
func TestShutdownTwiceAtOnce(t *testing.T) {
	h := newHarness(t, nil)
	confirm := make(chan struct{})
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeUseAllocation {
			return sockettest.Default().After(confirm)
		}
		return sockettest.Default()
	})
	h.do(h.route("/x", ok), get("/x"))
	h.use()
	first := make(chan error, 1)
	go func() { first <- h.flow.Shutdown(context.WithoutCancel(t.Context())) }()
	for h.flow.Applies("GET", "/x") {
		runtime.Gosched()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.flow.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(confirm)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if err := h.flow.Shutdown(ctx); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// During traffic: what was let in is settled, and nothing is lost.
func TestShutdownDuringTraffic(t *testing.T) {
	for range 5 {
		h := newHarness(t, limitReports)
		stop := make(chan struct{})
		var all sync.WaitGroup
		for _, path := range []string{"/x", "/reports", "/x", "/reports"} {
			handler := h.route(path, ok)
			all.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						if w := h.do(handler, get(path)); w.Code != 200 {
							t.Errorf("got %d", w.Code)
						}
					}
				}
			})
		}
		h.wait("traffic", func(s core.Stats) bool { return s.Admitted > 50 })
		if err := h.flow.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		s := h.flow.Stats()
		close(stop)
		all.Wait()
		if after := h.flow.Stats(); s.Admitted != s.Settled || after != s || s.Pending != 0 || s.FailedOpen != 0 {
			t.Errorf("stats %+v, afterwards %+v", s, after)
		}
		check(t, h.srv)
	}
}

// Before anything has connected, Shutdown returns soon and lets waiting requests pass.
func TestShutdownBeforeTheFirstConfiguration(t *testing.T) {
	srv := sockettest.New(t)
	srv.SilentHandshake()
	h := joinHarness(t, srv, func(c *core.Config) {
		c.Timeout, c.Skip = time.Hour, func(r *core.Request) bool { return r.Route == "/health" }
	})
	if w := h.do(h.route("/health", ok), get("/health")); w.Code != 200 { // at once
		t.Errorf("got %d", w.Code)
	}
	passed := make(chan int)
	go func() { passed <- h.do(h.route("/x", ok), get("/x")).Code }()
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if got := <-passed; got != 200 {
		t.Errorf("got %d", got)
	}
}

// Admitted is the sum of the others, at every moment.
func TestStatsAlwaysAddUp(t *testing.T) {
	h := newHarness(t, limitReports, func(c *core.Config) { c.MaxPendingBytes, c.PoolSize = 20_000, 10 })
	var drops atomic.Int32 // fewer than connections: the backoff of a real clock is long
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeUseAllocation && m.Seq%20 == 0 && drops.Add(1) < 6 {
			return sockettest.Drop()
		}
		return sockettest.Default()
	})
	stop := make(chan struct{})
	var watchers, all sync.WaitGroup
	for range 2 {
		watchers.Go(func() {
			last := core.Stats{}
			for {
				s := h.flow.Stats()
				if s.Admitted != s.Settled+s.Voided+s.Pending+s.Spooled+s.Dropped || s.Pending < 0 || s.Spooled != 0 {
					t.Errorf("stats %+v", s)
				}
				if s.Settled < last.Settled || s.Voided < last.Voided || s.Dropped < last.Dropped || s.Admitted < last.Admitted {
					t.Errorf("stats %+v after %+v", s, last)
				}
				last = s
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range 6 {
		handler := h.route("/x", func(_ http.ResponseWriter, r *http.Request) { core.FromContext(r.Context()).SetAmount(float64(i % 2)) })
		limited := h.route("/reports", ok)
		all.Go(func() {
			for range 100 {
				h.do(handler, get("/x"))
				h.do(limited, get("/reports"))
			}
		})
	}
	all.Wait()
	drained := func(s core.Stats) bool { return s.Pending == 0 }
	h.wait("the end", drained)
	// On a busy machine nearly all of these may have found no room; now there is some.
	for _, amount := range []float64{0, 1} {
		h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) { core.FromContext(r.Context()).SetAmount(amount) }), get("/x"))
		h.wait("the last ones", drained)
	}
	close(stop)
	watchers.Wait()
	if s := h.flow.Stats(); s.Admitted != 1202 || s.Voided == 0 || s.Settled == 0 {
		t.Errorf("stats %+v", s)
	}
}

// A configuration that cannot work is an error of New.
func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]core.Config{
		"no key":            {},
		"a key with line":   {APIKey: "a\nb"},
		"a strange URL":     {APIKey: "key", URL: "http://localhost"},
		"negative timeout":  {APIKey: "key", Timeout: -1},
		"negative refresh":  {APIKey: "key", RefreshInterval: -1},
		"a spool in a file": {APIKey: "key", SpoolDir: "shutdown_test.go"},
		"negative sync":     {APIKey: "key", SpoolSync: -1},
	} {
		if f, err := core.New(cfg); err == nil || f != nil {
			t.Errorf("%s: got %v, %v", name, f, err)
		}
	}
}
