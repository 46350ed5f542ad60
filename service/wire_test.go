package service_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func TestHandshake(t *testing.T) {
	r := start(t, service.Options{MaxConnections: 1})
	for name, test := range map[string]struct {
		header http.Header
		status int
		code   string
	}{
		"no key":     {http.Header{}, 401, "unauthorized"},
		"wrong key":  {http.Header{"x-usage-key": {"nothing"}}, 401, "unauthorized"},
		"web page":   {http.Header{"x-usage-key": {"uf_dev_key"}, "Origin": {"http://elsewhere.example"}}, 403, "forbidden_origin"},
		"other name": {http.Header{"x-usage-key": {"uf_dev_key"}, "Host": {"rebound.example"}}, 403, "forbidden_host"},
	} {
		_, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr+"/ws", test.header)
		if err == nil || resp == nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, readErr := io.ReadAll(resp.Body)
		if got := decode[answer](t, body); readErr != nil || resp.StatusCode != test.status || got.Error != test.code || got.Message == "" {
			t.Errorf("%s: %d %s %v", name, resp.StatusCode, body, readErr)
		}
	}
	r.dial(t, "uf_dev_key")
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr+"/ws", http.Header{"x-usage-key": {"uf_next_key"}})
	if err == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one connection too many: %v %+v", err, resp)
	}
}

func TestAllocations(t *testing.T) {
	r := start(t, service.Options{})
	ws := r.dial(t, "uf_dev_key")
	const alias = "GET /api/reports ann"

	a := ask(t, ws, reserveText("1", alias, "a1", 4))
	want := map[string]any{"allocationId": "a1", "limit": 5.0, "remaining": 1.0, "resetAt": a.Payload["resetAt"], "windowSeconds": 60.0, "policy": "GET /api/reports", "now": a.Payload["now"]}
	if now, _ := a.Payload["now"].(float64); time.Since(time.UnixMilli(int64(now))).Abs() > time.Minute {
		t.Errorf("now is %v", a.Payload["now"])
	}
	if a.Type != "request_for_allocation" || a.ReplyTo != "1" || a.ID != "1" || a.Error != "" || !reflect.DeepEqual(a.Payload, want) {
		t.Errorf("allowed: %+v", a)
	}
	reset := time.UnixMilli(int64(a.Payload["resetAt"].(float64)))
	if until := time.Until(reset); until < 0 || until > time.Minute {
		t.Errorf("resetAt is %v from now", until)
	}
	a = ask(t, ws, reserveText("2", alias, "a2", 2))
	delete(want, "allocationId")
	want["resetAt"], want["now"] = a.Payload["resetAt"], a.Payload["now"]
	if a.Type != "error" || a.ReplyTo != "2" || a.Error != "rate_limit_exceeded" || a.Message == "" || !reflect.DeepEqual(a.Payload, want) {
		t.Errorf("denied: %+v", a)
	}
	a = ask(t, ws, useText("3", alias, "a1", 2.5))
	if want := map[string]any{"allocationId": "a1", "amount": 2.5, "state": "settled"}; a.Type != "use_allocation" || a.ReplyTo != "3" || !reflect.DeepEqual(a.Payload, want) {
		t.Errorf("settled: %+v", a)
	}
	a = ask(t, ws, useText("4", alias, "lost", 1))
	if flagged, _ := a.Payload["flagged"].([]any); len(flagged) == 0 || flagged[0] != "unreserved" {
		t.Errorf("settlement without reservation: %+v", a)
	}
	a = ask(t, ws, `{"type":"request_for_allocation","id":"5","payload":{"alias":"GET /free","amount":1,"metadata":{"responseStatusCode":"odd","method":"GET"}}}`)
	if id, _ := a.Payload["allocationId"].(string); len(id) != 36 || len(a.Payload) != 1 {
		t.Errorf("metered: %+v", a)
	}
	if a = ask(t, ws, useText("6", "GET /other", "a1", 1)); a.Error != "allocation_conflict" || a.ReplyTo != "6" {
		t.Errorf("conflict: %+v", a)
	}
	other := r.dial(t, "uf_other_key")
	if a = ask(t, other, reserveText("1", alias, "a1", 100)); a.Error != "" {
		t.Errorf("another application's ledger: %+v", a)
	}
}

