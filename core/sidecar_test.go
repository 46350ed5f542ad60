package core_test

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// sidecar is a broker that passes messages on to a service, on a port that stays the same over its restarts.
type sidecar struct {
	t      *testing.T
	url    string // of the service
	port   string
	server *socket.Server
	stop   func()
}

func newSidecar(t *testing.T, url string) *sidecar {
	t.Helper()
	s := &sidecar{t: t, url: url, port: "0"}
	s.start()
	s.port = s.server.Port()
	t.Cleanup(func() { s.stop() })
	return s
}

var quiet = socket.WithLogger(slog.New(slog.DiscardHandler))

func (s *sidecar) start() {
	s.t.Helper()
	s.server = socket.NewServer(s.port, quiet)
	if err := s.server.Start(); err != nil {
		s.t.Fatal(err)
	}
	pool, err := socket.NewManager(socket.ManagerConfig{APIKey: "key", URL: s.url, PoolSize: 2, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	provider, err := socket.NewProvider("127.0.0.1:"+s.server.Port(), socket.SidecarChannel, quiet)
	if err == nil {
		err = socket.ServeTransport(provider, pool)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		_ = s.server.Stop()
		_ = provider.Close()
		_ = pool.Close()
	})
}

func (s *sidecar) transport() socket.Transport {
	s.t.Helper()
	consumer, err := socket.NewConsumer("127.0.0.1:"+s.port, socket.SidecarChannel, quiet)
	if err != nil {
		s.t.Fatal(err)
	}
	tr := socket.NewBrokerTransport(consumer)
	s.t.Cleanup(func() { _ = tr.Close() })
	return tr
}

// overSidecar makes a flow's messages go through a sidecar.
func overSidecar(t *testing.T, s **sidecar) func(*core.Config) {
	return func(c *core.Config) {
		side := newSidecar(t, c.URL)
		if s != nil {
			*s = side
		}
		c.Transport, c.APIKey = side.transport(), ""
	}
}

// Over a sidecar a flow meters, limits and blocks as over a pool of its own.
func TestOverASidecar(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(limited(policy("GET", "/limited", "headers", "X-User")))
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/blocked"})
	}, overSidecar(t, nil))
	h.srv.Limit("GET /limited", 3)
	var all sync.WaitGroup
	var refused atomic.Int64
	for range 200 {
		all.Go(func() { h.do(h.route("/x", ok), get("/x")) })
		all.Go(func() {
			if h.do(h.route("/limited", ok), get("/limited")).Code == http.StatusTooManyRequests {
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if w := h.do(h.route("/blocked", ok), get("/blocked")); w.Code != http.StatusForbidden {
		t.Errorf("blocked: %d", w.Code)
	}
	if s := h.settled(203); s.Denied != 197 || refused.Load() != 197 {
		t.Errorf("stats %+v, %d refused", s, refused.Load())
	}
	check(t, h.srv)
}

// Limits hold over a sidecar with leases too, and these save messages.
func TestLeasesOverASidecar(t *testing.T) {
	const n = 3000
	h := newHarness(t, leaseReports(n), leased, overSidecar(t, nil))
	var passed atomic.Int64
	var running sync.WaitGroup
	handler := h.route("/reports", ok)
	for range 8 {
		running.Go(func() {
			for range 500 {
				if h.do(handler, get("/reports")).Code == http.StatusOK {
					passed.Add(1)
				}
			}
		})
	}
	running.Wait()
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	s := h.flow.Stats()
	_, used, settlements := reservedAndUsed(h.srv)
	if s.FailedOpen != 0 || s.Settled != passed.Load() || int64(used) != passed.Load() || used > n {
		t.Errorf("%d passed, %v used, stats %+v", passed.Load(), used, s)
	}
	if settlements >= int(passed.Load())/2 {
		t.Errorf("%d settlements for %d requests", settlements, passed.Load())
	}
}

// When the service hangs the breaker opens over a sidecar as well; what is used while it is away is on disk, and is charged once when
// it is back.
func TestOutageBehindASidecar(t *testing.T) {
	var silent atomic.Bool
	h := newHarness(t, func(s *sockettest.Server) {
		limitReports(s)
		mute(s, &silent)
	}, overSidecar(t, nil), spooled(t.TempDir()), func(c *core.Config) { c.Timeout, c.MaxPendingBytes = 500*time.Millisecond, 8<<20 })
	limitedRoute, route := h.route("/reports", ok), h.route("/x", ok)
	silent.Store(true)
	h.eventually("the breaker to open", func(s core.Stats) bool {
		h.do(limitedRoute, get("/reports"))
		return s.Breaker == core.BreakerOpen
	})
	h.srv.Stop()
	for range 300 {
		h.do(route, get("/x"))
	}
	start := time.Now()
	for range 100 {
		if w := h.do(limitedRoute, get("/reports")); w.Code != http.StatusOK {
			t.Fatalf("got %d", w.Code)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("100 limited requests took %v with the breaker open", took)
	}
	h.eventually("settlements on disk", func(s core.Stats) bool { return s.Spooled > 300 })
	admitted := h.flow.Stats().Admitted
	silent.Store(false)
	if err := h.srv.Start(); err != nil {
		t.Fatal(err)
	}
	h.eventually("everything to be charged", func(s core.Stats) bool { return s.Settled == admitted })
	if ids := charged(h.srv); int64(len(ids)) != admitted {
		t.Errorf("%d ids are charged, %d requests were admitted", len(ids), admitted)
	}
	h.eventually("the breaker to close", func(s core.Stats) bool { return s.Breaker == core.BreakerClosed })
}

// The sidecar stops and starts again, under load: its workers find it again, nothing is lost, and nothing charged twice.
func TestSidecarRestarts(t *testing.T) {
	var side *sidecar
	h := newHarness(t, nil, overSidecar(t, &side))
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			for ctx.Err() == nil {
				if err := h.flow.Do(ctx, core.Job{Name: "resize", Identity: "acme"}, nop); err != nil {
					t.Error(err)
				}
				<-time.After(time.Millisecond)
			}
		})
	}
	for range 5 {
		before := h.flow.Stats().Settled
		h.eventually("settlements", func(s core.Stats) bool { return s.Settled > before+50 })
		side.stop()
		side.start()
	}
	before := h.flow.Stats().Settled
	h.eventually("settlements", func(s core.Stats) bool { return s.Settled > before+50 })
	cancel()
	load.Wait()
	s := h.eventually("everything to be charged", func(s core.Stats) bool { return s.Settled == s.Admitted })
	if ids := charged(h.srv); int64(len(ids)) != s.Admitted || s.Dropped != 0 {
		t.Errorf("%d ids are charged, stats %+v", len(ids), s)
	}
}
