package service_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// eventReader reads a stream of events.
type eventReader struct {
	t     *testing.T
	resp  *http.Response
	lines *bufio.Scanner
	close func()
}

type usageEvent struct {
	kind string // of the stream: usage or gap
	id   string

	N                                              uint64
	At                                             int64
	Type, Application, Alias, Policy, AllocationID string
	Amount                                         float64
	Status                                         int
	Reason                                         string
	RequestID                                      string
	Missed                                         uint64
}

// openEvents opens a stream; it has begun when this returns.
func openEvents(t *testing.T, a *admin, query, lastID string) *eventReader {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", a.base+"/api/v1/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range a.header {
		r.Header[name] = values
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	e := &eventReader{t: t, resp: resp, lines: bufio.NewScanner(resp.Body), close: func() { cancel(); resp.Body.Close() }}
	t.Cleanup(e.close)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	if !e.lines.Scan() || e.lines.Text() != ": events" {
		t.Fatalf("it begins with %q", e.lines.Text())
	}
	return e
}

// next waits for an event; false at the end of the stream.
func (r *eventReader) next() (e usageEvent, ok bool) {
	r.t.Helper()
	for r.lines.Scan() {
		line := r.lines.Text()
		switch {
		case strings.HasPrefix(line, "id: "):
			e.id = line[4:]
		case strings.HasPrefix(line, "event: "):
			e.kind = line[7:]
		case strings.HasPrefix(line, "data: "):
			if err := json.Unmarshal([]byte(line[6:]), &e); err != nil {
				r.t.Fatal(err)
			}
			return e, true
		}
	}
	return e, false
}

func TestEvents(t *testing.T) {
	r, a := startEditable(t, example)
	ws := r.dial(t, "uf_dev_key")
	ask(t, ws, reserveText("1", "GET /api/reports ann", "a", 4))
	live := openEvents(t, a, "", "")
	ask(t, ws, reserveText("2", "GET /api/reports ann", "b", 2))
	ask(t, ws, reserveText("3", "GET /api/reports ann", "a", 4)) // a repeat is no event
	send(t, ws, `{"type":"use_allocation","payload":{"alias":"GET /api/reports ann","amount":2.5,"allocationId":"a","metadata":{"responseStatusCode":201}}}`)
	ask(t, ws, useText("4", "GET /free", "c", 0))
	ask(t, ws, reserveText("5", "GET /elsewhere", "a", 1))
	want := []usageEvent{
		{Type: "reserved", Alias: "GET /api/reports ann", Amount: 4, Policy: "GET /api/reports", AllocationID: "a"},
		{Type: "denied", Alias: "GET /api/reports ann", Amount: 2, Policy: "GET /api/reports", AllocationID: "b", Reason: "rate_limit_exceeded"},
		{Type: "settled", Alias: "GET /api/reports ann", Amount: 2.5, AllocationID: "a", Status: 201},
		{Type: "voided", Alias: "GET /free", AllocationID: "c", Reason: "unreserved"},
		{Type: "refused", Alias: "GET /elsewhere", Amount: 1, AllocationID: "a", Reason: "allocation_conflict"},
	}
	for i, w := range want {
		got, ok := live.next()
		if !ok || got.At < 1e12 || got.id != strconv.Itoa(i+1) {
			t.Fatalf("event %d: %+v, %v", i, got, ok)
		}
		w.kind, w.id, w.N, w.At, w.Application = "usage", got.id, uint64(i+1), got.At, "acme"
		if got != w {
			t.Errorf("event %d is %+v, want %+v", i, got, w)
		}
	}
	for query, first := range map[string]string{"?type=denied": "2", "?q=/free": "4", "?application=other": "", "?application=acme&type=settled&q=ann": "3"} {
		stream := openEvents(t, a, query, "")
		if first != "" {
			if got, _ := stream.next(); got.id != first {
				t.Errorf("%s begins with %+v", query, got)
			}
		}
		stream.close()
	}
	if got, _ := openEvents(t, a, "", "3").next(); got.id != "4" {
		t.Errorf("after 3 comes %+v", got)
	}
	if got, _ := openEvents(t, a, "", "99").next(); got.id != "1" {
		t.Errorf("after an id of another life comes %+v", got)
	}
	r.shutdown(t)
	if got, ok := live.next(); ok {
		t.Errorf("after the service has stopped: %+v", got)
	}
	noGoroutines(t, "service.(*Service)", "service.(*eventStream)", "service.(*registry)")
}

// useOf is a settlement whose usageflowRequestId is that JSON.
func useOf(alias, id string, amount float64, requestID string) string {
	return fmt.Sprintf(`{"type":"use_allocation","id":%q,"payload":{"alias":%q,"amount":%v,"allocationId":%q,"metadata":{"url":"/jobs","usageflowRequestId":%s}}}`, id, alias, amount, id, requestID)
}

// What a request and its jobs have used is found under the request's id, in whichever ledger and application; what is no
// id is ignored, and is no error.
func TestEventsOfOneRequest(t *testing.T) {
	r, a := startEditable(t, example)
	gateway, worker := r.dial(t, "uf_dev_key"), r.dial(t, "uf_other_key")
	long := strings.Repeat("x", 64)
	for i, c := range []struct {
		alias, requestID string
		amount           float64
	}{
		{"POST /jobs ann", `"7c0e"`, 1}, {"JOB resize ann", `"7c0e"`, 0}, {"POST /jobs bob", `"7c0f"`, 1}, {"GET /free", `"` + long + `"`, 1},
		{"GET /free", `"` + long + `x"`, 1}, {"GET /free", `7`, 1}, {"GET /free", `null`, 1}, {"GET /free", `{"a":"7c0e"}`, 1}, {"GET /free", `""`, 1},
	} {
		ws := gateway
		if i == 1 {
			ws = worker
		}
		id := strconv.Itoa(i + 1)
		if got := ask(t, ws, useOf(c.alias, id, c.amount, c.requestID)); got.Error != "" {
			t.Errorf("requestId %s: %+v", c.requestID, got)
		}
	}
	all := openEvents(t, a, "", "")
	for i, want := range []string{"7c0e", "7c0e", "7c0f", long, "", "", "", "", ""} {
		if got, _ := all.next(); got.RequestID != want || got.id != strconv.Itoa(i+1) {
			t.Errorf("event %d: %+v, want request %q", i+1, got, want)
		}
	}
	live := openEvents(t, a, "?request=7c0e", "")
	ask(t, gateway, useOf("JOB again ann", "10", 2, `"7c0e"`))
	expect := func(stream *eventReader, query string, want ...string) {
		t.Helper()
		for _, w := range want {
			if got, _ := stream.next(); fmt.Sprint(got.id, " ", got.Type, " ", got.Application) != w {
				t.Errorf("%s: %+v, want %s", query, got, w)
			}
		}
	}
	expect(live, "live", "1 settled acme", "2 voided other", "10 settled acme")
	for query, want := range map[string][]string{
		"?request=7c0e&application=other": {"2 voided other"},
		"?request=7c0e&type=settled":      {"1 settled acme", "10 settled acme"},
		"?request=7c0e&q=JOB":             {"2 voided other", "10 settled acme"},
		"?request=7c0f":                   {"3 settled acme"},
	} {
		expect(openEvents(t, a, query, ""), query, want...)
	}
}

// A reader that falls back is told how many events it has missed; one who comes sees 200.
func TestEventsGap(t *testing.T) {
	r, a := startEditable(t, example)
	ws := r.dial(t, "uf_dev_key")
	const n = service.EventRing + 10
	for i := range n {
		send(t, ws, reserveText(strconv.Itoa(i), "GET /free", fmt.Sprint("id", i), 1))
	}
	for range n {
		receive(t, ws)
	}
	stream := openEvents(t, a, "", "5")
	if got, _ := stream.next(); got.kind != "gap" || got.Missed != 5 {
		t.Errorf("got %+v, want a gap of 5", got)
	}
	if got, _ := stream.next(); got.id != "11" {
		t.Errorf("then %+v", got)
	}
	if got, _ := openEvents(t, a, "", "").next(); got.id != strconv.Itoa(n-199) {
		t.Errorf("a new reader begins with %+v", got)
	}
	rates := a.must(200, "GET", "/rates", "")
	sum := 0
	for _, s := range decode[struct{ Seconds []struct{ Reserved int } }](t, rates.body).Seconds {
		sum += s.Reserved
	}
	if sum != n {
		t.Errorf("%d of %d are in the rates", sum, n)
	}
}

// There are only so many streams.
func TestEventsBound(t *testing.T) {
	_, a := startEditable(t, example)
	for range 64 {
		openEvents(t, a, "", "")
	}
	a.refused(503, "unavailable", "GET", "/events", "")
}

// Streams live longer than the server's timeouts.
func TestEventsOutliveTimeouts(t *testing.T) {
	r, a := startEditable(t, example)
	ws := r.dial(t, "uf_dev_key")
	server := httptest.NewUnstartedServer(r.Handler())
	server.Config.ReadTimeout, server.Config.WriteTimeout = 100*time.Millisecond, 100*time.Millisecond
	server.Start()
	defer server.Close()
	stream := openEvents(t, &admin{t: t, base: server.URL, header: a.header}, "", "")
	defer stream.close()
	idle, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if _, err := idle.Read(make([]byte, 1)); err == nil { // it ends when the time of a request is over
		t.Fatal("a silent connection is answered")
	}
	ask(t, ws, reserveText("1", "GET /free", "a", 1))
	if got, ok := stream.next(); !ok || got.AllocationID != "a" {
		t.Errorf("after the timeouts: %+v, %v", got, ok)
	}
}