func TestDescriptions(t *testing.T) {
	r := start(t, service.Options{})
	ws := r.dial(t, "uf_dev_key")
	a := ask(t, ws, `{"type":"get_application_policies","payload":null,"id":"p"}`)
	policies, _ := a.Payload["policies"].([]any)
	if a.Type != "get_application_policies" || a.ReplyTo != "p" || len(policies) != 3 || a.Payload["total"] != 3.0 || a.Payload["accountReachLimit"] != false {
		t.Fatalf("policies: %+v", a)
	}
	want := map[string]any{
		"url": "/api/reports", "method": "GET", "type": "API", "identityFieldName": "X-User", "identityFieldLocation": "headers",
		"hasRateLimit": true, "responseTrackingField": "", "isResponseTrackingEnabled": false,
	}
	if !reflect.DeepEqual(policies[0], want) {
		t.Errorf("policy %v, want the documented fields %v", policies[0], want)
	}
	a = ask(t, ws, `{"type":"get_application_config","id":"c"}`)
	want = map[string]any{
		"monitoringPaths":    []any{map[string]any{"method": "*", "url": "*"}},
		"whitelistEndpoints": []any{map[string]any{"method": "GET", "url": "/health"}},
		"accountReachLimit":  false, "discoveryDisabled": false,
	}
	if !reflect.DeepEqual(a.Payload, want) {
		t.Errorf("config: %+v", a)
	}
	a = ask(t, ws, `{"type":"get_blocked_endpoints","id":"b"}`)
	if endpoints, _ := a.Payload["endpoints"].([]any); len(endpoints) != 2 || a.Payload["total"] != 2.0 {
		t.Errorf("blocked: %+v", a)
	}
	a = ask(t, r.dial(t, "uf_other_key"), `{"type":"get_application_config","id":"c"}`)
	if list, ok := a.Payload["monitoringPaths"].([]any); !ok || len(list) != 0 {
		t.Errorf("an empty list is %v", a.Payload["monitoringPaths"])
	}
}

func TestBadMessages(t *testing.T) {
	r := start(t, service.Options{})
	ws := r.dial(t, "uf_dev_key")
	for _, test := range []struct{ message, replyTo, code string }{
		{`{"type":`, "", "invalid_message"},
		{`[]`, "", "invalid_message"},
		{strings.Repeat("[", 20_000), "", "invalid_message"},
		{`{"type":"no_such","id":"1"}`, "1", "unknown_type"},
		{`{"type":"request_for_allocation","id":"2","payload":{"alias":"GET /x"}}`, "2", "invalid_amount"},
		{`{"type":"request_for_allocation","id":"3","payload":{"alias":"GET /x","amount":-1}}`, "3", "invalid_amount"},
		{`{"type":"request_for_allocation","id":"4","payload":{"alias":"GET /x","amount":1e30}}`, "4", "invalid_amount"},
		{`{"type":"request_for_allocation","id":"5","payload":{"alias":"GET /x","amount":"1"}}`, "5", "invalid_message"},
		{`{"type":"request_for_allocation","id":"6","payload":{"amount":1}}`, "6", "invalid_alias"},
		{reserveText("7", "GET /"+strings.Repeat("x", 4096), "a", 1), "7", "invalid_alias"},
		{reserveText("7b", "* * bob", "a", 1), "7b", "invalid_alias"},
		{reserveText("8", "GET /x", strings.Repeat("x", 257), 1), "8", "invalid_allocation_id"},
		{useText("9", "GET /x", "", 1), "9", "invalid_allocation_id"},
		{`{"type":"use_allocation","id":"10","payload":null}`, "10", "invalid_alias"},
	} {
		a := ask(t, ws, test.message)
		if a.Type != "error" || a.Error != test.code || a.ReplyTo != test.replyTo || a.Message == "" {
			t.Errorf("%.80s: %+v", test.message, a)
		}
	}
	if a := ask(t, ws, reserveText("last", "GET /x", "ok", 1)); a.Error != "" {
		t.Errorf("the connection is of no use any more: %+v", a)
	}
}

func TestOneWayAndOrder(t *testing.T) {
	r := start(t, service.Options{})
	ws := r.dial(t, "uf_dev_key")
	send(t, ws, `{"type":"use_allocation","payload":{"alias":"GET /x","amount":-1,"allocationId":"a"}}`)
	const n = 2000
	for i := range n {
		id := strconv.Itoa(i)
		send(t, ws, `{"type":"request_for_allocation","payload":{"alias":"GET /x","amount":1,"allocationId":"`+id+`"}}`)
		send(t, ws, `{"type":"use_allocation","payload":{"alias":"GET /x","amount":2,"allocationId":"`+id+`"}}`)
	}
	if a := ask(t, ws, reserveText("end", "GET /y", "", 1)); a.ReplyTo != "end" {
		t.Fatalf("a one-way message was answered: %+v", a)
	}
	if c := r.ledger.Counters(); c.Reserved != n+1 || c.Settled != n || c.Flagged != 0 {
		t.Errorf("counters %+v", c)
	}
	found, err := r.ledger.Allocations(t.Context(), service.AllocationQuery{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range found[1:] {
		if a.Flags != 0 || a.Charged != 2e6 {
			t.Fatalf("allocation %+v: its settlement came before its reservation", a)
		}
	}
	if log := r.log.String(); !strings.Contains(log, "one-way message was refused") || !strings.Contains(log, "invalid_amount") {
		t.Errorf("the refused one-way message is not in the log: %s", log)
	}
}

func TestTooLargeAndBinary(t *testing.T) {
	r := start(t, service.Options{})
	ws := r.dial(t, "uf_dev_key")
	message := reserveText("1", "GET /x", "", 1)
	if a := ask(t, ws, message+strings.Repeat(" ", 1<<20-len(message))); a.Error != "" {
		t.Fatalf("a message of 1 MiB: %+v", a)
	}
	_ = ws.WriteMessage(websocket.TextMessage, make([]byte, 10<<20)) // it may be cut off
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("a message of 10 MiB: %v, want 1009", err)
	}
	ws = r.dial(t, "uf_dev_key")
	if err := ws.WriteMessage(websocket.BinaryMessage, []byte(message)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseUnsupportedData) {
		t.Errorf("a binary message: %v, want 1003", err)
	}
}

func TestPingAndClose(t *testing.T) {
	r := start(t, service.Options{})
	ws := r.dial(t, "uf_dev_key")
	pong := make(chan string, 1)
	ws.SetPongHandler(func(data string) error { pong <- data; return nil })
	if err := ws.WriteControl(websocket.PingMessage, []byte("hello"), time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	ask(t, ws, reserveText("1", "GET /x", "", 1))
	if got := <-pong; got != "hello" {
		t.Errorf("pong %q", got)
	}
	if err := ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4000, "bye"), time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, 4000) {
		t.Errorf("the close frame is answered with %v", err)
	}
}

