package core_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A panic goes on, and is charged what was set or seen so far, else nothing.
func TestPanics(t *testing.T) {
	for name, tc := range map[string]struct {
		before http.HandlerFunc
		value  any
		want   float64
	}{
		"nothing set":     {func(http.ResponseWriter, *http.Request) {}, "boom", 0},
		"ErrAbortHandler": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "partial") }, http.ErrAbortHandler, 0},
		"set":             {func(_ http.ResponseWriter, r *http.Request) { core.FromContext(r.Context()).SetAmount(3) }, "boom", 3},
		"seen":            {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"n":4,`) }, "boom", 4},
		"nil":             {func(http.ResponseWriter, *http.Request) {}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) })
			handler := h.route("/x", func(w http.ResponseWriter, r *http.Request) {
				tc.before(w, r)
				panic(tc.value)
			})
			func() {
				defer func() {
					if v := recover(); v != tc.value && tc.value != nil {
						t.Errorf("recovered %v", v)
					}
				}()
				h.do(handler, get("/x"))
				t.Error("the panic did not go on")
			}()
			if u := h.use(); u.Amount != tc.want || u.Metadata["responseStatusCode"] != 500.0 {
				t.Errorf("amount %v, want %v; metadata %v", u.Amount, tc.want, u.Metadata)
			}
			h.settled(1)
		})
	}
}

// A client that goes away.
func TestClientAborts(t *testing.T) {
	type gone = func(http.ResponseWriter, *http.Request)
	set := func(r *http.Request) { core.FromContext(r.Context()).SetAmount(2) }
	write := func(w http.ResponseWriter, text string) {
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
	}
	for name, tc := range map[string]struct {
		tracked string
		handler func(http.ResponseWriter, *http.Request, gone)
		want    float64
	}{
		"before the answer":              {"", func(w http.ResponseWriter, r *http.Request, gone gone) { gone(w, r) }, 0},
		"before the answer, set":         {"", func(w http.ResponseWriter, r *http.Request, gone gone) { set(r); gone(w, r) }, 2},
		"after the answer":               {"", func(w http.ResponseWriter, r *http.Request, gone gone) { write(w, "ok"); gone(w, r) }, 1},
		"in a tracked stream, unseen":    {"n", func(w http.ResponseWriter, r *http.Request, gone gone) { write(w, `{"x":1,`); gone(w, r) }, 0},
		"in a tracked stream, seen":      {"n", func(w http.ResponseWriter, r *http.Request, gone gone) { write(w, `{"n":6,`); gone(w, r) }, 6},
		"the handler answers regardless": {"", func(w http.ResponseWriter, r *http.Request, gone gone) { gone(w, r); write(w, "ok") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, func(s *sockettest.Server) {
				if tc.tracked != "" {
					s.SetPolicies(tracked(tc.tracked))
				}
			})
			ctx, cancel := context.WithCancel(t.Context())
			ts := h.listen(h.route("/x", func(w http.ResponseWriter, r *http.Request) {
				tc.handler(w, r, func(_ http.ResponseWriter, r *http.Request) {
					cancel()
					<-r.Context().Done()
				})
			}))
			r, _ := http.NewRequestWithContext(ctx, "GET", ts.URL, nil)
			if resp, err := http.DefaultClient.Do(r); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
			h.settled(1)
			if u := h.use(); u.Amount != tc.want {
				t.Errorf("amount %v, want %v", u.Amount, tc.want)
			}
		})
	}
}

// Only the first end counts.
func TestEndCountsOnce(t *testing.T) {
	h := newHarness(t, nil)
	for range 50 {
		call, _ := h.flow.Begin(t.Context(), &core.Request{Request: get("/x"), Route: "/x"})
		start := make(chan struct{})
		done := make(chan struct{})
		for i := range 8 {
			go func() {
				<-start
				if i%2 == 0 {
					call.End(200)
				} else {
					call.Abort()
				}
				done <- struct{}{}
			}()
		}
		close(start)
		for range 8 {
			<-done
		}
	}
	if s := h.settled(50); s.Admitted != 50 {
		t.Errorf("stats %+v", s)
	}
	h.uses(50)
}

// echo hijacks its connection, upgrades it and echoes one line. closed says who closes it: the handler, later a goroutine
// that outlives it, or nobody.
func echo(t *testing.T, end func(conn net.Conn)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		_ = rw.Flush()
		line, _ := rw.ReadString('\n')
		_, _ = rw.WriteString(line)
		_ = rw.Flush()
		core.FromContext(r.Context()).AddAmount(float64(len(line)))
		end(conn)
	}
}

// upgrade talks to echo and returns when it has answered.
func upgrade(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprint(conn, "GET /x HTTP/1.1\r\nHost: x\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nhello\n")
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "hello\n" {
			return conn
		}
	}
}

// A hijacked request ends when its connection is closed, before or after its handler has returned.
func TestHijackedConnections(t *testing.T) {
	closeLater := make(chan struct{})
	for name, tc := range map[string]struct {
		end   func(net.Conn)
		later bool
	}{
		"closed in the handler": {func(conn net.Conn) { _ = conn.Close() }, false},
		"closed twice":          {func(conn net.Conn) { _ = conn.Close(); _ = conn.Close() }, false},
		"closed by a goroutine": {func(conn net.Conn) { go func() { <-closeLater; _ = conn.Close() }() }, true},
		"closed, then a panic":  {func(conn net.Conn) { _ = conn.Close(); panic(http.ErrAbortHandler) }, false},
		"a panic, then closed": {func(conn net.Conn) {
			go func() { <-closeLater; _ = conn.Close() }()
			panic(http.ErrAbortHandler)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			closeLater = make(chan struct{})
			h := newHarness(t, nil)
			returned := make(chan struct{})
			inner := h.route("/x", echo(t, tc.end))
			ts := h.listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(returned)
				inner.ServeHTTP(w, r)
			}))
			conn := upgrade(t, ts.URL)
			defer conn.Close()
			<-returned
			if tc.later {
				if s := h.flow.Stats(); s.Pending != 1 || s.Settled != 0 {
					t.Errorf("before the close: %+v", s)
				}
				close(closeLater)
			}
			h.settled(1)
			if u := h.use(); u.Amount != 6 {
				t.Errorf("amount %v", u.Amount)
			}
		})
	}
}

// A connection that nobody closes is settled when nobody can any more.
func TestHijackedConnectionIsThrownAway(t *testing.T) {
	h := newHarness(t, nil)
	ts := h.listen(h.route("/x", echo(t, func(net.Conn) { panic(http.ErrAbortHandler) })))
	conn := upgrade(t, ts.URL)
	defer conn.Close()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, conn) // ends when the collector has closed the other end
	}()
	h.collected()
	_ = conn.Close()
	<-closed
}

// What libraries do with a hijacked connection still works.
func TestHijackedConnectionKeepsItsMethods(t *testing.T) {
	h := newHarness(t, nil)
	ts := h.listen(h.route("/x", echo(t, func(conn net.Conn) {
		defer conn.Close()
		if _, ok := conn.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
			t.Error("no TCP connection below")
		}
		if _, err := conn.(syscall.Conn).SyscallConn(); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(conn, bytes.NewReader([]byte("tail"))); n != 4 || err != nil {
			t.Errorf("copied %d, %v", n, err)
		}
		if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	})))
	conn := upgrade(t, ts.URL)
	defer conn.Close()
	_, _ = io.Copy(io.Discard, conn)
	h.settled(1)
}

// The files of an upload are removed with the request, as without the flow.
func TestMultipartFilesAreRemoved(t *testing.T) {
	h := newHarness(t, nil)
	var outer, inner *http.Request
	h.do(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		outer = r
		h.route("/x", func(_ http.ResponseWriter, r *http.Request) {
			inner = r
			if err := r.ParseMultipartForm(0); err != nil {
				t.Error(err)
			}
		}).ServeHTTP(w, r)
	}), request("POST", "/x", strings.NewReader("--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\ncontent\r\n--b--\r\n"), "Content-Type", "multipart/form-data; boundary=b"))
	if outer.MultipartForm == nil || outer.MultipartForm != inner.MultipartForm {
		t.Fatal("the server does not see the form whose files it has to remove")
	}
	_ = outer.MultipartForm.RemoveAll()
}
