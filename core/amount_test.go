package core_test

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// What is charged: what the handler set, else what the tracked field said, else 1.
func TestAmounts(t *testing.T) {
	call := func(r *http.Request) *core.Call { return core.FromContext(r.Context()) }
	set := func(amounts ...float64) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			for _, a := range amounts {
				call(r).SetAmount(a)
			}
		}
	}
	add := func(amounts ...float64) http.HandlerFunc {
		return func(_ http.ResponseWriter, r *http.Request) {
			for _, a := range amounts {
				call(r).AddAmount(a)
			}
		}
	}
	body := func(contentType string, pieces ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			for _, p := range pieces {
				_, _ = io.WriteString(w, p)
			}
		}
	}
	sse := func(pieces ...string) http.HandlerFunc { return body("text/event-stream; charset=utf-8", pieces...) }
	jsonBody := func(pieces ...string) http.HandlerFunc { return body("application/json", pieces...) }
	status := func(code int, then http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(code)
			then(w, r)
		}
	}
	anthropic := []string{
		"event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}\n\n",
		"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"\\\"usage\\\":{\\\"output_tokens\\\":9}\"}}\n\n",
		"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}\n\n",
		"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
	}
	for name, tc := range map[string]struct {
		field            string
		handler          http.HandlerFunc
		want             float64
		invalid, unknown int64
	}{
		"default":                       {"", ok, 1, 0, 0},
		"set":                           {"", set(2.5), 2.5, 0, 0},
		"set twice":                     {"", set(2.5, 7), 7, 0, 0},
		"set to zero":                   {"", set(0), 0, 0, 0},
		"added, from 0":                 {"", add(2, 0.5), 2.5, 0, 0},
		"void":                          {"", func(_ http.ResponseWriter, r *http.Request) { call(r).Void() }, 0, 0, 0},
		"void goes before the response": {"n", func(w http.ResponseWriter, r *http.Request) { call(r).Void(); _, _ = io.WriteString(w, `{"n":5}`) }, 0, 0, 0},
		"set after void":                {"", func(_ http.ResponseWriter, r *http.Request) { call(r).Void(); call(r).AddAmount(3) }, 3, 0, 0},
		"negative":                      {"", set(-1), 1, 1, 0},
		"NaN":                           {"", set(math.NaN()), 1, 1, 0},
		"infinite":                      {"", add(math.Inf(1)), 1, 1, 0},
		"minus infinite":                {"", add(math.Inf(-1)), 1, 1, 0},
		"the largest":                   {"", set(1e12), 1e12, 0, 0},
		"too large":                     {"", set(math.MaxFloat64), 1, 1, 0},
		"too large in sum":              {"", add(1e12, 1), 1e12, 1, 0},
		"negative zero":                 {"", set(math.Copysign(0, -1)), 0, 0, 0},
		"invalid after valid":           {"", set(3, -1), 3, 1, 0},
		"set goes before the response": {"n", func(w http.ResponseWriter, r *http.Request) {
			call(r).SetAmount(3)
			_, _ = io.WriteString(w, `{"n":5}`)
		}, 3, 0, 0},

		"field":                        {"n", jsonBody(`{"n":5}`), 5, 0, 0},
		"field without content type":   {"n", body("", `{"n":5}`), 5, 0, 0},
		"nested":                       {"usage.total_tokens", jsonBody(`{"usage":{"in":1,"total_tokens":12},"total_tokens":99}`), 12, 0, 0},
		"in an array":                  {"items.1.n", jsonBody(`{"items":[{"n":3},{"n":4},{"n":5}]}`), 4, 0, 0},
		"of an array":                  {"0.n", jsonBody(`[{"n":3},{"n":4}]`), 3, 0, 0},
		"zero":                         {"n", jsonBody(`{"n":0}`), 0, 0, 0},
		"exponent":                     {"n", jsonBody(`{"n":1.5e2}`), 150, 0, 0},
		"twice, the last":              {"n", jsonBody(`{"n":5,"n":6}`), 6, 0, 0},
		"behind a huge body":           {"n", jsonBody(`{"x":"`, strings.Repeat(`\"padding `, 300_000), `","n":8}`), 8, 0, 0},
		"behind what is nested deeply": {"n", jsonBody(`{"x":`, strings.Repeat(`[{"n":[`, 50_000), strings.Repeat(`]}]`, 50_000), `,"n":8}`), 8, 0, 0},
		"cut in pieces":                {"n", jsonBody(`{"`, `n`, `"`, `:`, `1`, `2`, `}`), 12, 0, 0},
		"string":                       {"n", jsonBody(`{"n":"5"}`), 1, 1, 0},
		"negative field":               {"n", jsonBody(`{"n":-5}`), 1, 1, 0},
		"true":                         {"n", jsonBody(`{"n":true}`), 1, 1, 0},
		"past float64":                 {"n", jsonBody(`{"n":1e999}`), 1, 1, 0},
		"absurdly long":                {"n", jsonBody(`{"n":` + strings.Repeat("1", 100) + `}`), 1, 1, 0},
		"not a number":                 {"n", jsonBody(`{"n":NaN}`), 1, 1, 0},
		"infinity":                     {"n", jsonBody(`{"n":Infinity}`), 1, 1, 0},
		"hexadecimal":                  {"n", jsonBody(`{"n":0x10}`), 1, 1, 0},
		"null":                         {"n", jsonBody(`{"n":null}`), 1, 0, 1},
		"object":                       {"n", jsonBody(`{"n":{"n":5}}`), 1, 0, 1},
		"missing":                      {"n", jsonBody(`{"m":5}`), 1, 0, 1},
		"deeper than it should be":     {"n", jsonBody(`{"m":{"n":5}}`), 1, 0, 1},
		"no body":                      {"n", func(http.ResponseWriter, *http.Request) {}, 1, 0, 1},
		"no JSON":                      {"n", body("text/html", `<p class="n">5</p>`), 1, 0, 1},
		"said to be compressed, and is not": {"n", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, `{"n":5}`)
		}, 5, 0, 0},
		"a sum":                      {"in + out", jsonBody(`{"in":2,"out":3}`), 5, 0, 0},
		"a sum of which one is told": {"in+out", jsonBody(`{"out":3}`), 3, 0, 0},
		"a sum with a string":        {"in+out", jsonBody(`{"in":"x","out":3}`), 1, 1, 0},
		"a sum with a negative":      {"in+out", jsonBody(`{"in":-1,"out":3}`), 1, 1, 0},
		"Anthropic, one answer":      {"usage.total_tokens", jsonBody(`{"type":"message","usage":{"input_tokens":12,"output_tokens":30}}`), 42, 0, 0},
		"OpenAI, one answer":         {"usage.total_tokens", jsonBody(`{"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":30,"total_tokens":42}}`), 42, 0, 0},
		"OpenAI responses, one":      {"usage.total_tokens", jsonBody(`{"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":42}}`), 42, 0, 0},
		"a message is no envelope":   {"usage.total_tokens", jsonBody(`{"message":{"usage":{"total_tokens":3}}}`), 1, 0, 1},
		"many documents":             {"n", body("application/x-ndjson", `{"n":5}`+"\n", `{"m":6}`+"\n"), 5, 0, 0},

		"lines":                           {"n", body("application/x-ndjson", `{"n":5}`+"\n", `{"n":6}`+"\n"), 6, 0, 0},
		"lines, the last without its end": {"n", body("application/x-ndjson; charset=utf-8", `{"n":5}`+"\n"+`{"n":6}`), 6, 0, 0},
		"lines, one of them broken":       {"n", body("application/jsonl", "{\"x\":\"\n", "{\"n\":7}\n", "}}]]{\n"), 7, 0, 0},
		"records":                         {"n", body("application/json-seq", "\x1e{\"n\":\n5}\n\x1e{\"x\n", "\x1e{\"n\":\n8}\n"), 8, 0, 0},
		"Ollama":                          {"prompt_eval_count+eval_count", body("application/x-ndjson", `{"message":{"content":"a"},"done":false}`+"\n", `{"done":true,"prompt_eval_count":26,"eval_count":14}`+"\n"), 40, 0, 0},
		"OpenAI, a stream":                {"usage.total_tokens", sse("data: {\"choices\":[{\"delta\":{}}],\"usage\":null}\n\n", "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12}}\n\ndata: [DONE]\n\n"), 12, 0, 0},
		"OpenAI responses, a stream":      {"usage.total_tokens", sse("event: response.created\ndata: {\"response\":{\"usage\":null}}\n\n", "event: response.completed\ndata: {\"response\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":7,\"total_tokens\":12}}}\n\n"), 12, 0, 0},
		"Anthropic, a stream":             {"usage.total_tokens", sse(anthropic...), 40, 0, 0},
		"Anthropic, by name":              {"usage.input_tokens + usage.output_tokens", sse(anthropic...), 40, 0, 0},
		"Anthropic, cut off":              {"usage.total_tokens", sse(anthropic[:2]...), 26, 0, 0},

		"last event":                  {"n", sse("data: {\"n\":1}\n\n", "data: {\"n\":2}\n\n"), 2, 0, 0},
		"DONE":                        {"usage.n", sse("data: {\"usage\":null}\n\ndata: {\"usage\":{\"n\":7}}\n\n", "data: [DONE]\n\n"), 7, 0, 0},
		"CRLF":                        {"n", sse("event: x\r\ndata: {\"n\":3}\r\n\r\ndata: [DONE]\r\n\r\n"), 3, 0, 0},
		"CR":                          {"n", sse("data: {\"n\":3}\r\rdata: {\"n\":4}\r\r"), 4, 0, 0},
		"no blank line at the end":    {"n", sse("data: {\"n\":3}\n\ndata: {\"n\":4}"), 4, 0, 0},
		"no line's end":               {"n", sse("data:{\"n\":4}"), 4, 0, 0},
		"an event in lines":           {"n", sse("data: {\"m\":1,\ndata: \"n\"\ndata: :9}\n\n"), 9, 0, 0},
		"a comment":                   {"n", sse(": {\"n\":1}\n\ndata: {\"n\":5}\n\n: {\"n\":2}\n\n"), 5, 0, 0},
		"other fields":                {"n", sse("id: {\"n\":1}\ndata2: {\"n\":1}\ndatum: {\"n\":1}\ndata: {\"n\":5}\nretry: {\"n\":7}\n\n"), 5, 0, 0},
		"broken events in between":    {"n", sse("data: {\"x\":\"\n\n", "data: {{{[[\n\n", "data: hello {\n\n", "data: {\"n\":6}\n\n", "data: \"\\\n\n"), 6, 0, 0},
		"an event cut in its figure":  {"n", sse("data: {\"n\":1}\n\ndata: {\"n\":2"), 1, 0, 0},
		"no event has it":             {"n", sse("data: {\"m\":1}\n\n"), 1, 0, 1},
		"JSON that is no event":       {"n", sse("{\"n\":5}"), 1, 0, 1},
		"void status":                 {"", status(500, ok), 0, 0, 0},
		"void status, but set":        {"", status(500, set(4)), 4, 0, 0},
		"void status, but told":       {"n", status(500, jsonBody(`{"n":4}`)), 4, 0, 0},
		"void status, field missing":  {"n", status(500, ok), 0, 0, 0},
		"a status that is charged":    {"", status(404, ok), 1, 0, 0},
		"informational is no status":  {"", status(103, status(204, func(http.ResponseWriter, *http.Request) {})), 1, 0, 0},
		"set after the response":      {"n", func(w http.ResponseWriter, r *http.Request) { jsonBody(`{"n":4}`)(w, r); set(2)(w, r) }, 2, 0, 0},
		"the second of two fields":    {"a|b", jsonBody(`{"b":4}`), 4, 0, 0},
		"both, in the order of names": {"b|a", jsonBody(`{"b":4,"a":3}`), 3, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, func(s *sockettest.Server) {
				if tc.field != "" {
					var policies []sockettest.Policy
					for field := range strings.SplitSeq(tc.field, "|") {
						policies = append(policies, tracked(field))
					}
					s.SetPolicies(policies...)
				}
			}, func(c *core.Config) { c.PoolSize, c.VoidStatus = 1, func(status int) bool { return status >= 500 } })
			h.do(h.route("/x", tc.handler), get("/x"))
			s := h.settled(1)
			if u := h.use(); u.Amount != tc.want {
				t.Errorf("amount %v, want %v", u.Amount, tc.want)
			}
			if s.InvalidAmounts != tc.invalid || s.UnknownAmounts != tc.unknown {
				t.Errorf("invalid %d, want %d; unknown %d, want %d", s.InvalidAmounts, tc.invalid, s.UnknownAmounts, tc.unknown)
			}
			if (s.Voided == 1) != (tc.want == 0) || s.Settled+s.Voided != 1 {
				t.Errorf("stats %+v", s)
			}
			for text, n := range map[string]int64{"an amount is negative": tc.invalid, "did not tell the amount": tc.unknown} {
				if h.logs.Count(text) != int(min(n, 1)) {
					t.Errorf("log:\n%s", h.logs)
				}
			}
		})
	}
}

