package sockettest_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestDefaultsAllowEverything(t *testing.T) {
	srv := sockettest.New(t)
	c := dial(t, srv)

	r := c.call(reserve("1", "GET /a", "mine"))
	if r.Refused() || r.ReplyTo != "1" || r.ID != "" || payload(t, r, "allocationId") != "mine" {
		t.Errorf("reservation with an id: got %+v", r)
	}
	r = c.call(reserve("2", "GET /a", ""))
	made, _ := payload(t, r, "allocationId").(string)
	if len(made) != 36 {
		t.Errorf("made allocation id = %q, want a UUID", made)
	}
	c.send(use("", "GET /a", "mine")) // one-way: the next reply is to the next message
	if r = c.call(use("3", "GET /a", made)); r.Refused() || r.ReplyTo != "3" {
		t.Errorf("use: got %+v", r)
	}
	if r = c.call(socket.UsageFlowSocketMessage{Type: "no_such_type", ID: "4"}); !r.Refused() {
		t.Errorf("unknown type: got %+v, want a refusal", r)
	}
	if got := len(srv.Messages(socket.TypeUseAllocation)); got != 2 {
		t.Errorf("recorded uses = %d, want 2", got)
	}
	if got, want := srv.Count(), len(srv.Messages()); got != want || want != 5 {
		t.Errorf("Count() = %d, Messages() = %d, want 5", got, want)
	}
	if err := errors.Join(srv.CheckOrder(), srv.CheckProtocol()); err != nil {
		t.Error(err)
	}
	if key := srv.HandshakeHeaders()[0].Get("x-usage-key"); key != "key" {
		t.Errorf("recorded key = %q", key)
	}
}

func TestCatalog(t *testing.T) {
	srv := sockettest.New(t)
	c := dial(t, srv)
	get := func(msgType string) string {
		t.Helper()
		r := c.call(socket.UsageFlowSocketMessage{Type: msgType, ID: msgType})
		b, err := json.Marshal(r.Payload)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	check := func(msgType, want string) {
		t.Helper()
		if got := get(msgType); got != want {
			t.Errorf("%s:\n got %s\nwant %s", msgType, got, want)
		}
	}
	check(socket.TypeGetPolicies, `{"accountReachLimit":false,"policies":[],"total":0}`)
	check(socket.TypeGetConfig, `{"accountReachLimit":false,"discoveryDisabled":false,"monitoringPaths":[],"whitelistEndpoints":[]}`)
	check(socket.TypeGetBlockedEndpoints, `{"endpoints":[],"total":0}`)

	srv.SetPolicies(sockettest.Policy{
		Method: "GET", URL: "/a", IdentityFieldName: "X-User", IdentityFieldLocation: "headers",
		HasRateLimit: true, ResponseTrackingField: "n", IsResponseTrackingEnabled: true,
	})
	srv.SetConfig(sockettest.Config{
		MonitoringPaths: []sockettest.Endpoint{{Method: "*", URL: "*"}}, AccountReachLimit: true,
	})
	srv.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/b", Identity: "acme"})
	check(socket.TypeGetPolicies, `{"accountReachLimit":true,"policies":[{"hasRateLimit":true,"identityFieldLocation":"headers","identityFieldName":"X-User","isResponseTrackingEnabled":true,"method":"GET","responseTrackingField":"n","type":"API","url":"/a"}],"total":1}`)
	check(socket.TypeGetConfig, `{"accountReachLimit":true,"discoveryDisabled":false,"monitoringPaths":[{"method":"*","url":"*"}],"whitelistEndpoints":[]}`)
	check(socket.TypeGetBlockedEndpoints, `{"endpoints":[{"identity":"acme","method":"GET","url":"/b"}],"total":1}`)
}

func TestLimit(t *testing.T) {
	srv := sockettest.New(t)
	srv.Limit("GET /a acme", 2)
	c := dial(t, srv)

	for i, want := range []float64{1, 0, 0} { // the last one is resent, and counts once
		id := []string{"a", "b", "b"}[i]
		r := c.call(reserve("1", "GET /a acme", id))
		if r.Refused() || payload(t, r, "remaining") != want || payload(t, r, "limit") != 2.0 {
			t.Errorf("reservation %d: got %+v, want %v remaining", i, r, want)
		}
	}
	r := c.call(reserve("2", "GET /a acme", "c"))
	if r.Type != socket.TypeError || r.Error != "rate_limit_exceeded" || payload(t, r, "remaining") != 0.0 || payload(t, r, "windowSeconds") != 60.0 {
		t.Errorf("beyond the limit: got %+v", r)
	}
	if resetAt, _ := payload(t, r, "resetAt").(float64); time.Until(time.UnixMilli(int64(resetAt))) > time.Minute {
		t.Errorf("resetAt = %v, want within a minute", resetAt)
	}
	if r = c.call(reserve("3", "GET /a other", "d")); r.Refused() {
		t.Errorf("another alias: got %+v", r)
	}
	srv.Limit("GET /a acme", 1)
	if r = c.call(reserve("4", "GET /a acme", "e")); r.Refused() {
		t.Errorf("after a new limit: got %+v", r)
	}
}

func TestLimitWindowPassesInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.LimitWindow("GET /a", 1, time.Hour)
		c := dial(t, srv)
		if r := c.call(reserve("1", "GET /a", "a")); r.Refused() {
			t.Fatalf("first: got %+v", r)
		}
		if r := c.call(reserve("2", "GET /a", "b")); !r.Refused() {
			t.Fatalf("second: got %+v, want a refusal", r)
		}
		<-time.After(time.Hour) // the bubble's clock
		if r := c.call(reserve("3", "GET /a", "c")); r.Refused() {
			t.Fatalf("in the next window: got %+v", r)
		}
		_ = c.ws.Close()
		srv.Close() // a bubble waits for every goroutine: none may be left
	})
}

