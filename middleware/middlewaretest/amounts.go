package middlewaretest

import (
	"context"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// testAmounts sets amounts in handlers, valid ones and others.
func testAmounts(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	var handle func(*core.Call)
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
		handle(core.FromContext(r.Context()))
		ok(w, r)
	})})
	for i, tc := range []struct {
		handle func(*core.Call)
		want   float64
	}{
		{func(*core.Call) {}, 1},
		{func(c *core.Call) { c.SetAmount(2.5) }, 2.5},
		{func(c *core.Call) { c.SetAmount(0) }, 0},
		{func(c *core.Call) { c.AddAmount(2); c.AddAmount(3) }, 5},
		{func(c *core.Call) { c.SetAmount(9); c.Void() }, 0},
		{func(c *core.Call) { c.SetAmount(-1) }, 1},
		{func(c *core.Call) { c.SetAmount(math.NaN()) }, 1},
		{func(c *core.Call) { c.SetAmount(math.Inf(1)) }, 1},
		{func(c *core.Call) { c.SetAmount(math.MaxFloat64) }, 1},
		{func(c *core.Call) { c.SetAmount(4); c.AddAmount(math.MaxFloat64) }, 4},
	} {
		id := ""
		handle = func(c *core.Call) {
			if id = c.AllocationID(); id == "" {
				t.Error("there is no call in the handler's context")
			}
			tc.handle(c)
		}
		a.get(ts, "/x")
		use := a.use(i + 1)
		if use.Amount != tc.want || use.AllocationID != id {
			t.Errorf("%d: amount %v, want %v; id %s, in the handler %s", i, use.Amount, tc.want, use.AllocationID, id)
		}
	}
	if s := a.Flow.Stats(); s.InvalidAmounts != 5 {
		t.Errorf("stats %+v", s)
	}
	a.Drain(10)
}

// testHolds lets a goroutine outlive its handler: what it sets counts, and the settlement waits for it.
func testHolds(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	goOn := make(chan struct{})
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithoutCancel(r.Context())
		release := core.FromContext(ctx).Hold()
		go func() {
			defer release()
			<-goOn
			core.FromContext(ctx).AddAmount(7)
		}()
		w.WriteHeader(http.StatusAccepted)
	})})
	for range 3 {
		if got := a.get(ts, "/x"); got.status != 202 {
			t.Errorf("got %s", got)
		}
	}
	close(goOn)
	for _, use := range a.Uses(3) {
		if use.Amount != 7 || use.Metadata["responseStatusCode"] != 202.0 {
			t.Errorf("settlement %+v", use)
		}
	}
	a.Drain(3)
}

// testTrackedAmounts reads the amount out of responses.
func testTrackedAmounts(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, track("usage.total_tokens"))
	var status int
	var contentType, body string
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		for piece := range strings.SplitAfterSeq(body, "\n") {
			_, _ = io.WriteString(w, piece)
		}
	})})
	long := `{"text":"` + strings.Repeat("lorem ipsum ", 100_000) + `","usage":{"total_tokens":12}}`
	var want core.Stats
	for i, tc := range []struct {
		status            int
		contentType, body string
		amount            float64
		counted           *int64 // the count that it goes into; nil: none
	}{
		{200, "application/json", `{"usage":{"total_tokens":12}}`, 12, nil},
		{418, "application/json; charset=utf-8", "{\n\"usage\":{\"total_tokens\"\n:12}}", 12, nil},
		{200, "application/json", long, 12, nil},
		{200, "application/json", `{"usage":{"input_tokens":5,"output_tokens":7}}`, 12, nil},
		{200, "application/json", `{"usage":{"total_tokens":"12"}}`, 1, &want.InvalidAmounts},
		{200, "application/json", `{"usage":{"total_tokens":-12}}`, 1, &want.InvalidAmounts},
		{200, "application/json", `{"usage":{"total_tokens":1e300}}`, 1, &want.InvalidAmounts},
		{200, "application/json", `{"usage":{"total_tokens":NaN}}`, 1, &want.InvalidAmounts},
		{200, "application/json", `{"total_tokens":12}`, 1, &want.UnknownAmounts},
		{200, "text/html", `<p>12</p>`, 1, &want.UnknownAmounts},
		{200, "application/x-ndjson", "{\"usage\":{\"total_tokens\":3}}\n{\"broken\n{\"usage\":{\"total_tokens\":12}}\n", 12, nil},
		{200, "text/event-stream", "data: {\"usage\":null}\n\ndata: {\"usage\":{\"total_tokens\":12}}\n\ndata: [DONE]", 12, nil},
		{200, "text/event-stream", "event: message_start\ndata: {\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"usage\":{\"output_tokens\":7}}\n\n", 12, nil},
	} {
		status, contentType, body = tc.status, tc.contentType, tc.body
		if got := a.get(ts, "/x"); got.status != tc.status || got.body != tc.body || got.header.Get("Content-Type") != tc.contentType {
			t.Errorf("%d: got %s", i, got)
		}
		if use := a.use(i + 1); use.Amount != tc.amount {
			t.Errorf("%d: amount %v, want %v", i, use.Amount, tc.amount)
		}
		if tc.counted != nil {
			*tc.counted++
		}
	}
	if s := a.Flow.Stats(); s.InvalidAmounts != want.InvalidAmounts || s.UnknownAmounts != want.UnknownAmounts {
		t.Errorf("stats %+v, want %+v", s, want)
	}
	a.Drain(13)
}
