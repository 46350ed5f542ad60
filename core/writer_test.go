package core_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// The parts of which the writers of the next test are made.
type (
	flusher struct{ flushed *int }
	hijack  struct{}
	pusher  struct{}
	reader  struct{}
)

func (f flusher) Flush()                                    { *f.flushed++ }
func (hijack) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, errors.New("hijacked") }
func (pusher) Push(string, *http.PushOptions) error         { return errors.New("pushed") }
func (reader) ReadFrom(r io.Reader) (int64, error) {
	n, _ := io.Copy(io.Discard, r)
	return n + 1000, nil
}

// bare is a writer with no method but the necessary ones.
type bare struct{ w http.ResponseWriter }

func (b bare) Header() http.Header         { return b.w.Header() }
func (b bare) Write(p []byte) (int, error) { return b.w.Write(p) }
func (b bare) WriteHeader(status int)      { b.w.WriteHeader(status) }

// unwrapper is bare, over a writer that http.ResponseController finds.
type unwrapper struct {
	bare
	below http.ResponseWriter
}

func (u unwrapper) Unwrap() http.ResponseWriter { return u.below }

// A handler sees the optional interfaces that the writer below has, and no others.
func TestWriterInterfaces(t *testing.T) {
	h := newHarness(t, nil)
	flushed := 0
	b, f := bare{httptest.NewRecorder()}, flusher{&flushed}
	type all struct {
		bare
		flusher
		hijack
		pusher
		reader
	}
	for name, w := range map[string]http.ResponseWriter{
		"": b,
		"F": struct {
			bare
			flusher
		}{b, f},
		"H": struct {
			bare
			hijack
		}{b, hijack{}},
		"FH": struct {
			bare
			flusher
			hijack
		}{b, f, hijack{}},
		"P": struct {
			bare
			pusher
		}{b, pusher{}},
		"FP": struct {
			bare
			flusher
			pusher
		}{b, f, pusher{}},
		"HP": struct {
			bare
			hijack
			pusher
		}{b, hijack{}, pusher{}},
		"FHP": struct {
			bare
			flusher
			hijack
			pusher
		}{b, f, hijack{}, pusher{}},
		"R": struct {
			bare
			reader
		}{b, reader{}},
		"FR": struct {
			bare
			flusher
			reader
		}{b, f, reader{}},
		"HR": struct {
			bare
			hijack
			reader
		}{b, hijack{}, reader{}},
		"FHR": struct {
			bare
			flusher
			hijack
			reader
		}{b, f, hijack{}, reader{}},
		"PR": struct {
			bare
			pusher
			reader
		}{b, pusher{}, reader{}},
		"FPR": struct {
			bare
			flusher
			pusher
			reader
		}{b, f, pusher{}, reader{}},
		"HPR": struct {
			bare
			hijack
			pusher
			reader
		}{b, hijack{}, pusher{}, reader{}},
		"FHPR": all{b, f, hijack{}, pusher{}, reader{}},
	} {
		call, _ := h.flow.Begin(t.Context(), &core.Request{Request: get("/x"), Route: "/x"})
		wrapped := call.Writer(w)
		got := ""
		if f, ok := wrapped.(http.Flusher); ok {
			got += "F"
			before := flushed
			f.Flush()
			if err := http.NewResponseController(wrapped).Flush(); err != nil || flushed != before+2 {
				t.Errorf("%s: flushed %d times, %v", name, flushed-before, err)
			}
		} else if err := http.NewResponseController(wrapped).Flush(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("%s: flush: %v", name, err)
		}
		if hj, ok := wrapped.(http.Hijacker); ok {
			got += "H"
			if _, _, err := hj.Hijack(); err == nil || err.Error() != "hijacked" {
				t.Errorf("%s: hijack: %v", name, err)
			}
		}
		if p, ok := wrapped.(http.Pusher); ok {
			got += "P"
			if err := p.Push("", nil); err == nil || err.Error() != "pushed" {
				t.Errorf("%s: push: %v", name, err)
			}
		}
		if r, ok := wrapped.(io.ReaderFrom); ok {
			got += "R"
			if n, err := r.ReadFrom(strings.NewReader("1234")); n != 1004 || err != nil {
				t.Errorf("%s: read from: %d, %v", name, n, err)
			}
		}
		if got != name {
			t.Errorf("got %q, want %q", got, name)
		}
		if u := wrapped.Unwrap(); u != w {
			t.Errorf("%s: unwraps to %T", name, u)
		}
		call.End(wrapped.Status())
	}
	h.settled(16)
}

// A connection that is taken over through a writer further below is seen as well.
func TestHijackThroughUnwrap(t *testing.T) {
	h := newHarness(t, nil)
	returned := make(chan struct{})
	stay := make(chan struct{})
	inner := h.route("/x", echo(t, func(conn net.Conn) { go func() { <-stay; _ = conn.Close() }() }))
	ts := h.listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(returned)
		inner.ServeHTTP(unwrapper{bare{w}, w}, r)
	}))
	conn := upgrade(t, ts.URL)
	defer conn.Close()
	<-returned
	if s := h.flow.Stats(); s.Pending != 1 {
		t.Errorf("stats %+v", s)
	}
	close(stay)
	h.settled(1)
}

// Deadlines and flushes work through http.ResponseController, and bodies arrive untouched.
func TestResponseController(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) })
	ts := h.listen(h.route("/x", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.SetReadDeadline(time.Now().Add(time.Hour)), rc.SetWriteDeadline(time.Now().Add(time.Hour)), rc.EnableFullDuplex()); err != nil {
			t.Error(err)
		}
		_, _ = io.WriteString(w, `{"n":`)
		if err := rc.Flush(); err != nil {
			t.Error(err)
		}
		if n, err := io.Copy(w, strings.NewReader("7}")); n != 2 || err != nil {
			t.Errorf("copied %d, %v", n, err)
		}
	}))
	resp, err := http.Get(ts.URL)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(resp.Body); string(text) != `{"n":7}` {
		t.Errorf("got %q, %v", text, err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if u := h.use(); u.Amount != 7 {
		t.Errorf("amount %v", u.Amount)
	}
}

// A file goes out through ReadFrom of the writer below, unless its content has to be looked at.
func TestReaderFromIsKept(t *testing.T) {
	for _, track := range []bool{false, true} {
		h := newHarness(t, func(s *sockettest.Server) {
			if track {
				s.SetPolicies(tracked("n"))
			}
		})
		below := &countingReaderFrom{ResponseRecorder: httptest.NewRecorder()}
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = file.WriteString(`{"n":5}`)
		h.route("/x", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file.Name()) }).ServeHTTP(below, get("/x"))
		_ = file.Close()
		if below.Body.String() != `{"n":5}` || (below.n > 0) == track {
			t.Errorf("tracked %v: %d calls of ReadFrom, body %q", track, below.n, below.Body)
		}
		if u := h.use(); (u.Amount == 5) != track || u.Metadata["responseStatusCode"] != 200.0 {
			t.Errorf("amount %v", u.Amount)
		}
	}
}

type countingReaderFrom struct {
	*httptest.ResponseRecorder
	n int
}

func (c *countingReaderFrom) ReadFrom(r io.Reader) (int64, error) {
	c.n++
	return io.Copy(c.ResponseRecorder, r)
}
