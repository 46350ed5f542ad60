package middlewaretest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// testAnswers sends the same requests to routers with the middleware and without it: the answers are the same, to the byte.
func testAnswers(t *testing.T, adapter Adapter) {
	file := filepath.Join(t.TempDir(), "file.json")
	if err := os.WriteFile(file, []byte(`{"n":9,"x":"0123456789"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	modified := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tracked := range []bool{false, true} {
		a := newApp(t, adapter, nil)
		if tracked {
			a = newApp(t, adapter, track("n"))
		}
		served := 0
		for name, tc := range map[string]struct {
			handler http.HandlerFunc
			fields  []string
			status  int // 0: the router's own matter
		}{
			"nothing":        {func(http.ResponseWriter, *http.Request) {}, nil, 200},
			"a status":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }, nil, 202},
			"no content":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, nil, 204},
			"a body":         {ok, nil, 200},
			"an error":       {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusConflict) }, nil, 409},
			"a redirect":     {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/y", http.StatusSeeOther) }, nil, 303},
			"an empty write": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(nil) }, nil, 200},
			"header fields":  {func(w http.ResponseWriter, r *http.Request) { w.Header()["X-A"] = []string{"1", "2"}; ok(w, r) }, nil, 200},
			"a known length": {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "2"); ok(w, r) }, nil, 200},
			"a short body":   {func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "9"); ok(w, r) }, nil, 200},
			"a long body": {func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write(bytes.Repeat([]byte("0123456789"), 100_000))
			}, nil, 200},
			"flushed pieces":   {func(w http.ResponseWriter, r *http.Request) { ok(w, r); flush(w); ok(w, r) }, nil, 200},
			"a flushed header": {func(w http.ResponseWriter, _ *http.Request) { flush(w) }, nil, 200},
			"a file":           {func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, nil, 200},
			"a range":          {func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, []string{"Range", "bytes=2-5"}, 206},
			"two ranges": {func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "x.txt", modified, strings.NewReader("0123456789"))
			}, []string{"Range", "bytes=7-8"}, 206},
			"a bad range": {func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }, []string{"Range", "bytes=900-"}, 416},
			"not modified": {func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "x.txt", modified, strings.NewReader("abc"))
			}, []string{"If-Modified-Since", modified.Format(http.TimeFormat)}, 304},
			"a copy": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.Copy(w, strings.NewReader(`{"n":3}`)) }, nil, 200},
			"trailers": {func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Trailer", "X-Sum")
				ok(w, r)
				w.Header().Set("X-Sum", "abc")
				w.Header().Set(http.TrailerPrefix+"X-Late", "def")
			}, nil, 200},
			"informational": {func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Link", "</a.css>; rel=preload")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Link")
				ok(w, r)
			}, nil, 0},
			"two statuses": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201); w.WriteHeader(202); ok(w, r) }, nil, 0},
		} {
			setup := Setup{Routes: at("/x", tc.handler)}
			with, without := a.serve(setup), a.bare(setup)
			for _, method := range []string{"GET", "HEAD", "POST"} {
				got, hints := a.sendTraced(with, method, tc.fields)
				want, wantHints := a.sendTraced(without, method, tc.fields)
				served++
				if got.String() != want.String() || hints != wantHints {
					t.Errorf("%s %s (tracked %v): got %d informational answers and %s\nwithout the middleware %d and %s", method, name, tracked, hints, got, wantHints, want)
				}
				use := a.use(served)
				if status := use.Metadata["responseStatusCode"]; tc.status != 0 && method != "POST" && status != float64(tc.status) {
					t.Errorf("%s %s: settled with status %v, want %d", method, name, status, tc.status)
				}
			}
			with.Close()
			without.Close()
		}
		a.Drain(int64(served))
	}
}

// sendTraced counts the informational answers too.
func (a *App) sendTraced(ts *httptest.Server, method string, fields []string) (got answer, hints int) {
	r := a.request(ts, method, "/x", nil, fields...)
	trace := &httptrace.ClientTrace{Got1xxResponse: func(int, textproto.MIMEHeader) error { hints++; return nil }}
	got = a.do(ts, r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	got.header.Del("Last-Modified") // the file's
	return got, hints
}

func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

// interfaces are those of a response writer that handlers look for.
func interfaces(w http.ResponseWriter) string {
	var list []string
	add := func(name string, ok bool) {
		if ok {
			list = append(list, name)
		}
	}
	_, flusher := w.(http.Flusher)
	_, hijacker := w.(http.Hijacker)
	_, pusher := w.(http.Pusher)
	_, readerFrom := w.(io.ReaderFrom)
	_, stringWriter := w.(io.StringWriter)
	add("Flusher", flusher)
	add("Hijacker", hijacker)
	add("Pusher", pusher)
	add("ReaderFrom", readerFrom)
	add("StringWriter", stringWriter)
	return strings.Join(list, " ")
}

// testInterfaces: a handler's writer has the interfaces that it has without the middleware, over HTTP/1 and over HTTP/2.
func testInterfaces(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	setup := Setup{Routes: at("/x", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, interfaces(w)) })}
	with, without := a.serve(setup), a.bare(setup)
	if got, want := a.get(with, "/x").body, a.get(without, "/x").body; got != want {
		t.Errorf("HTTP/1: got %s, without the middleware %s", got, want)
	}
	// What is copied goes to the ReadFrom of the writer below, where it does without the middleware: so does a file, by sendfile.
	copies := 0
	setup.Before = []Middleware{func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(&copier{w, &copies}, r) })
	}}
	setup.Routes = at("/x", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, struct{ io.Reader }{strings.NewReader("copy")})
	})
	with, without = a.serve(setup), a.bare(setup)
	if got := a.get(without, "/x").body; got != "copy" {
		t.Errorf("got %q", got)
	}
	want := copies
	if got := a.get(with, "/x").body; got != "copy" || copies != 2*want {
		t.Errorf("got %q; %d calls of ReadFrom, without the middleware %d", got, copies-want, want)
	}
	setup.Before, setup.Routes = nil, at("/x", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, interfaces(w)) })
	with, without = a.serveHTTP2(setup, true), a.serveHTTP2(setup, false)
	if got, want := a.get(with, "/x").body, a.get(without, "/x").body; got != want {
		t.Errorf("HTTP/2: got %s, without the middleware %s", got, want)
	}
	a.Drain(3)
}

// copier counts the calls of its ReadFrom.
type copier struct {
	http.ResponseWriter
	copies *int
}

func (c *copier) ReadFrom(r io.Reader) (int64, error) {
	*c.copies++
	return io.Copy(c.ResponseWriter, r)
}

func (c *copier) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// serveHTTP2 is serve or bare over HTTP/2.
func (a *App) serveHTTP2(s Setup, metered bool) *httptest.Server {
	a.t.Helper()
	if metered {
		s.Flows = append(s.Flows, a.Flow)
	}
	ts := httptest.NewUnstartedServer(a.adapter.New(s))
	ts.EnableHTTP2 = true
	ts.StartTLS()
	a.t.Cleanup(ts.Close)
	return ts
}

// testPush pushes: Go's client takes no pushes, which a handler is told as without the middleware.
func testPush(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	setup := Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
		pusher, ok := w.(http.Pusher)
		if !ok {
			if own, has := w.(interface{ Pusher() http.Pusher }); has { // gin's
				pusher, ok = own.Pusher(), own.Pusher() != nil
			}
		}
		if !ok {
			_, _ = fmt.Fprint(w, r.Proto, " no pusher")
			return
		}
		_, _ = fmt.Fprint(w, r.Proto, " ", pusher.Push("/style.css", nil))
	})}
	got, want := a.get(a.serveHTTP2(setup, true), "/x"), a.get(a.serveHTTP2(setup, false), "/x")
	if got.String() != want.String() || !strings.HasPrefix(got.body, "HTTP/2.0 ") {
		t.Errorf("got %s\nwithout the middleware %s", got, want)
	}
	a.Drain(1)
}

// testResponseController uses all that http.ResponseController can do.
func testResponseController(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, track("n"))
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.SetReadDeadline(time.Now().Add(time.Hour)), rc.SetWriteDeadline(time.Now().Add(time.Hour)), rc.EnableFullDuplex()); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, `{"n":`)
		if err := rc.Flush(); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, "7}")
		if r.Header.Get("X-Late") != "" {
			if err := rc.SetWriteDeadline(time.Now().Add(-time.Hour)); err != nil {
				t.Error(err)
			}
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err == nil {
				err = rc.Flush()
				if err == nil {
					t.Error("what is written after the deadline is no error")
				}
			}
		}
	})})
	if got := a.get(ts, "/x"); got.body != `{"n":7}` || got.err != nil {
		t.Errorf("got %s", got)
	}
	if got := a.get(ts, "/x", "X-Late", "1"); got.err == nil {
		t.Errorf("after the deadline: got %d bytes", len(got.body))
	}
	for _, use := range a.Uses(2) {
		if use.Amount != 7 {
			t.Errorf("amount %v", use.Amount)
		}
	}
	a.Drain(2)
}

// testFullDuplex answers while the request is still coming.
func testFullDuplex(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		buf := make([]byte, 4)
		for {
			n, err := io.ReadFull(r.Body, buf)
			if n > 0 {
				_, _ = w.Write(bytes.ToUpper(buf[:n]))
				_ = rc.Flush()
			}
			if err != nil {
				return
			}
		}
	})})
	body, upload := io.Pipe()
	resp, err := func() (*http.Response, error) {
		go func() { _, _ = io.WriteString(upload, "ping") }()
		return ts.Client().Do(a.request(ts, "POST", "/x", body))
	}()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 4)
	for range 3 {
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != "PING" {
			t.Fatalf("got %q, %v", buf, err)
		}
		_, _ = io.WriteString(upload, "ping")
	}
	_ = upload.Close()
	if rest, err := io.ReadAll(resp.Body); string(rest) != "PING" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
	a.Drain(1)
}
