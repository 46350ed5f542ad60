// Package transporttest is the suite that every socket.Transport passes: what core relies on, checked against
// a fake service over real sockets.
//
//	func TestTransport(t *testing.T) {
//		transporttest.Run(t, func(t *testing.T, url string) socket.Transport { … })
//	}
package transporttest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// patience bounds every wait that is to end: a pool takes 5 s and more to find a service again.
const patience = 20 * time.Second

// prompt bounds what is to happen at once, however busy the machine is.
const prompt = 1500 * time.Millisecond

// Open makes a transport to the service at url, with what it needs; the test closes it, and Open sees to the rest. It need not be
// connected yet.
type Open func(t *testing.T, url string) socket.Transport

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, tc := range []struct {
		name string
		run  func(*testing.T, *rig)
	}{
		{"replies", replies},
		{"ids", ids},
		{"refusals", refusals},
		{"many at once", manyAtOnce},
		{"a slow reply stops no other", slowReply},
		{"notifications", notifications},
		{"payloads", payloads},
		{"malformed replies", malformedReplies},
		{"contexts", contexts},
		{"the service is not there", notThere},
		{"the connection is lost", connectionLost},
		{"an outage", outage},
		{"close", closing},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			srv := sockettest.New(t)
			tr := open(t, srv.URL)
			t.Cleanup(func() { _ = tr.Close() })
			tc.run(t, &rig{t: t, srv: srv, transport: tr})
		})
	}
}

type rig struct {
	t         *testing.T
	srv       *sockettest.Server
	transport socket.Transport
}

func reservation(alias string) *socket.UsageFlowSocketMessage {
	return &socket.UsageFlowSocketMessage{Type: socket.TypeRequestForAllocation, Payload: &socket.RequestForAllocation{Alias: alias, Amount: 1}}
}

// call is a Call that succeeds.
func (r *rig) call(m *socket.UsageFlowSocketMessage) *socket.UsageFlowSocketResponse {
	r.t.Helper()
	resp, err := r.transport.Call(r.t.Context(), m)
	if err != nil || resp == nil {
		r.t.Fatalf("Call: %v, %v", resp, err)
	}
	return resp
}

func (r *rig) until(cond func(*sockettest.Record) bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.srv.WaitFor(ctx, cond); err != nil {
		r.t.Fatal(err)
	}
}

// eventually waits until cond holds.
func (r *rig) eventually(what string, cond func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !cond(); <-tick.C {
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain until %s", what)
		}
	}
}

// Every call gets its reply, with the payload as the service sent it.
func replies(t *testing.T, r *rig) {
	r.srv.SetPolicies(sockettest.Policy{URL: "/x", Method: "GET", HasRateLimit: true})
	resp := r.call(&socket.UsageFlowSocketMessage{Type: socket.TypeGetPolicies})
	payload, _ := resp.Payload.(map[string]any)
	list, _ := payload["policies"].([]any)
	if len(list) != 1 || resp.Refused() {
		t.Fatalf("got %+v", resp)
	}
	if p, _ := list[0].(map[string]any); p["url"] != "/x" || p["hasRateLimit"] != true {
		t.Errorf("policy %v", list[0])
	}
	r.srv.Handle(func(sockettest.Message) sockettest.Reply {
		return sockettest.OK(map[string]any{"text": "ü \"quoted\" \u2028", "number": 1.5, "list": []any{nil, true, "x"}, "empty": map[string]any{}})
	})
	payload, _ = r.call(reservation("GET /x")).Payload.(map[string]any)
	if fmt.Sprint(payload) != fmt.Sprint(map[string]any{"text": "ü \"quoted\" \u2028", "number": 1.5, "list": []any{nil, true, "x"}, "empty": map[string]any{}}) {
		t.Errorf("payload %v", payload)
	}
}

// A message without an id gets one that is its own; one with an id keeps it; the message is not changed; and two callers
// may use the same id one after the other.
func ids(t *testing.T, r *rig) {
	for _, style := range []sockettest.ReplyStyle{sockettest.ByReplyTo, sockettest.ByID, sockettest.ByBoth} {
		r.srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.OK(map[string]any{}).Styled(style) })
		m := reservation("GET /x")
		if resp := r.call(m); m.ID != "" || resp.ID+resp.ReplyTo == "" {
			t.Errorf("style %v: message id %q, reply %+v", style, m.ID, resp)
		}
		m.ID = "mine"
		for range 2 {
			resp := r.call(m)
			if resp.ReplyTo != "mine" && (resp.ReplyTo != "" || resp.ID != "mine") {
				t.Errorf("style %v: reply %+v", style, resp)
			}
		}
	}
}

