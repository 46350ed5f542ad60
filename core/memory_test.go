package core_test

import (
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// More requests at once than there is memory for pass, and are counted as dropped; a limited one that is to fail closed is refused. When they have ended, there is
// room again.
func TestNoMemoryForRequests(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		closed := limited(policy("GET", "/closed", "headers", "X-User"))
		yes := true
		closed.FailClosed = &yes
		s.SetPolicies(closed)
	}, func(c *core.Config) { c.MaxMemoryBytes = 1 << 20 })
	var calls []*core.Call
	begin := func() *core.Call {
		c, denial := h.flow.Begin(t.Context(), &core.Request{Request: get("/x"), Route: "/x"})
		if denial != nil {
			t.Fatal(denial)
		}
		return c
	}
	for range 1000 {
		if c := begin(); c != nil {
			calls = append(calls, c)
		}
	}
	if len(calls) != 256 { // 2 KiB each, of half a MiB
		t.Errorf("%d requests at once", len(calls))
	}
	if s := h.flow.Stats(); s.Admitted != 1000 || s.Dropped != 744 || s.Pending != 256 || h.logs.Count("settlements lost") != 1 {
		t.Errorf("stats %+v", s)
	}
	if w := h.do(h.route("/closed", ok), get("/closed")); w.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d", w.Code)
	}
	for _, c := range calls {
		c.End(200)
	}
	h.wait("the settlements", func(s core.Stats) bool { return s.Settled == 256 })
	if c := begin(); c == nil {
		t.Error("there is no room again")
	} else {
		c.End(200)
	}
}

// Bodies that an identity is looked for in are part of it; where there is no room, the request counts for nobody.
func TestNoMemoryForBodies(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(policy("POST", "/x", "body", "customer")) }, func(c *core.Config) { c.MaxMemoryBytes = 2 << 20 })
	body := `{"customer":"acme","text":"` + strings.Repeat("x", 300<<10) + `"}`
	var running sync.WaitGroup
	inside, leave := make(chan struct{}, 10), make(chan struct{})
	for range 10 {
		running.Go(func() {
			h.do(h.route("/x", func(http.ResponseWriter, *http.Request) { inside <- struct{}{}; <-leave }), request("POST", "/x", strings.NewReader(body)))
		})
	}
	for range 10 {
		<-inside
	}
	close(leave)
	running.Wait()
	h.settled(10)
	aliases := map[string]int{}
	for _, u := range h.uses(10) {
		aliases[u.Alias]++
	}
	if s := h.flow.Stats(); aliases["POST /x acme"] != 3 || aliases["POST /x"] != 7 || s.SkippedBodies != 7 || h.logs.Count("no room for a request's body") != 1 {
		t.Errorf("%v, stats %+v", aliases, s)
	}
	h.do(h.route("/x", ok), request("POST", "/x", strings.NewReader(body)))
	if u := h.uses(11)[10]; u.Alias != "POST /x acme" {
		t.Errorf("afterwards: %s", u.Alias)
	}
}

// In a long outage, with customers without end, the heap grows by no more than MaxMemoryBytes.
func TestHeapIsBounded(t *testing.T) {
	const most = 16 << 20
	srv := sockettest.New(t, sockettest.WithoutRecording())
	srv.SetPolicies(policy("GET", "/x", "headers", "X-User"))
	var silent atomic.Bool
	unanswered(srv, &silent)
	h := joinHarness(t, srv, func(c *core.Config) { c.MaxMemoryBytes, c.Capture.Headers, c.Observe = most, true, nil })
	if err := h.flow.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := heap()
	silent.Store(true)
	x := h.route("/x", ok)
	for i := range 20_000 {
		h.do(x, get("/x", "X-User", fmt.Sprint("customer", i), "X-Long", strings.Repeat("y", 500)))
	}
	h.eventually("what there is no room for", func(s core.Stats) bool { return s.Dropped >= 5_000 && s.Admitted == 20_000 })
	// What the pool and the service, which is in this process too, have on its way is not the flow's; it goes in a moment.
	h.eventually("a heap that is within bounds", func(core.Stats) bool { return int64(heap())-int64(before) <= most })
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
