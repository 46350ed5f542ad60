package core_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func leased(c *core.Config) { c.Lease = true }

// leaseReports limits /reports, without an identity, to n in an hour.
func leaseReports(n float64) func(*sockettest.Server) {
	return func(s *sockettest.Server) {
		limitReports(s)
		s.LimitWindow("GET /reports", n, time.Hour)
	}
}

// reservedAndUsed adds up what the service was asked for and was told.
func reservedAndUsed(srv *sockettest.Server) (reserved, used float64, settlements int) {
	granted := map[string]float64{}
	for _, m := range srv.Messages(socket.TypeRequestForAllocation) {
		granted[m.Allocation().AllocationID] = m.Allocation().Amount
	}
	seen := map[string]bool{}
	for _, m := range srv.Messages(socket.TypeUseAllocation) {
		if u := m.Use(); !seen[u.AllocationID] {
			seen[u.AllocationID] = true
			reserved += granted[u.AllocationID]
			used += u.Amount
			settlements++
		}
	}
	return reserved, used, settlements
}

// Several flows on one limit: together they admit no more than it allows, and most requests wait for no round trip.
func TestLeasesNeverExceedTheLimit(t *testing.T) {
	const n, flows, workers, each = 5000, 3, 8, 300
	h := newHarness(t, leaseReports(n), leased)
	all := []*harness{h}
	for range flows - 1 {
		other := joinHarness(t, h.srv, leased)
		other.wait("the configuration", func(core.Stats) bool { return other.count(core.EventConfigured) > 0 })
		all = append(all, other)
	}
	var running sync.WaitGroup
	var passed, denied atomic.Int64
	for _, h := range all {
		handler := h.route("/reports", ok)
		for range workers {
			running.Go(func() {
				for range each {
					switch w := h.do(handler, get("/reports")); w.Code {
					case http.StatusOK:
						passed.Add(1)
					case http.StatusTooManyRequests:
						denied.Add(1)
					default:
						t.Errorf("got %d", w.Code)
					}
				}
			})
		}
	}
	running.Wait()
	admitted := int64(0)
	for _, h := range all {
		if err := h.flow.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		s := h.flow.Stats()
		admitted += s.Settled
		if s.FailedOpen != 0 || s.Admitted != s.Settled {
			t.Errorf("stats %+v", s)
		}
	}
	reserved, used, settlements := reservedAndUsed(h.srv)
	if admitted != passed.Load() || int64(used) != passed.Load() {
		t.Errorf("%d passed, admitted are %d, used %v", passed.Load(), admitted, used)
	}
	if reserved > n || used > reserved || passed.Load()+denied.Load() != flows*workers*each {
		t.Errorf("limit %d, reserved %v, used %v, denied %d", n, reserved, used, denied.Load())
	}
	if passed.Load() < n/2 || settlements > int(passed.Load())/2 {
		t.Errorf("%d passed in %d settlements", passed.Load(), settlements)
	}
	t.Logf("%d passed, %d denied, %v reserved, %d settlements", passed.Load(), denied.Load(), reserved, settlements)
}

// A busy ledger's requests do without a round trip; a quiet one's ask one by one; what is left of a slice goes back after a second.
func TestLeaseFollowsTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, leaseReports(100_000), leased)
		handler := h.route("/reports", ok)
		for range 20 { // two a second
			h.do(handler, get("/reports"))
			pass(500 * time.Millisecond)
		}
		if n := h.srv.Count(socket.TypeRequestForAllocation); n != 20 {
			t.Errorf("%d reservations for 20 requests", n)
		}
		for range 2000 { // a thousand a second
			h.do(handler, get("/reports"))
			pass(time.Millisecond)
		}
		if n := h.srv.Count(socket.TypeRequestForAllocation); n > 60 {
			t.Errorf("%d reservations for 2020 requests", n)
		}
		pass(2 * time.Second)
		synctest.Wait()
		if s := h.flow.Stats(); s.Settled != 2020 || s.Pending != 0 {
			t.Errorf("stats %+v", s)
		}
		_, used, settlements := reservedAndUsed(h.srv)
		if used != 2020 || settlements != h.srv.Count(socket.TypeRequestForAllocation) {
			t.Errorf("used %v, %d settlements", used, settlements)
		}
		for _, m := range h.srv.Messages(socket.TypeUseAllocation) {
			u := m.Use()
			if n, ok := u.Metadata["requests"].(float64); u.Amount > 1 && (!ok || n != u.Amount || u.Metadata["url"] != "/reports") {
				t.Errorf("amount %v, metadata %v", u.Amount, u.Metadata)
			}
		}
	})
}