// A refusal is a value, with all that it says.
func refusals(t *testing.T, r *rig) {
	r.srv.Handle(func(sockettest.Message) sockettest.Reply {
		return sockettest.Deny("no more", map[string]any{"limit": 5.0, "remaining": 0.0})
	})
	resp := r.call(reservation("GET /x"))
	payload, _ := resp.Payload.(map[string]any)
	if !resp.Refused() || resp.Error != "rate_limit_exceeded" || resp.Message != "no more" || payload["limit"] != 5.0 {
		t.Errorf("got %+v", resp)
	}
}

// Replies find their calls, however many there are and in whatever order they come.
func manyAtOnce(t *testing.T, r *rig) {
	r.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		ready := make(chan struct{})
		if m.Seq%3 == 0 {
			time.AfterFunc(time.Duration(m.Seq%5)*time.Millisecond, func() { close(ready) })
		} else {
			close(ready)
		}
		return sockettest.OK(map[string]any{"alias": m.Allocation().Alias}).After(ready)
	})
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 30 {
				alias := fmt.Sprintf("GET /%d/%d", i, j)
				resp, err := r.transport.Call(context.Background(), reservation(alias))
				if err != nil {
					t.Errorf("%s: %v", alias, err)
				} else if payload, _ := resp.Payload.(map[string]any); payload["alias"] != alias {
					t.Errorf("%s got %v", alias, resp.Payload)
				}
			}
		})
	}
	wg.Wait()
}

func slowReply(t *testing.T, r *rig) {
	ready := make(chan struct{})
	r.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Allocation().Alias == "slow" {
			return sockettest.OK(map[string]any{}).After(ready)
		}
		return sockettest.OK(map[string]any{})
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	slow := make(chan error, 1)
	go func() {
		_, err := r.transport.Call(ctx, reservation("slow"))
		slow <- err
	}()
	r.until(func(rec *sockettest.Record) bool { return rec.Count(socket.TypeRequestForAllocation) == 1 })
	for range 50 {
		r.call(reservation("quick"))
	}
	close(ready)
	if err := <-slow; err != nil {
		t.Errorf("the slow one: %v", err)
	}
}

// A notification arrives, without an id if it had none, and nothing is awaited.
func notifications(t *testing.T, r *rig) {
	r.call(reservation("first")) // so that it is connected
	for i := range 100 {
		m := &socket.UsageFlowSocketMessage{Type: socket.TypeUseAllocation, Payload: &socket.UseAllocationRequest{Alias: fmt.Sprint(i), Amount: 1, AllocationID: "a"}}
		if err := r.transport.Notify(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	r.until(func(rec *sockettest.Record) bool { return rec.Count(socket.TypeUseAllocation) == 100 })
	seen := map[string]bool{}
	for _, m := range r.srv.Messages(socket.TypeUseAllocation) {
		if m.ID != "" {
			t.Errorf("a notification came with the id %q", m.ID)
		}
		seen[m.Use().Alias] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d different ones came", len(seen))
	}
	if err := r.srv.CheckProtocol(); err != nil {
		t.Error(err)
	}
}

// What can't be sent is an error at once, and costs nobody else anything.
func payloads(t *testing.T, r *rig) {
	r.call(reservation("first"))
	for name, m := range map[string]*socket.UsageFlowSocketMessage{
		"no message":          nil,
		"a payload of no use": {Type: "x", Payload: func() {}},
	} {
		if resp, err := r.transport.Call(t.Context(), m); err == nil || resp != nil {
			t.Errorf("Call with %s: %v, %v", name, resp, err)
		}
		if err := r.transport.Notify(t.Context(), m); err == nil {
			t.Errorf("Notify with %s: no error", name)
		}
	}
	alias := strings.Repeat("ä", 200<<10)
	r.call(reservation(alias))
	if all := r.srv.Messages(socket.TypeRequestForAllocation); all[len(all)-1].Allocation().Alias != alias {
		t.Error("a large message came changed")
	}
	if resp, err := r.transport.Call(t.Context(), &socket.UsageFlowSocketMessage{Type: "nothing"}); err != nil || resp == nil {
		t.Errorf("without a payload: %v", err)
	}
	if n := r.srv.Count("nothing"); n != 1 || string(r.srv.Messages("nothing")[0].Payload) != "null" {
		t.Errorf("%d messages without a payload", n)
	}
}

// A reply whose payload is no JSON is an error, and the next call is served.
func malformedReplies(t *testing.T, r *rig) {
	r.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		return sockettest.Raw([]byte(`{"type":"x","replyTo":"` + m.ID + `","payload":{"a":01}}`))
	})
	if resp, err := r.transport.Call(t.Context(), reservation("GET /x")); err == nil {
		t.Errorf("got %+v", resp)
	}
	r.srv.Handle(nil)
	r.call(reservation("GET /x"))
}

