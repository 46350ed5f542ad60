package export_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/export"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// double stands for a receiver, which is an HTTP server here and none of the real ones.
type double struct {
	mu       sync.Mutex
	requests []received
	answer   func(n int, r received) (status int, header, body string)
}

type received struct {
	header http.Header
	body   string
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	got := received{r.Header, string(body)}
	d.requests = append(d.requests, got)
	status, header, text := d.answer(len(d.requests), got)
	if status == 0 {
		panic(http.ErrAbortHandler) // the answer is lost
	}
	if name, value, ok := strings.Cut(header, ": "); ok {
		w.Header().Set(name, value)
	}
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func openStore(t *testing.T, dir string) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(sqlite.Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func settle(t *testing.T, s *sqlite.Store, alias, id string, amount service.Micros) {
	t.Helper()
	if _, err := service.Settle(t.Context(), s, service.Settlement{Application: "acme", Alias: alias, ID: id, Amount: amount}); err != nil {
		t.Fatal(err)
	}
}

// noted is an outbox that tells of each delivery that it has noted.
type noted struct {
	*sqlite.Store
	tell chan struct{}
}

func (n noted) Delivered(ctx context.Context, export string, last uint64) error {
	err := n.Store.Delivered(ctx, export, last)
	n.tell <- struct{}{}
	return err
}

// run runs an exporter until it has delivered that many, and returns its log.
func run(t *testing.T, s *sqlite.Store, r export.Receiver, deliveries uint64) (*export.Exporter, string) {
	t.Helper()
	log := &logtest.Buffer{}
	outbox := noted{s, make(chan struct{}, 100)}
	e := &export.Exporter{
		Name: "x", Outbox: outbox, Receiver: r, Logger: slog.New(slog.NewTextHandler(log, nil)), Poll: time.Millisecond, MaxDelay: 10 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.Run(ctx)
	}()
	for timeout, all := time.After(30*time.Second), false; !all; {
		select {
		case <-outbox.tell:
			left, err := s.Undelivered(t.Context(), "x", 100)
			if err != nil {
				t.Fatal(err)
			}
			all = len(left) == 0
		case <-timeout:
			t.Fatalf("%d delivered of %d: %s", e.Delivered(), deliveries, log)
		}
	}
	cancel()
	<-ended
	if e.Delivered() != deliveries {
		t.Errorf("%d delivered, want %d", e.Delivered(), deliveries)
	}
	return e, log.String()
}

func TestCloudEvents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := openStore(t, dir)
	settle(t, s, "GET /before ann", "before", 1e6)
	if err := s.SetExports(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	settle(t, s, "GET /a ann lee", "1", 2.5e6)
	settle(t, s, "GET /b", "2", 1e6)
	settle(t, s, "GET /b", "void", 0)
	d := &double{answer: func(n int, _ received) (int, string, string) {
		switch n {
		case 1:
			return 500, "", "not now"
		case 2:
			return 0, "", "" // taken, and the answer lost
		default:
			return 409, "", "" // known
		}
	}}
	server := httptest.NewServer(d)
	defer server.Close()
	e, log := run(t, s, export.NewCloudEvents(server.URL, "secret"), 2)
	if e.Failures() != 2 || strings.Count(log, "is failing") != 1 || strings.Count(log, "works again") != 1 || strings.Contains(log, "secret") {
		t.Errorf("%d failures, log %s", e.Failures(), log)
	}
	// What was delivered stays so over a restart, and what is not is delivered then.
	settle(t, s, "GET /c bob", "3", 7)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir)
	defer s.Close()
	if err := s.SetExports(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	run(t, s, export.NewCloudEvents(server.URL, "secret"), 1)

	type event struct {
		SpecVersion, ID, Source, Type, Subject, Time string
		Data                                         struct {
			Application, Alias, AllocationID string
			Amount                           float64
		}
	}
	var batches [][]event
	for _, r := range d.requests {
		if r.header.Get("Authorization") != "Bearer secret" || !strings.HasPrefix(r.header.Get("Content-Type"), "application/cloudevents-batch+json") {
			t.Errorf("header %v", r.header)
		}
		var batch []event
		if err := json.Unmarshal([]byte(r.body), &batch); err != nil {
			t.Fatal(err)
		}
		batches = append(batches, batch)
	}
	if len(batches) != 4 || len(batches[0]) != 2 || len(batches[2]) != 2 || len(batches[3]) != 1 {
		t.Fatalf("batches %+v", batches)
	}
	first := batches[0][0]
	if first != batches[2][0] {
		t.Errorf("an event changes from %+v to %+v", first, batches[2][0])
	}
	if first.SpecVersion != "1.0" || first.ID != "acme/1" || first.Subject != "ann lee" || first.Data.Amount != 2.5 || first.Data.Alias != "GET /a ann lee" || first.Type == "" || first.Source == "" {
		t.Errorf("event %+v", first)
	}
	if last := batches[3][0]; last.ID != "acme/3" || last.Data.Amount != 7e-6 {
		t.Errorf("event %+v", last)
	}
	if left, err := s.Undelivered(t.Context(), "x", 10); err != nil || len(left) != 0 {
		t.Errorf("left: %+v, %v", left, err)
	}
}

func TestStripe(t *testing.T) {
	s := openStore(t, t.TempDir())
	defer s.Close()
	if err := s.SetExports(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	settle(t, s, "GET /a cus_ann", "1", 2.5e6)
	settle(t, s, "GET /a", "nobody", 5e6)
	settle(t, s, "GET /a cus_bob", "2", 3e6)
	seen := map[string]bool{}
	var retryAfter time.Time
	d := &double{}
	d.answer = func(n int, r received) (int, string, string) {
		form := parseForm(t, r.body)
		identifier := form["identifier"]
		switch {
		case n == 1:
			retryAfter = time.Now().Add(time.Second)
			return 429, "Retry-After: 1", `{"error":{"message":"too many"}}`
		case n == 2:
			if time.Now().Before(retryAfter.Add(-50 * time.Millisecond)) {
				t.Error("it came back before it was asked to")
			}
			seen[identifier] = true
			return 0, "", ""
		case n == 4:
			return 400, "", `{"error":{"type":"invalid_request_error","message":"something else is wrong with ` + identifier + `"}}`
		case seen[identifier]:
			return 400, "Stripe-Should-Retry: false", `{"error":{"type":"invalid_request_error","message":"An event already exists with identifier ` + identifier + `."}}`
		}
		seen[identifier] = true
		return 200, "", `{"object":"billing.meter_event"}`
	}
	server := httptest.NewServer(d)
	defer server.Close()
	stripe := export.NewStripe("sk_test", "api_requests", 0.5)
	stripe.URL = server.URL
	e, _ := run(t, s, stripe, 3)
	if e.Failures() != 3 || len(seen) != 2 {
		t.Errorf("%d failures, %d events", e.Failures(), len(seen))
	}
	last := parseForm(t, d.requests[len(d.requests)-1].body)
	at, err := strconv.ParseInt(last["timestamp"], 10, 64)
	if last["event_name"] != "api_requests" || last["payload[stripe_customer_id]"] != "cus_bob" || last["payload[value]"] != "6" || len(last["identifier"]) > 100 || err != nil || time.Since(time.Unix(at, 0)).Abs() > time.Minute {
		t.Errorf("event %v", last)
	}
	if got := d.requests[0].header.Get("Authorization"); got != "Bearer sk_test" {
		t.Errorf("Authorization %q", got)
	}
}

func parseForm(t *testing.T, body string) map[string]string {
	t.Helper()
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if err := r.ParseForm(); err != nil {
		t.Error(err)
	}
	form := map[string]string{}
	for name, values := range r.PostForm {
		form[name] = values[0]
	}
	return form
}

// A receiver that is down ends nothing, and Run ends with its context.
func TestReceiverIsDown(t *testing.T) {
	s := openStore(t, t.TempDir())
	defer s.Close()
	if err := s.SetExports(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	settle(t, s, "GET /a ann", "1", 1e6)
	ctx, cancel := context.WithCancel(t.Context())
	e := &export.Exporter{Name: "x", Outbox: s, Receiver: downReceiver{cancel}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), MaxDelay: time.Millisecond}
	e.Run(ctx)
	if left, err := s.Undelivered(t.Context(), "x", 10); err != nil || len(left) != 1 || e.Delivered() != 0 {
		t.Errorf("left %+v, %v", left, err)
	}
}

type downReceiver struct{ stop func() }

func (r downReceiver) Deliver(context.Context, []service.Settled) (int, error) {
	r.stop()
	return 0, errors.New("down")
}
