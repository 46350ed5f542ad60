package core_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// workers is a broker with a worker whose handler is metered as `JOB <name>`, and a consumer for it.
func workers(t *testing.T, flow *core.Flow, name string, h socket.Handler) *socket.Consumer {
	t.Helper()
	server := socket.NewServer("0", quiet)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	addr, channel := "127.0.0.1:"+server.Port(), uuid.New()
	provider, err := socket.NewProvider(addr, channel, quiet)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = provider.Serve(context.Background(), flow.Handler(name, h))
	}()
	t.Cleanup(func() {
		_ = provider.Close()
		<-served
	})
	consumer, err := socket.NewConsumer(addr, channel, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = consumer.Close() })
	return consumer
}

// send sends one job and returns its whole answer.
func send(t *testing.T, c *socket.Consumer, body string, metadata map[string]string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	answer, err := c.SendContext(ctx, strings.NewReader(body), socket.WithMetadata(metadata))
	if err != nil {
		return "", err
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	return string(text), err
}

// A gateway's request and the job that it causes are charged to the same customer, under the same usageflowRequestId.
func TestHandlerOfAGatewaysJob(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(policy("POST", "/jobs", "headers", "X-User"))
	})
	consumer := workers(t, h.flow, "resize", func(ctx context.Context, r *socket.Request) (io.Reader, error) {
		core.FromContext(ctx).SetAmount(7)
		return strings.NewReader("done"), nil
	})
	route := h.route("/jobs", func(w http.ResponseWriter, r *http.Request) {
		text, err := send(t, consumer, "picture", core.FromContext(r.Context()).Metadata())
		if err != nil || text != "done" {
			t.Errorf("got %q, %v", text, err)
		}
	})
	h.do(route, request(http.MethodPost, "/jobs", nil, "X-User", "acme inc"))
	h.settled(2)
	ids, amounts := map[any]bool{}, map[string]float64{}
	for _, u := range h.uses(2) {
		ids[u.Metadata["usageflowRequestId"]] = true
		amounts[u.Alias] = u.Amount
	}
	if len(ids) != 1 || len(amounts) != 2 || amounts["POST /jobs acme inc"] != 1 || amounts["JOB resize acme inc"] != 7 {
		t.Errorf("ids %v, amounts %v", ids, amounts)
	}
	if m := core.FromContext(t.Context()).Metadata(); m == nil || len(m) != 0 {
		t.Errorf("without a call: %v", m)
	}
}

// What the consumer has read to its end is charged by then, or, where it is a stream, when it ends.
func TestHandlerSettlesBeforeItAnswers(t *testing.T) {
	h := newHarness(t, nil)
	end := make(chan struct{})
	consumer := workers(t, h.flow, "resize", func(ctx context.Context, r *socket.Request) (io.Reader, error) {
		body, err := io.ReadAll(r.Reader)
		switch string(body) {
		case "stream":
			return io.MultiReader(strings.NewReader("one "), readFunc(func([]byte) (int, error) {
				<-end
				core.FromContext(ctx).SetAmount(3)
				return 0, io.EOF
			})), err
		case "broken stream":
			return io.MultiReader(strings.NewReader("one "), iotest.ErrReader(errors.New("broken"))), err
		case "error":
			return nil, errors.New("no such picture")
		case "nothing":
			return nil, nil
		case "panic":
			panic("oh")
		}
		return strings.NewReader("done"), err
	})
	for i, tc := range []struct{ body, answer, err string }{
		{"memory", "done", ""}, {"error", "", "no such picture"}, {"nothing", "", "nil reader"}, {"broken stream", "one ", "broken"},
		{"panic", "", "panicked: oh"},
	} {
		answer, err := send(t, consumer, tc.body, nil)
		if answer != tc.answer || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: got %q, %v", tc.body, answer, err)
		}
		if tc.body == "panic" {
			h.settled(int64(i + 1)) // with nothing
		}
		if n := h.srv.Count(socket.TypeUseAllocation); n != i+1 {
			t.Errorf("%s: %d settlements at the service", tc.body, n)
		}
	}
	answer, err := consumer.SendContext(t.Context(), strings.NewReader("stream"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(answer, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	if n := h.srv.Count(socket.TypeUseAllocation); n != 5 {
		t.Errorf("a stream is charged before its end: %d settlements", n)
	}
	close(end)
	if rest, err := io.ReadAll(answer); len(rest) != 0 || err != nil {
		t.Errorf("the rest: %q, %v", rest, err)
	}
	if u := h.uses(6)[5]; u.Amount != 3 {
		t.Errorf("the stream: %+v", u)
	}
}

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// A worker's denial reaches the gateway as what it is.
func TestHandlerDenies(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(limited(policy("JOB", "resize", "", "")))
		s.SetBlocked(sockettest.Endpoint{Method: "JOB", URL: "resize", Identity: "evil"})
		s.Limit("JOB resize acme", 2)
	})
	ran := 0
	consumer := workers(t, h.flow, "resize", func(context.Context, *socket.Request) (io.Reader, error) {
		ran++
		return strings.NewReader("done"), nil
	})
	acme := map[string]string{socket.MetadataIdentity: "acme"}
	for range 2 {
		if text, err := send(t, consumer, "", acme); text != "done" || err != nil {
			t.Fatalf("got %q, %v", text, err)
		}
	}
	_, err := send(t, consumer, "", acme)
	d := core.Denied(err)
	if d == nil || d.Status != http.StatusTooManyRequests || d.Code != core.CodeRateLimited || d.Header.Get("Retry-After") == "" {
		t.Fatalf("got %v, %+v", err, d)
	}
	w := h.do(d, get("/jobs"))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("RateLimit") == "" {
		t.Errorf("the gateway answers %d, %v", w.Code, w.Header())
	}
	if _, err = send(t, consumer, "", map[string]string{socket.MetadataIdentity: "evil"}); core.Denied(err) == nil || core.Denied(err).Status != http.StatusForbidden {
		t.Errorf("blocked: %v", err)
	}
	if ran != 2 {
		t.Errorf("the handler ran %d times", ran)
	}
	for _, err := range []error{nil, errors.New("usageflow denial: {}"), &socket.RemoteError{Message: "no"}, &socket.RemoteError{Message: "usageflow denial: {"}, &socket.RemoteError{Message: "usageflow denial: {}"}} {
		if core.Denied(err) != nil {
			t.Errorf("%v is a denial", err)
		}
	}
}