// A call ends with its context, whatever the service does, and without a deadline after 2 s.
func contexts(t *testing.T, r *rig) {
	r.call(reservation("first"))
	r.srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.transport.Call(ended, reservation("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if err := r.transport.Notify(ended, reservation("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("a notification with a context that has ended: %v", err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.transport.Call(short, reservation("x")); !errors.Is(err, socket.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	before := r.srv.Count(socket.TypeRequestForAllocation)
	given, giveUp := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := r.transport.Call(given, reservation("x"))
		result <- err
	}()
	r.until(func(rec *sockettest.Record) bool { return rec.Count(socket.TypeRequestForAllocation) > before })
	giveUp()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	start := time.Now()
	_, err := r.transport.Call(context.Background(), reservation("x"))
	if took := time.Since(start); !errors.Is(err, socket.ErrTimeout) || took < 1500*time.Millisecond || took > patience {
		t.Errorf("without a deadline: %v after %v", err, took)
	}
}

// Without a service a call is ErrNotConnected; once that is known, at once.
func notThere(t *testing.T, r *rig) {
	r.srv.Stop()
	r.eventually("a call finds no connection", func() bool {
		_, err := r.transport.Call(t.Context(), reservation("x"))
		return errors.Is(err, socket.ErrNotConnected)
	})
	r.eventually("IsConnected is false", func() bool { return !r.transport.IsConnected() })
	start := time.Now()
	for range 20 {
		if _, err := r.transport.Call(t.Context(), reservation("x")); !errors.Is(err, socket.ErrNotConnected) || errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Call: %v", err)
		}
		if err := r.transport.Notify(t.Context(), reservation("x")); !errors.Is(err, socket.ErrNotConnected) {
			t.Fatalf("Notify: %v", err)
		}
	}
	if took := time.Since(start); took > prompt {
		t.Errorf("40 messages without a connection took %v", took)
	}
}

// A call whose connection ends before its reply is told so at once.
func connectionLost(t *testing.T, r *rig) {
	r.call(reservation("first"))
	r.srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Drop() })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	start := time.Now()
	_, err := r.transport.Call(ctx, reservation("x"))
	if !errors.Is(err, socket.ErrConnectionLost) || time.Since(start) > prompt {
		t.Errorf("got %v after %v", err, time.Since(start))
	}
}

// After an outage everything works again by itself.
func outage(t *testing.T, r *rig) {
	r.call(reservation("x"))
	if !r.transport.IsConnected() {
		t.Error("not connected, after a call")
	}
	r.srv.Stop()
	r.eventually("IsConnected is false", func() bool { return !r.transport.IsConnected() })
	if err := r.srv.Start(); err != nil {
		t.Fatal(err)
	}
	r.eventually("IsConnected is true", r.transport.IsConnected)
	r.call(reservation("x"))
}

// Close ends what waits, is idempotent, and everything after it is ErrClosed.
func closing(t *testing.T, r *rig) {
	r.call(reservation("first"))
	r.srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
	before := r.srv.Count(socket.TypeRequestForAllocation)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		_, err := r.transport.Call(ctx, reservation("x"))
		result <- err
	}()
	r.until(func(rec *sockettest.Record) bool { return rec.Count(socket.TypeRequestForAllocation) > before })
	start := time.Now()
	for range 2 {
		if err := r.transport.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if took := time.Since(start); took > 6*time.Second {
		t.Errorf("Close took %v", took)
	}
	if err := <-result; err == nil || ctx.Err() != nil {
		t.Errorf("the call that waited: %v", err)
	}
	if _, err := r.transport.Call(t.Context(), reservation("x")); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Call after Close: %v", err)
	}
	if err := r.transport.Notify(t.Context(), reservation("x")); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Notify after Close: %v", err)
	}
	if r.transport.IsConnected() {
		t.Error("connected after Close")
	}
}