// TestPeerThatNeverReads floods the service over a connection that nobody reads from.
func TestPeerThatNeverReads(t *testing.T) {
	r := start(t, service.Options{})
	deaf, other := r.dial(t, "uf_dev_key"), r.dial(t, "uf_dev_key")
	cut := make(chan error, 1)
	go func() {
		request := []byte(`{"type":"get_application_policies","id":"` + strings.Repeat("x", 1000) + `"}`)
		for {
			if err := deaf.WriteMessage(websocket.TextMessage, request); err != nil {
				cut <- err
				return
			}
		}
	}()
	for i := 0; ; i++ {
		if a := ask(t, other, reserveText(strconv.Itoa(i), "GET /x", "", 1)); a.Error != "" {
			t.Fatalf("another connection: %+v", a)
		}
		select {
		case <-cut:
			return
		default:
		}
	}
}

// failing is a ledger whose store is broken.
type failing struct{ service.Ledger }

func (failing) SubmitReserve(_ service.Reservation, done func(service.Decision, error)) error {
	go done(service.Decision{}, errors.New("disk full"))
	return nil
}

func (failing) SubmitSettle(service.Settlement, func(service.Receipt, error)) error {
	return service.ErrQueueFull
}

// TestLedgerFailure shows that an outage of the ledger is never told as a denial.
func TestLedgerFailure(t *testing.T) {
	r := start(t, service.Options{Ledger: failing{}})
	for i, message := range []string{reserveText("1", "GET /x", "", 1), useText("1", "GET /x", "a", 1)} {
		ws := r.dial(t, "uf_dev_key")
		send(t, ws, message)
		if _, data, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseTryAgainLater) {
			t.Errorf("message %d: %s, %v, want 1013", i, data, err)
		}
	}
}

func BenchmarkWire(b *testing.B) {
	for _, inFlight := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("inflight=%d", inFlight), func(b *testing.B) { benchmarkWire(b, inFlight) })
	}
}

// Agents are told the documented fields, whatever else there is of a policy.
func TestPoliciesOfAgents(t *testing.T) {
	r, a := startEditable(t, example)
	a.must(200, "PUT", "/applications/acme", `{"planCap":{"limit":9,"window":"month"},"policies":[
		{"method":"GET","url":"/x","hasRateLimit":true,"limits":[{"limit":5,"window":"second","burst":7},{"limit":50,"window":"day"}]},
		{"hasRateLimit":true,"scope":"identity","identityFieldName":"X-User","identityFieldLocation":"headers","limit":5,"window":"day","failClosed":false}]}`)
	got := ask(t, r.dial(t, "uf_dev_key"), `{"type":"get_application_policies","id":"p"}`)
	want := map[string]any{"accountReachLimit": false, "total": 2.0, "policies": []any{
		map[string]any{
			"method": "GET", "url": "/x", "type": "API", "identityFieldName": "", "identityFieldLocation": "", "hasRateLimit": true,
			"responseTrackingField": "", "isResponseTrackingEnabled": false,
		},
		map[string]any{
			"method": "*", "url": "*", "type": "API", "identityFieldName": "X-User", "identityFieldLocation": "headers", "hasRateLimit": true,
			"responseTrackingField": "", "isResponseTrackingEnabled": false, "failClosed": false,
		},
	}}
	if !reflect.DeepEqual(got.Payload, want) {
		t.Errorf("agents get %v", got.Payload)
	}
	got = ask(t, r.dial(t, "uf_dev_key"), `{"type":"get_application_config","id":"c"}`)
	if len(got.Payload) != 4 {
		t.Errorf("agents get %v", got.Payload)
	}
}