// Tracking that a policy has switched off costs and says nothing.
func TestTrackingSwitchedOff(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		p := tracked("n")
		p.IsResponseTrackingEnabled = false
		s.SetPolicies(p)
	})
	h.do(h.route("/x", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"n":5}`) }), get("/x"))
	if u := h.use(); u.Amount != 1 {
		t.Errorf("amount %v", u.Amount)
	}
	if s := h.settled(1); s.UnknownAmounts != 0 {
		t.Errorf("stats %+v", s)
	}
}

// What is said after the end is too late, and harms nothing.
func TestCallAfterItsEnd(t *testing.T) {
	h := newHarness(t, nil)
	var call *core.Call
	h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) { call = core.FromContext(r.Context()) }), get("/x"))
	call.SetAmount(50)
	call.AddAmount(50)
	call.Void()
	call.End(200)
	call.Abort()
	call.Wrote(http.Header{}, []byte("x"))
	if u := h.use(); u.Amount != 1 {
		t.Errorf("amount %v", u.Amount)
	}
	if s := h.settled(1); s.Admitted != 1 || s.LateAmounts != 3 {
		t.Errorf("stats %+v", s)
	}
	if h.logs.Count("after its request had ended") != 1 {
		t.Errorf("log:\n%s", h.logs)
	}
}

// Every method does nothing on a nil Call.
func TestNilCall(t *testing.T) {
	call := core.FromContext(context.Background())
	if call != nil {
		t.Fatal("a call from nowhere")
	}
	call.SetAmount(1)
	call.AddAmount(1)
	call.Void()
	call.End(200)
	call.Abort()
	call.Wrote(http.Header{}, []byte("x"))
	call.WroteString(http.Header{}, "x")
	call.Hold()()
	if s := call.AllocationID() + call.RequestID() + call.Alias(); s != "" {
		t.Errorf("got %q", s)
	}
}

// Handlers may set amounts from many goroutines.
func TestAmountsConcurrently(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) })
	h.do(h.route("/x", func(w http.ResponseWriter, r *http.Request) {
		call := core.FromContext(r.Context())
		done := make(chan struct{})
		for range 50 {
			go func() { call.AddAmount(2); done <- struct{}{} }()
		}
		for i := range 50 {
			_, _ = fmt.Fprintf(w, `{"n":%d}`, i)
			<-done
		}
	}), get("/x"))
	if u := h.use(); u.Amount != 100 {
		t.Errorf("amount %v", u.Amount)
	}
}
