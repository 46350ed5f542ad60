package middlewaretest

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// testServerSentEvents: each event arrives as it is written, and the last one tells the amount.
func testServerSentEvents(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, track("usage.total_tokens"))
	read := make(chan struct{})
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: {\"text\":\"%d\"}\n\n", i)
			flush(w)
			<-read
		}
		_, _ = io.WriteString(w, "data: {\"usage\":{\"total_tokens\":321}}\n\ndata: [DONE]")
	})})
	resp, err := ts.Client().Do(a.request(ts, "POST", "/x", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 3 {
		if line, err := lines.ReadString('\n'); line != fmt.Sprintf("data: {\"text\":\"%d\"}\n", i) {
			t.Fatalf("got %q, %v", line, err)
		}
		_, _ = lines.ReadString('\n')
		read <- struct{}{} // the next event is written only now
	}
	if rest, err := io.ReadAll(lines); !strings.HasSuffix(string(rest), "data: [DONE]") {
		t.Errorf("got %q, %v", rest, err)
	}
	if use := a.use(1); use.Amount != 321 {
		t.Errorf("amount %v", use.Amount)
	}
	a.Drain(1)
}

// compress is middleware that compresses every answer.
func compress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Del("Content-Length")
		zw := gzip.NewWriter(w)
		defer zw.Close()
		next.ServeHTTP(&compressor{w, zw}, r)
	})
}

type compressor struct {
	http.ResponseWriter
	zip *gzip.Writer
}

func (c *compressor) Write(p []byte) (int, error) { return c.zip.Write(p) }
func (c *compressor) FlushError() error {
	if err := c.zip.Flush(); err != nil {
		return err
	}
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// testCompression: a field is found in what inner middleware compresses, and in what outer middleware will; what can't be
// read is counted and the log says why.
func testCompression(t *testing.T, adapter Adapter) {
	body := `{"text":"` + strings.Repeat("lorem ipsum ", 10_000) + `","n":5}`
	routes := at("/x", func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(body); i += 1000 {
			_, _ = io.WriteString(w, body[i:min(i+1000, len(body))])
			flush(w)
		}
	})
	for name, setup := range map[string]Setup{"behind": {Behind: []Middleware{compress}}, "before": {Before: []Middleware{compress}}} {
		setup.Routes = routes
		a := newApp(t, adapter, track("n"))
		ts := a.serve(setup)
		if got := a.get(ts, "/x"); got.body != body || got.err != nil { // the client decodes what it did not ask for by name
			t.Errorf("%s: got %d bytes, %v", name, len(got.body), got.err)
		}
		if use := a.use(1); use.Amount != 5 {
			t.Errorf("%s: amount %v", name, use.Amount)
		}
		a.Drain(1)
	}
	a := newApp(t, adapter, track("n"))
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Encoding", "br")
		_, _ = io.WriteString(w, "\x0b\x03\x80binary\x03")
	})})
	for i := range 2 {
		a.get(ts, "/x")
		if use := a.use(i + 1); use.Amount != 1 {
			t.Errorf("amount %v", use.Amount)
		}
	}
	if s := a.Flow.Stats(); s.UnknownAmounts != 2 || s.Unreadable != 2 || strings.Count(a.logs.String(), "encoded (br)") != 1 {
		t.Errorf("stats %+v, log:\n%s", s, a.logs)
	}
	a.Drain(2)
}

// testWebSocket: a WebSocket is settled when it is closed, also where its handler has returned before.
func testWebSocket(t *testing.T, adapter Adapter) {
	for _, returns := range []bool{false, true} {
		a := newApp(t, adapter, nil)
		returned := make(chan struct{})
		ts := a.serve(Setup{
			Before: []Middleware{func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { defer close(returned); next.ServeHTTP(w, r) })
			}},
			Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
				ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				call := core.FromContext(r.Context())
				talk := func() {
					defer ws.Close()
					for {
						kind, text, err := ws.ReadMessage()
						if err != nil {
							return
						}
						call.AddAmount(float64(len(text)))
						_ = ws.WriteMessage(kind, text)
					}
				}
				if returns {
					go talk()
				} else {
					talk()
				}
			}),
		})
		ws, resp, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(ts.URL, "http")+"/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if returns {
			<-returned
		}
		for range 3 {
			_ = ws.WriteMessage(websocket.TextMessage, []byte("hello"))
			if _, text, err := ws.ReadMessage(); string(text) != "hello" {
				t.Errorf("got %q, %v", text, err)
			}
		}
		if s := a.Flow.Stats(); s.Pending != 1 {
			t.Errorf("returns %v: stats %+v", returns, s)
		}
		_ = ws.Close()
		if use := a.use(1); use.Amount != 15 || use.Metadata["responseStatusCode"] != 101.0 {
			t.Errorf("returns %v: settlement %+v", returns, use)
		}
		<-returned
		a.Drain(1)
	}
}

// testCutOff: a client that leaves in the middle of a stream is charged as the policy for it says.
func testCutOff(t *testing.T, adapter Adapter) {
	for cutOff, want := range map[core.CutOff]float64{core.CutOffObserved: 6, core.CutOffReserved: 1, core.CutOffVoid: 0} {
		a := newApp(t, adapter, track("n"), func(c *core.Config) { c.CutOff = cutOff })
		ctx, cancel := context.WithCancel(t.Context())
		ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/x-ndjson")
			_, _ = io.WriteString(w, "{\"n\":6}\n")
			flush(w)
			<-r.Context().Done()
			_, _ = io.WriteString(w, "{\"m\":7}\n")
		})})
		resp, err := ts.Client().Do(a.request(ts, "GET", "/x", nil).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		_ = resp.Body.Close()
		if use := a.use(1); use.Amount != want {
			t.Errorf("policy %d: amount %v, want %v", cutOff, use.Amount, want)
		}
		a.Drain(1)
	}
}

