package core_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// boaster says that it has written more than it was given, as writers do that buffer.
type boaster struct {
	*httptest.ResponseRecorder
	by int
}

func (b boaster) Write(p []byte) (int, error) {
	n, err := b.ResponseRecorder.Write(p)
	return n + b.by, err
}

func (b boaster) WriteString(s string) (int, error) {
	n, err := b.ResponseRecorder.WriteString(s)
	return n + b.by, err
}

// What a handler has written is what it gave, whatever the writer below says.
func TestWriterThatBoasts(t *testing.T) {
	for _, by := range []int{1_000_000, 20, -1000} {
		h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) })
		body := []byte(`{"n":5}{"n":900000}`)
		w := boaster{httptest.NewRecorder(), by}
		h.route("/x", func(w http.ResponseWriter, _ *http.Request) {
			if n, err := w.Write(body[:7]); n != 7+by || err != nil {
				t.Errorf("got %d, %v", n, err)
			}
			_, _ = io.WriteString(w, " ")
		}).ServeHTTP(w, get("/x"))
		want := 5.0
		if by < 0 {
			want = 1 // nothing was written, it says
		}
		if u := h.use(); u.Amount != want {
			t.Errorf("by %d: amount %v", by, u.Amount)
		}
	}
}

// The status that is settled is the one that went out: not of what failed before a byte was sent, nor of what came too late.
func TestStatusOfFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		outside func(http.Handler) http.Handler
		status  float64
	}{
		"a copy that fails at once": {func(w http.ResponseWriter, _ *http.Request) {
			if _, err := io.Copy(w, iotest.ErrReader(errors.New("backend"))); err != nil {
				http.Error(w, "no", http.StatusBadGateway)
			}
		}, nil, 502},
		"a copy that fails later": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.Copy(w, io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(errors.New("backend"))))
		}, nil, 200},
		"an answer that comes too late": {func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
			for {
				if _, err := io.WriteString(w, "late"); errors.Is(err, http.ErrHandlerTimeout) {
					return
				}
			}
		}, func(next http.Handler) http.Handler { return http.TimeoutHandler(next, time.Millisecond, "timeout") }, 503},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, nil, func(c *core.Config) { c.VoidStatus = func(status int) bool { return status >= 500 } })
			handler := h.route("/x", tc.handler)
			if tc.outside != nil {
				handler = tc.outside(handler)
			}
			ts := h.listen(handler)
			resp, err := ts.Client().Get(ts.URL + "/x")
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			u := h.use()
			if float64(resp.StatusCode) != tc.status || u.Metadata["responseStatusCode"] != tc.status || (u.Amount == 0) != (tc.status >= 500) {
				t.Errorf("got %d, settled %v with status %v", resp.StatusCode, u.Amount, u.Metadata["responseStatusCode"])
			}
		})
	}
}

// Middleware outside sees the pattern that the mux inside has found.
func TestPatternIsSeenOutside(t *testing.T) {
	h := newHarness(t, nil)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /x/{id}", ok)
	r := get("/x/7")
	h.do(h.route("/x/:id", mux.ServeHTTP), r)
	if r.Pattern != "GET /x/{id}" {
		t.Errorf("pattern %q", r.Pattern)
	}
	h.settled(1)
}

// A handler that passes its context on to another request does not take that one past its blocks and limits; the same route
// is metered once.
func TestRequestsWithinRequests(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(limited(policy("GET", "/limited", "", "")))
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/secret"})
		s.Limit("GET /limited", 1)
	})
	inner := map[string]http.Handler{"/secret": h.route("/secret", ok), "/limited": h.route("/limited", ok), "/other": h.route("/other", ok), "/batch": h.route("/batch", ok)}
	got := make(map[string][]int)
	h.do(h.route("/batch", func(_ http.ResponseWriter, r *http.Request) {
		for range 2 {
			for path, handler := range inner {
				method := "GET"
				if path == "/batch" {
					method = "POST" // the outer one's
				}
				got[path] = append(got[path], h.do(handler, request(method, path, nil).WithContext(r.Context())).Code)
			}
		}
	}), request("POST", "/batch", nil))
	for path, want := range map[string][2]int{"/secret": {403, 403}, "/limited": {200, 429}, "/other": {200, 200}, "/batch": {200, 200}} {
		if got[path][0] != want[0] || got[path][1] != want[1] {
			t.Errorf("%s: got %v, want %v", path, got[path], want)
		}
	}
	h.settled(2)
	aliases := []string{h.uses(2)[0].Alias, h.uses(2)[1].Alias}
	if strings.Join(aliases, ", ") != "GET /limited, POST /batch" {
		t.Errorf("aliases %q", aliases)
	}
}