// What a request costs is spent from its slice: one that costs more than the slice has ends it, and one that costs nothing gives back.
func TestLeasesCountAmounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, leaseReports(100_000), leased)
		cost := 1.0
		handler := h.route("/reports", func(_ http.ResponseWriter, r *http.Request) { core.FromContext(r.Context()).SetAmount(cost) })
		for range 200 {
			h.do(handler, get("/reports"))
			pass(time.Millisecond)
		}
		before := h.srv.Count(socket.TypeRequestForAllocation)
		cost = 0
		for range 200 { // these give back what they took
			h.do(handler, get("/reports"))
			synctest.Wait()
		}
		if n := h.srv.Count(socket.TypeRequestForAllocation); n > before+1 {
			t.Errorf("%d reservations for requests that cost nothing", n-before)
		}
		cost = 10_000
		h.do(handler, get("/reports"))
		synctest.Wait()
		before = h.srv.Count(socket.TypeRequestForAllocation)
		cost = 1
		h.do(handler, get("/reports"))
		if h.srv.Count(socket.TypeRequestForAllocation) == before {
			t.Error("a slice that is overspent was spent from")
		}
		pass(2 * time.Second)
		synctest.Wait()
		s := h.flow.Stats()
		if s.Settled != 202 || s.Voided != 200 || s.Pending != 0 {
			t.Errorf("stats %+v", s)
		}
		if _, used, _ := reservedAndUsed(h.srv); used != 10_201 {
			t.Errorf("used %v", used)
		}
	})
}

// Slices that the service does not answer are voided, requests wait no longer than Timeout, and nothing is charged twice.
func TestLeaseWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		h := bubble(t, func(s *sockettest.Server) {
			leaseReports(100_000)(s)
			mute(s, &silent)
		}, leased)
		handler := h.route("/reports", ok)
		for range 200 {
			h.do(handler, get("/reports"))
			pass(time.Millisecond)
		}
		silent.Store(true)
		pass(time.Second) // no slice is left
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				start := time.Now()
				if w := h.do(handler, get("/reports")); w.Code != 200 {
					t.Errorf("got %d", w.Code)
				}
				if d := time.Since(start); d > 2*time.Second {
					t.Errorf("waited %v", d)
				}
			})
		}
		all.Wait()
		silent.Store(false)
		pass(2 * time.Minute)
		synctest.Wait()
		if s := h.flow.Stats(); s.Settled != 220 || s.Pending != 0 {
			t.Errorf("stats %+v", s)
		}
		_, used, settlements := reservedAndUsed(h.srv)
		asked := map[string]bool{}
		for _, m := range h.srv.Messages(socket.TypeRequestForAllocation) {
			asked[m.Allocation().AllocationID] = true
		}
		if used != 220 || settlements != len(asked) {
			t.Errorf("used %v, %d settlements of %d reservations", used, settlements, len(asked))
		}
	})
}