// The same work, done again, has the same id; where a run panics, it leaves that to the next one. Other work has others.
func TestJobsThatAreDoneAgain(t *testing.T) {
	h := newHarness(t, nil)
	do := func(job core.Job, fn func(context.Context) error) {
		t.Helper()
		job.Durable = true
		defer func() { _ = recover() }()
		if err := h.flow.Do(t.Context(), job, fn); err != nil {
			t.Error(err)
		}
	}
	job := core.Job{Name: "resize", Identity: "acme", ID: "picture 7"}
	do(job, func(context.Context) error { panic("lost") })
	h.settled(1)
	if n := h.srv.Count(socket.TypeUseAllocation); n != 0 {
		t.Fatalf("%d settlements after a panic", n)
	}
	do(job, nop)
	do(job, nop)
	other := job
	other.Identity = "other"
	do(other, nop)
	other.Identity, other.ID = "acme", "picture 8"
	do(other, nop)
	do(core.Job{Name: "resize", ID: "x", Amount: 2}, func(ctx context.Context) error { core.FromContext(ctx).Void(); return nil })
	h.settled(6)
	ids := charged(h.srv)
	if len(ids) != 4 {
		t.Errorf("%d ids: %v", len(ids), ids)
	}
	for id, n := range ids {
		if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id || n > 2 {
			t.Errorf("id %q came %d times", id, n)
		}
	}
	check(t, h.srv)
}

// A durable job returns when its settlement is confirmed, or on disk; and at once where neither can be.
func TestDurableJobs(t *testing.T) {
	var silent atomic.Bool
	durable := core.Job{Name: "resize", Durable: true}
	t.Run("confirmed", func(t *testing.T) {
		confirm := make(chan struct{})
		h := newHarness(t, func(s *sockettest.Server) {
			s.Handle(func(m sockettest.Message) sockettest.Reply {
				if m.Type == socket.TypeUseAllocation {
					return sockettest.Default().After(confirm)
				}
				return sockettest.Default()
			})
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = h.flow.Do(t.Context(), durable, nop)
		}()
		h.uses(1)
		select {
		case <-done:
			t.Error("Do returned before the confirmation")
		default:
		}
		close(confirm)
		<-done
		if s := h.flow.Stats(); s.Settled != 1 {
			t.Errorf("stats %+v", s)
		}
	})
	t.Run("on disk", func(t *testing.T) {
		silent.Store(true)
		h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(t.TempDir()), func(c *core.Config) { c.Timeout = time.Hour })
		if err := h.flow.Do(t.Context(), durable, nop); err != nil {
			t.Fatal(err)
		}
		if s := h.flow.Stats(); s.Spooled != 1 {
			t.Errorf("stats %+v", s)
		}
	})
	t.Run("nowhere", func(t *testing.T) {
		h := newHarness(t, nil, func(c *core.Config) { c.Timeout = time.Hour })
		h.srv.Stop()
		h.eventually("the connection to be lost", func(core.Stats) bool { return h.logs.Count("disconnected") > 0 })
		if err := h.flow.Do(t.Context(), durable, nop); err != nil {
			t.Fatal(err)
		}
		if s := h.flow.Stats(); s.Pending != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}