// testTimeout: where http.TimeoutHandler answers in the place of a handler, its status is what is settled, also where the handler has
// written before.
func testTimeout(t *testing.T, adapter Adapter) {
	for name, before := range map[string]string{"nothing was written": "", "an answer was begun": "begun"} {
		a := newApp(t, adapter, nil, func(c *core.Config) { c.VoidStatus = func(status int) bool { return status >= 500 } })
		handler := adapter.New(Setup{Flows: []*core.Flow{a.Flow}, Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
			if before != "" {
				_, _ = io.WriteString(w, before)
			}
			<-r.Context().Done()
			for {
				if _, err := io.WriteString(w, "late"); errors.Is(err, http.ErrHandlerTimeout) {
					return
				}
			}
		})})
		got := a.send(listen(t, http.TimeoutHandler(handler, time.Millisecond, "timeout")), "GET", "/x", nil)
		if use := a.use(1); got.status != 503 || got.body != "timeout" || use.Metadata["responseStatusCode"] != 503.0 || use.Amount != 0 {
			t.Errorf("%s: got %s\nsettlement %+v", name, got, use)
		}
		a.Drain(1)
	}
}

// testProxyAborts: a reverse proxy whose backend breaks off panics with http.ErrAbortHandler. The client sees the broken
// answer, and the call is settled with what was seen.
func testProxyAborts(t *testing.T, adapter Adapter) {
	for _, recovers := range []bool{false, true} {
		if recovers && adapter.NoRecovery {
			continue
		}
		a := newApp(t, adapter, track("n"))
		backend := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"n":4,`)
			flush(w)
			if r.Header.Get("X-Break") != "" {
				panic(http.ErrAbortHandler)
			}
			_, _ = io.WriteString(w, strings.Repeat(" ", 992)+"}")
		}))
		target, err := url.Parse(backend.URL)
		if err != nil {
			t.Fatal(err)
		}
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.ErrorLog = backend.Config.ErrorLog
		ts := a.serve(Setup{Routes: at("/x", proxy.ServeHTTP), RecoverBefore: recovers})
		// POST: a client sends a GET again where its connection ends without an answer.
		if got := a.send(ts, "POST", "/x", nil); got.err != nil || len(got.body) != 1000 {
			t.Errorf("recovers %v: got %s", recovers, got)
		}
		if got := a.send(ts, "POST", "/x", nil, "X-Break", "1"); got.err == nil {
			t.Errorf("recovers %v: got %s", recovers, got)
		}
		for _, use := range a.Uses(2) {
			if use.Amount != 4 {
				t.Errorf("recovers %v: settlement %+v", recovers, use)
			}
		}
		a.Drain(2)
	}
}

// testPanics: a panic goes on, is answered as without the middleware, and is settled, wherever the router's own recovery
// stands, and without it.
func testPanics(t *testing.T, adapter Adapter) {
	for _, tc := range []struct {
		name           string
		before, behind bool
		value          any
		set            bool
		want           float64
	}{
		{"recovery before", true, false, "boom", false, 0},
		{"recovery before, set", true, false, "boom", true, 4},
		{"no recovery", false, false, "boom", false, 0},
		{"abort", true, false, http.ErrAbortHandler, false, 0},
		{"abort, no recovery", false, false, http.ErrAbortHandler, false, 0},
		{"recovery behind: a 500", false, true, "boom", false, 1},
		{"recovery behind, a set 500", false, true, "boom", true, 4},
		{"an error", true, false, io.ErrUnexpectedEOF, false, 0},
	} {
		if adapter.NoRecovery && (tc.before || tc.behind) {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			a := newApp(t, adapter, nil)
			setup := Setup{RecoverBefore: tc.before, RecoverBehind: tc.behind, Routes: at("/x", func(_ http.ResponseWriter, r *http.Request) {
				if tc.set {
					core.FromContext(r.Context()).SetAmount(4)
				}
				panic(tc.value)
			})}
			got, want := a.send(a.serve(setup), "POST", "/x", nil), a.send(a.bare(setup), "POST", "/x", nil)
			if got.status != want.status || (got.err == nil) != (want.err == nil) || got.body != want.body {
				t.Errorf("got %s\nwithout the middleware %s", got, want)
			}
			if use := a.use(1); use.Amount != tc.want || use.Metadata["responseStatusCode"] != 500.0 {
				t.Errorf("amount %v, metadata %v", use.Amount, use.Metadata)
			}
			a.Drain(1)
		})
	}
}

// testWithoutFlow: where there is no flow, and where there is no configuration yet, requests pass.
func testWithoutFlow(t *testing.T, adapter Adapter) {
	ts := listen(t, adapter.New(Setup{Flows: []*core.Flow{nil}, Routes: at("/x", ok)}))
	a := &App{t: t, adapter: adapter}
	if got := a.get(ts, "/x"); got.status != 200 || got.body != "ok" {
		t.Errorf("got %s", got)
	}
	a = newApp(t, adapter, nil)
	unserved, err := core.New(core.Config{APIKey: "key", URL: "ws://127.0.0.1:1/ws", Logger: slog.New(slog.DiscardHandler)}) // nothing listens there
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unserved.Shutdown(t.Context()) }()
	setup := Setup{Flows: []*core.Flow{unserved}, Routes: at("/x", ok)}
	ts = a.serve(setup)
	for range 10 {
		if got := a.get(ts, "/x"); got.status != 200 || got.body != "ok" {
			t.Errorf("got %s", got)
		}
	}
	if s := unserved.Stats(); s.Unmetered != 10 {
		t.Errorf("stats %+v", s)
	}
}