func TestCheckOrder(t *testing.T) {
	srv := sockettest.New(t)
	c := dial(t, srv)
	c.call(reserve("1", "GET /a", "a"))
	c.call(use("2", "GET /a", "a"))
	if err := srv.CheckOrder(); err != nil {
		t.Errorf("in order: %v", err)
	}
	c.call(use("3", "GET /a", "b"))
	c.call(reserve("4", "GET /a", "b"))
	if err := srv.CheckOrder(); err == nil || !strings.Contains(err.Error(), `"b"`) {
		t.Errorf("use before reservation: got %v", err)
	}
}

func TestCheckProtocol(t *testing.T) {
	for name, frame := range map[string]string{
		"no JSON":       `{`,
		"no type":       `{"id":"1"}`,
		"no alias":      `{"type":"request_for_allocation","payload":{"amount":1}}`,
		"no amount":     `{"type":"request_for_allocation","payload":{"alias":"GET /a"}}`,
		"negative":      `{"type":"request_for_allocation","payload":{"alias":"GET /a","amount":-1}}`,
		"no allocation": `{"type":"use_allocation","payload":{"alias":"GET /a","amount":1}}`,
		"no payload":    `{"type":"use_allocation","payload":null}`,
	} {
		t.Run(name, func(t *testing.T) {
			srv := sockettest.New(t)
			c := dial(t, srv)
			if err := c.ws.WriteMessage(1, []byte(frame)); err != nil {
				t.Fatal(err)
			}
			wait(t, srv, func(r *sockettest.Record) bool { return r.Count() == 1 })
			if srv.CheckProtocol() == nil {
				t.Errorf("CheckProtocol() = nil for %s", frame)
			}
		})
	}
}

func TestWaitForTellsWhatWasSeen(t *testing.T) {
	srv := sockettest.New(t)
	dial(t, srv).call(reserve("1", "GET /a", "a"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err := srv.WaitFor(ctx, func(r *sockettest.Record) bool { return r.Count() == 2 })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 request_for_allocation") {
		t.Errorf("WaitFor = %v", err)
	}
}

func TestConcurrentUse(t *testing.T) {
	srv := sockettest.New(t)
	const conns, each = 8, 50
	var wg sync.WaitGroup
	for range conns {
		c := dial(t, srv)
		wg.Go(func() {
			for range each {
				c.send(reserve("", "GET /a", "x"))
			}
		})
	}
	wait(t, srv, func(r *sockettest.Record) bool { return r.Count(socket.TypeRequestForAllocation) == conns*each })
	wg.Wait()
	for i, m := range srv.Messages() {
		if m.Seq != i+1 || m.Conn < 1 || m.Conn > conns {
			t.Fatalf("message %d: seq %d, connection %d", i, m.Seq, m.Conn)
		}
	}
}

func TestWithoutRecording(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithoutRecording())
	dial(t, srv).call(reserve("1", "GET /a", "a"))
	if n := len(srv.Messages()); n != 0 || srv.Count(socket.TypeRequestForAllocation) != 1 {
		t.Errorf("recorded %d messages, counted %d; want 0 and 1", n, srv.Count())
	}
	if srv.CheckOrder() == nil || srv.CheckProtocol() == nil {
		t.Error("the checks pass although nothing was recorded")
	}
}
