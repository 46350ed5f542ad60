package core_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A call stays open until the last hold is released, and what is set meanwhile counts.
func TestHold(t *testing.T) {
	h := newHarness(t, nil)
	var call *core.Call
	var releases []func()
	h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) {
		call = core.FromContext(context.WithoutCancel(r.Context()))
		for range 3 {
			releases = append(releases, call.Hold())
		}
	}), get("/x"))
	for i, release := range releases {
		if s := h.flow.Stats(); s.Pending != 1 || s.Settled != 0 {
			t.Fatalf("before release %d: %+v", i, s)
		}
		call.AddAmount(5)
		release()
		release() // once more does nothing
	}
	if s := h.settled(1); s.LateAmounts != 0 {
		t.Errorf("stats %+v", s)
	}
	if u := h.use(); u.Amount != 15 {
		t.Errorf("amount %v", u.Amount)
	}
	call.Hold()() // too late, and harmless
	call.AddAmount(1)
	if s := h.settled(1); s.LateAmounts != 1 {
		t.Errorf("stats %+v", s)
	}
}

// What is released before the handler returns changes nothing; a panic of the handler waits for the hold too.
func TestHoldInTheHandler(t *testing.T) {
	h := newHarness(t, nil)
	h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) { core.FromContext(r.Context()).Hold()() }), get("/x"))
	h.settled(1)
	var release func()
	var call *core.Call
	func() {
		defer func() { _ = recover() }()
		h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) {
			call = core.FromContext(r.Context())
			release = call.Hold()
			panic("boom")
		}), get("/x"))
	}()
	call.AddAmount(7)
	release()
	if s := h.settled(2); s.Settled != 2 || s.LateAmounts != 0 {
		t.Errorf("stats %+v", s)
	}
	if u := h.uses(2)[1]; u.Amount != 7 {
		t.Errorf("amount %v", u.Amount)
	}
}

// Shutdown waits for holds.
func TestShutdownWaitsForHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, nil)
		var release func()
		h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) { release = core.FromContext(r.Context()).Hold() }), get("/x"))
		done := make(chan error, 1)
		go func() { done <- h.flow.Shutdown(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("it did not wait: %v", err)
		default:
		}
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s := h.flow.Stats(); s.Settled != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

// A hold that nobody can release any more is released by the collector.
func TestHoldIsThrownAway(t *testing.T) {
	h := newHarness(t, nil)
	h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) { _ = core.FromContext(r.Context()).Hold() }), get("/x"))
	h.collected()
	if h.logs.Count("was thrown away") != 1 {
		t.Errorf("log:\n%s", h.logs)
	}
}

// A hold of a hijacked connection's call: it ends when both are over.
func TestHoldAndHijack(t *testing.T) {
	h := newHarness(t, nil)
	released := make(chan *core.Call, 1)
	conn := make(chan func(), 1)
	goOn := make(chan struct{})
	ts := h.listen(h.route("/x", func(w http.ResponseWriter, r *http.Request) {
		call := core.FromContext(r.Context())
		release := call.Hold()
		go func() {
			defer release()
			<-goOn
			call.AddAmount(9)
		}()
		released <- call
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\n\r\nhello\n")
		_ = rw.Flush()
		conn <- func() { _ = c.Close() }
	}))
	client := upgrade(t, ts.URL)
	defer client.Close()
	(<-conn)()
	<-released
	close(goOn)
	if s := h.settled(1); s.LateAmounts != 0 || h.use().Amount != 9 {
		t.Errorf("stats %+v, settlement %+v", s, h.use())
	}
}

// What is charged for a request that its client cut off.
func TestCutOff(t *testing.T) {
	for name, tc := range map[string]struct {
		policy core.CutOff
		write  string
		set    bool
		panics bool
		want   float64
	}{
		"observed":            {core.CutOffObserved, `{"n":6,`, false, false, 6},
		"observed, nothing":   {core.CutOffObserved, `{"m":6,`, false, false, 0},
		"observed, no answer": {core.CutOffObserved, "", false, false, 0},
		"observed, a proxy":   {core.CutOffObserved, `{"n":6,`, false, true, 6},
		"reserved":            {core.CutOffReserved, `{"n":6,`, false, false, 1},
		"reserved, no answer": {core.CutOffReserved, "", false, false, 1},
		"reserved, set":       {core.CutOffReserved, `{"n":6,`, true, false, 3},
		"reserved, a proxy":   {core.CutOffReserved, `{"m":6,`, false, true, 1},
		"void":                {core.CutOffVoid, `{"n":6,`, false, false, 0},
		"void, set":           {core.CutOffVoid, `{"n":6,`, true, false, 3},
		"void, a proxy":       {core.CutOffVoid, `{"n":6,`, false, true, 0},
		"void, all of it":     {core.CutOffVoid, `{"n":6}`, false, false, 6},
		"reserved, all of it": {core.CutOffReserved, ` {"n":6} `, false, false, 6},
		"void, a stream":      {core.CutOffVoid, "{\"n\":6}\n", false, false, 6}, // it does not say that it is one
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) }, func(c *core.Config) { c.CutOff = tc.policy })
			ctx, cancel := context.WithCancel(t.Context())
			ts := h.listen(h.route("/x", func(w http.ResponseWriter, r *http.Request) {
				if tc.set {
					core.FromContext(r.Context()).SetAmount(3)
				}
				if tc.write != "" {
					_, _ = w.Write([]byte(tc.write))
					_ = http.NewResponseController(w).Flush()
				}
				cancel()
				<-r.Context().Done()
				if tc.panics {
					panic(http.ErrAbortHandler)
				}
			}))
			r, _ := http.NewRequestWithContext(ctx, "GET", ts.URL, nil)
			if resp, err := ts.Client().Do(r); err == nil {
				_ = resp.Body.Close()
			}
			h.settled(1)
			if u := h.use(); u.Amount != tc.want {
				t.Errorf("amount %v, want %v", u.Amount, tc.want)
			}
		})
	}
}

// A deadline is no cut-off: the client may well be there.
func TestDeadlineIsNoCutOff(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) }, func(c *core.Config) { c.CutOff = core.CutOffVoid })
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	h.do(h.route("/x", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"n":6,`)) }), get("/x").WithContext(ctx))
	h.settled(1)
	if u := h.use(); u.Amount != 6 {
		t.Errorf("amount %v", u.Amount)
	}
}

// Where nothing is to be charged, an amount that is none changes nothing.
func TestInvalidAmountWhereNothingIsDue(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) }, func(c *core.Config) { c.VoidStatus = func(status int) bool { return status >= 500 } })
	h.do(h.route("/x", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusInternalServerError)
		_, _ = w.Write([]byte(`{"n":"unknown"}`))
	}), get("/x"))
	func() {
		defer func() { _ = recover() }()
		h.do(h.route("/x", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"n":"unknown"}`))
			panic("boom")
		}), get("/x"))
	}()
	if s := h.settled(2); s.Voided != 2 || s.InvalidAmounts != 0 {
		t.Errorf("stats %+v", s)
	}
}

// A panic with the client still there is charged what was set or seen, whatever the policy for cut-offs.
func TestPanicIsNoCutOff(t *testing.T) {
	h := newHarness(t, nil, func(c *core.Config) { c.CutOff = core.CutOffReserved })
	func() {
		defer func() { _ = recover() }()
		h.do(h.route("/x", func(http.ResponseWriter, *http.Request) { panic("boom") }), get("/x"))
	}()
	if s := h.settled(1); s.Voided != 1 {
		t.Errorf("stats %+v", s)
	}
}