// A request that outlasts its slice gets a reservation of its own, so that the slice can be settled; what it costs is charged under that, or with the
// slice where it ends before, and nothing stays held.
func TestRequestsOutlastTheirSlice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, leaseReports(100_000), leased)
		handler := h.route("/reports", ok)
		var running sync.WaitGroup
		for i := range 200 {
			if i%20 == 19 { // they last 0 to 3 s, with the slices' end and the reservation in between
				running.Go(func() {
					h.do(h.route("/reports", func(_ http.ResponseWriter, r *http.Request) {
						core.FromContext(r.Context()).SetAmount(2)
						pass(time.Duration(i) * 15 * time.Millisecond)
					}), get("/reports"))
				})
			}
			h.do(handler, get("/reports"))
			pass(time.Millisecond)
		}
		pass(2500 * time.Millisecond) // one or two still run
		synctest.Wait()
		if s := h.flow.Stats(); s.Pending > 3 {
			t.Errorf("%d requests are pending: %+v", s.Pending, s)
		}
		running.Wait()
		pass(3 * time.Second)
		synctest.Wait()
		if s := h.flow.Stats(); s.Settled != 210 || s.Pending != 0 || s.Amount != 220 {
			t.Errorf("stats %+v", s)
		}
		_, used, settlements := reservedAndUsed(h.srv)
		ids := map[string]bool{}
		for _, m := range h.srv.Messages(socket.TypeRequestForAllocation) {
			ids[m.Allocation().AllocationID] = true
		}
		if used != 220 || settlements != len(ids) {
			t.Errorf("used %v, %d settlements of %d reservations", used, settlements, len(ids))
		}
		check(t, h.srv)
	})
}

// An outage is said once, with leases too.
func TestLeasesSayOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, leaseReports(100_000), leased)
		handler := h.route("/reports", ok)
		serve := func() {
			for range 200 {
				h.do(handler, get("/reports"))
				pass(time.Millisecond)
			}
		}
		serve()
		h.srv.Stop()
		synctest.Wait()
		pass(time.Second) // no slice is left
		serve()
		if err := h.srv.Start(); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		serve()
		for _, line := range []string{"gives no decisions", "gives decisions again"} {
			if n := h.logs.Count(line); n != 1 {
				t.Errorf("%d lines say that usageflow %s; log:\n%s", n, line, h.logs)
			}
		}
		if h.count(core.EventOutage) != 1 || h.count(core.EventRecovered) != 1 {
			t.Error("the events are not one each")
		}
	})
}

// The amounts of a slice that is not over are on disk: a kill loses none that Stats calls spooled.
func TestSpooledSlices(t *testing.T) {
	dir := t.TempDir()
	h := newHarness(t, leaseReports(1e9), leased, spooled(dir))
	handler := h.route("/reports", ok)
	inside, leave := make(chan struct{}), make(chan struct{})
	var held sync.WaitGroup
	for range 40 {
		h.do(handler, get("/reports"))
	}
	held.Go(func() { // which keeps its slice open
		h.do(h.route("/reports", func(http.ResponseWriter, *http.Request) { close(inside); <-leave }), get("/reports"))
	})
	<-inside
	for range 5 {
		h.do(handler, get("/reports"))
	}
	s := h.eventually("the slice on disk", func(s core.Stats) bool { return s.Spooled > 0 && s.Pending == 1 })
	killed := t.TempDir()
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	next := newHarness(t, nil, leased, spooled(killed))
	next.eventually("what was spooled", func(n core.Stats) bool { return n.Settled >= s.Spooled && n.Settled == n.Admitted })
	_, used, _ := reservedAndUsed(next.srv)
	if used < float64(s.Spooled) {
		t.Errorf("used %v, spooled were %d", used, s.Spooled)
	}
	close(leave)
	held.Wait()
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if s := h.flow.Stats(); s.Settled != 46 {
		t.Errorf("stats %+v", s)
	}
}

// BenchmarkLease is what a limited request costs that a slice lets in, beside a metered one.
func BenchmarkLease(b *testing.B) {
	srv := sockettest.New(b, sockettest.WithoutRecording())
	limitReports(srv)
	srv.LimitWindow("GET /reports", 1e12, time.Hour)
	flow, err := core.New(core.Config{APIKey: "key", URL: srv.URL, Lease: true})
	if err != nil {
		b.Fatal(err)
	}
	if err := flow.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, route := range []string{"/metered", "/reports"} {
		b.Run(route[1:], func(b *testing.B) {
			r := httptest.NewRequest("GET", route, nil)
			b.ReportAllocs()
			for b.Loop() {
				call, _ := flow.Begin(r.Context(), &core.Request{Request: r, Route: route, Param: r.PathValue})
				call.End(200)
			}
		})
	}
	if err := flow.Shutdown(b.Context()); err != nil {
		b.Error(err)
	}
}
