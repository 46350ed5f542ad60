package core_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func bodyPolicy(s *sockettest.Server) { s.SetPolicies(policy("POST", "/x", "body", "customer")) }

// What the handler reads is the same with and without the flow: the same bytes, and the same error.
func TestHandlerReadsTheSameBody(t *testing.T) {
	h := newHarness(t, bodyPolicy, func(c *core.Config) { c.MaxBodyBytes = 10_000 })
	large := `{"customer":"acme","x":"` + strings.Repeat("x", 20_000) + `"}`
	failing := func(text string) func() io.Reader {
		return func() io.Reader {
			return io.MultiReader(strings.NewReader(text), iotest.ErrReader(errors.New("wire cut")))
		}
	}
	text := func(text string) func() io.Reader { return func() io.Reader { return strings.NewReader(text) } }
	bodies := map[string]func() io.Reader{
		"small":      text(`{"customer":"acme"}`),
		"large":      text(large),
		"at limit":   text(large[:9_000] + strings.Repeat(" ", 1_000)),
		"past limit": text(large[:9_000] + strings.Repeat(" ", 1_001)),
		"text":       text("plain text that is no JSON"),
		"binary":     text("\x00\xff{\"customer\":\"acme\"}"),
		"blanks":     text(strings.Repeat(" ", 5_000)),
		"empty":      text(""),
		"one byte":   func() io.Reader { return iotest.OneByteReader(strings.NewReader(`  {"customer":"acme"}`)) },
		"data, err":  func() io.Reader { return iotest.DataErrReader(strings.NewReader(`{"customer":"acme"}`)) },
		"broken":     failing(`{"customer":"ac`),
		"cut":        failing(""),
		"cut text":   failing("no JSON"),
	}
	types := []string{"", "application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense;;"}
	for name, body := range bodies {
		for _, contentType := range types {
			for _, maxBytes := range []string{"none", "outside", "inside"} {
				for _, known := range []bool{true, false} {
					t.Run(fmt.Sprintf("%s/%s/%s/%v", name, contentType, maxBytes, known), func(t *testing.T) {
						run := func(wrap func(http.Handler) http.Handler) (got []byte, outcome string) {
							handler := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
								if maxBytes == "inside" {
									r.Body = http.MaxBytesReader(w, r.Body, 10)
								}
								var err error
								got, err = io.ReadAll(iotest.HalfReader(r.Body))
								_, again := r.Body.Read(make([]byte, 1))
								outcome = fmt.Sprintf("%v %T, again %v, length %d", err, err, again, r.ContentLength)
								_ = r.Body.Close()
							}))
							handler = wrap(handler)
							r := request("POST", "/x", body(), "Content-Type", contentType)
							if !known {
								r.ContentLength = -1
							}
							if maxBytes == "outside" {
								r.Body = http.MaxBytesReader(nil, r.Body, 10)
							}
							h.do(handler, r)
							return got, outcome
						}
						want, wantOutcome := run(func(next http.Handler) http.Handler { return next })
						got, outcome := run(func(next http.Handler) http.Handler { return h.route("/x", next.ServeHTTP) })
						if !bytes.Equal(got, want) || outcome != wantOutcome {
							t.Errorf("got %d bytes, %s; want %d, %s", len(got), outcome, len(want), wantOutcome)
						}
					})
				}
			}
		}
	}
}

// The error of http.MaxBytesReader reaches the handler as itself.
func TestMaxBytesErrorIsKept(t *testing.T) {
	h := newHarness(t, bodyPolicy)
	var err error
	handler := h.route("/x", func(_ http.ResponseWriter, r *http.Request) { _, err = io.Copy(io.Discard, r.Body) })
	r := request("POST", "/x", strings.NewReader(`{"customer":"acme"}`))
	r.Body = http.MaxBytesReader(nil, r.Body, 5)
	h.do(handler, r)
	var tooLarge *http.MaxBytesError
	if !errors.As(err, &tooLarge) || tooLarge.Limit != 5 {
		t.Errorf("got %v", err)
	}
	if a := h.use().Alias; a != "POST /x" {
		t.Errorf("alias %q", a)
	}
}

// Over HTTP: read after Close, close without reading, and a body that ends early.
func TestBodyOverHTTP(t *testing.T) {
	h := newHarness(t, bodyPolicy)
	outcome := make(chan string, 1)
	handler := func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Close") != "" {
			_ = r.Body.Close()
		}
		got, err := io.ReadAll(r.Body)
		outcome <- fmt.Sprintf("%d %v", len(got), err)
	}
	with, without := h.listen(h.route("/x", handler)), h.listen(http.HandlerFunc(handler))
	send := func(url, head, body string) string {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "POST /x HTTP/1.1\r\nHost: x\r\n%s\r\n%s", head, body)
		_ = conn.(*net.TCPConn).CloseWrite()
		return <-outcome
	}
	for _, tc := range []struct{ head, body string }{
		{"Content-Length: 19\r\nX-Close: 1\r\n", `{"customer":"acme"}`},
		{"Content-Length: 19\r\n", `{"customer":"acme"}`},
		{"Content-Length: 30\r\n", `{"customer":"acme"}`},
		{"Transfer-Encoding: chunked\r\n", "13\r\n{\"customer\":\"acme\"}\r\n0\r\n\r\n"},
		{"Transfer-Encoding: chunked\r\n", "13\r\n{\"customer\":\"acme\"}\r\n"},
		{"Transfer-Encoding: chunked\r\n", "13\r\n{\"customer\":\"acme\"}\r\nzz"},
	} {
		if got, want := send(with.URL, tc.head, tc.body), send(without.URL, tc.head, tc.body); got != want {
			t.Errorf("%q %q: got %s, want %s", tc.head, tc.body, got, want)
		}
	}
}

// The handler starts before a slow upload ends, unless identity is in the body.
func TestHandlerStartsBeforeTheUploadEnds(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(policy("POST", "/header", "headers", "X-User"), policy("POST", "/text", "body", "customer"), policy("POST", "/body", "body", "customer"))
	}, func(c *core.Config) { c.Capture.RequestBody = true })
	mux := http.NewServeMux()
	handler := func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := rc.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, "started\n")
		_ = rc.Flush()
		_, _ = io.Copy(w, r.Body)
	}
	for _, pattern := range []string{"/header", "/text", "/body"} {
		mux.Handle(pattern, h.route(pattern, handler))
	}
	ts := h.listen(mux)
	for _, tc := range []struct{ path, first, rest string }{
		{"/header", `{"customer":"a`, `cme"}`},
		{"/text", "no JSON, so that there is nothing to look ", "for"},
	} {
		body, upload := io.Pipe()
		r, _ := http.NewRequest("POST", ts.URL+tc.path, body)
		go func() { _, _ = io.WriteString(upload, tc.first) }()
		resp, err := http.DefaultClient.Do(r) // it answers while the upload is going on
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(resp.Body)
		if line, err := lines.ReadString('\n'); line != "started\n" {
			t.Errorf("%s: got %q, %v", tc.path, line, err)
		}
		_, _ = io.WriteString(upload, tc.rest)
		_ = upload.Close()
		if echo, err := io.ReadAll(lines); string(echo) != tc.first+tc.rest {
			t.Errorf("%s: got %q, %v", tc.path, echo, err)
		}
		_ = resp.Body.Close()
	}
	resp, err := http.Post(ts.URL+"/body", "text/plain", strings.NewReader(`{"customer":"acme"}`))
	if err != nil {
		t.Fatal(err)
	}
	if echo, _ := io.ReadAll(resp.Body); string(echo) != "started\n"+`{"customer":"acme"}` {
		t.Errorf("got %q", echo)
	}
	_ = resp.Body.Close()
	h.settled(3)
	http.DefaultClient.CloseIdleConnections()
}

// A body is not touched where no policy needs it.
func TestBodyIsNotTouched(t *testing.T) {
	h := newHarness(t, nil)
	body := io.NopCloser(iotest.ErrReader(errors.New("it was read")))
	r := request("POST", "/x", body)
	r.Body = body
	h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) {
		if r.Body != body {
			t.Errorf("the body was replaced by %T", r.Body)
		}
	}), r)
	h.use()
}

// A larger body than MaxBodyBytes has no identity, whether or not it says its length.
func TestLargeBodyHasNoIdentity(t *testing.T) {
	h := newHarness(t, bodyPolicy, func(c *core.Config) { c.MaxBodyBytes = 50 })
	for i, length := range []int64{0, -1} {
		r := request("POST", "/x", strings.NewReader(`{"customer":"acme","x":"`+strings.Repeat("x", 100)+`"}`))
		if length < 0 {
			r.ContentLength = -1
		}
		h.do(h.route("/x", ok), r)
		if u := h.uses(i + 1); u[i].Alias != "POST /x" {
			t.Errorf("alias %q", u[i].Alias)
		}
	}
}

// A proxy's transport reads the body in one goroutine and closes it in another.
func TestBodyIsReadAndClosedAtOnce(t *testing.T) {
	h := newHarness(t, bodyPolicy)
	handler := h.route("/x", func(_ http.ResponseWriter, r *http.Request) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = io.Copy(io.Discard, iotest.OneByteReader(r.Body))
		}()
		_ = r.Body.Close()
		<-done
	})
	ts := h.listen(handler)
	for range 50 {
		resp, err := http.Post(ts.URL, "", strings.NewReader(`{"customer":"acme"}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	h.settled(50)
}
