package socket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestRepliesAreMatched(t *testing.T) {
	for name, style := range map[string]sockettest.ReplyStyle{
		"by replyTo": sockettest.ByReplyTo,
		"by id":      sockettest.ByID,
		"by both":    sockettest.ByBoth,
	} {
		t.Run(name, func(t *testing.T) {
			srv := sockettest.New(t, sockettest.WithReplyStyle(style))
			srv.Handle(func(m sockettest.Message) sockettest.Reply {
				return sockettest.OK(map[string]any{"alias": m.Allocation().Alias})
			})
			m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
			connect(t, m)
			var wg sync.WaitGroup
			for g := range 20 {
				wg.Go(func() {
					for i := range 50 {
						alias := fmt.Sprintf("GET /%d/%d", g, i)
						resp, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: socket.TypeRequestForAllocation, Payload: socket.RequestForAllocation{Alias: alias}})
						if err != nil {
							t.Errorf("SendAsync: %v", err)
						} else if got := resp.Payload.(map[string]any)["alias"]; got != alias {
							t.Errorf("the reply is that of %v, want %s", got, alias)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// A reply that names another message in replyTo is not ours, whatever its own id.
func TestAnIDBesideReplyToIsTheServicesOwn(t *testing.T) {
	srv := sockettest.New(t)
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		return sockettest.Raw(fmt.Appendf(nil, `{"replyTo":"another","id":%q,"payload":{"n":1}}`, m.ID))
	})
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
	connect(t, m)
	result := goCall(t.Context(), m, reservation())
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count() == 1 })
	conn, id := srv.OpenConns()[0], srv.Messages()[0].ID
	if err := srv.Push(conn, fmt.Appendf(nil, `{"replyTo":%q,"id":"7","payload":{"n":2}}`, id)); err != nil {
		t.Fatal(err)
	}
	got := <-result
	if got.err != nil {
		t.Fatalf("Call: %v", got.err)
	}
	want := &socket.UsageFlowSocketResponse{ReplyTo: id, ID: "7", Payload: map[string]any{"n": 2.0}}
	if !reflect.DeepEqual(got.resp, want) {
		t.Errorf("got %+v, want %+v", got.resp, want)
	}
}

func TestReplyFields(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
	connect(t, m)
	for _, tc := range []struct {
		reply   string
		want    socket.UsageFlowSocketResponse
		refused bool
	}{
		{`"type":"request_for_allocation","payload":{"allocationId":"a","limit":5,"x":-1.5e2,"n":null,"t":true,"s":"\u00e9","l":[1,"2"]}`,
			socket.UsageFlowSocketResponse{Type: "request_for_allocation", Payload: map[string]any{"allocationId": "a", "limit": 5.0, "x": -150.0, "n": nil, "t": true, "s": "é", "l": []any{1.0, "2"}}}, false},
		{`"type":"error","error":"rate_limit_exceeded","message":"authorization failed: timeout"`,
			socket.UsageFlowSocketResponse{Type: "error", Error: "rate_limit_exceeded", Message: "authorization failed: timeout"}, true},
		{`"type":"error"`, socket.UsageFlowSocketResponse{Type: "error"}, true},
		{`"type":"ok","error":"no"`, socket.UsageFlowSocketResponse{Type: "ok", Error: "no"}, true},
		{`"type":"ok","error":"","payload":null`, socket.UsageFlowSocketResponse{Type: "ok"}, false},
		{`"type":"ok","payload":"text"`, socket.UsageFlowSocketResponse{Type: "ok", Payload: "text"}, false},
	} {
		srv.Handle(func(m sockettest.Message) sockettest.Reply {
			return sockettest.Raw(fmt.Appendf(nil, `{"replyTo":%q,%s}`, m.ID, tc.reply))
		})
		got, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: "t", ID: "mine"})
		if err != nil {
			t.Errorf("%s: %v", tc.reply, err)
			continue
		}
		tc.want.ReplyTo = "mine"
		if !reflect.DeepEqual(*got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.reply, *got, tc.want)
		}
		if got.Refused() != tc.refused {
			t.Errorf("%s: Refused = %v, want %v", tc.reply, got.Refused(), tc.refused)
		}
	}
}

func TestLateAndUnknownRepliesAreHarmless(t *testing.T) {
	srv := sockettest.New(t)
	late := make(chan struct{})
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == "slow" {
			return sockettest.OK("late").After(late)
		}
		return sockettest.OK("in time")
	})
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1, RequestTimeout: 30 * time.Millisecond})
	connect(t, m)
	// The second message has the id of the first.
	if _, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: "slow", ID: "x"}); !errors.Is(err, socket.ErrTimeout) {
		t.Fatalf("SendAsync = %v, want ErrTimeout", err)
	}
	close(late)
	for _, frame := range []string{`{"replyTo":"nobody"}`, `{"id":"nobody"}`, `{}`, `{"replyTo":"","id":""}`} {
		if err := srv.Push(srv.OpenConns()[0], []byte(frame)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range 100 {
		resp, err := m.Call(ctx, &socket.UsageFlowSocketMessage{Type: "fast"})
		if err != nil || resp.Payload != "in time" {
			t.Fatalf("Call = %+v, %v", resp, err)
		}
	}
	if got := srv.Handshakes(); got != 1 {
		t.Errorf("%d handshakes, want 1", got)
	}
}

func TestMalformedRepliesAreSkippedAndLogged(t *testing.T) {
	srv := sockettest.New(t)
	var log logtest.Buffer
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1, Logger: debugLogger(&log)})
	connect(t, m)
	bad := []string{``, `null`, `[]`, `"text"`, `{"replyTo":`, `{`, `}`, strings.Repeat(`{"a":`, 10000)}
	for range 25 {
		for _, frame := range bad {
			if err := srv.Push(srv.OpenConns()[0], []byte(frame)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := m.SendAsync(reservation()); err != nil {
		t.Errorf("SendAsync: %v", err)
	}
	if got := log.Count("malformed"); got < 1 || got > 10 {
		t.Errorf("%d log lines for 200 malformed messages, want a few", got)
	}
	if got := srv.Handshakes(); got != 1 {
		t.Errorf("%d handshakes, want 1", got)
	}
	// The envelope is sound but the payload is not: the caller is told.
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		return sockettest.Raw(fmt.Appendf(nil, `{"replyTo":%q,"payload":{"a":tru}}`, m.ID))
	})
	_, err := m.SendAsync(reservation())
	isNotATimeout(t, err)
}

func TestBinaryFramesAreSkippedAndPingsAnswered(t *testing.T) {
	pong := make(chan string, 3)
	url := rawService(t, func(ws *websocket.Conn) {
		ws.SetPongHandler(func(data string) error { pong <- data; return nil })
		for {
			var m socket.UsageFlowSocketMessage
			if err := ws.ReadJSON(&m); err != nil {
				return
			}
			text, _ := json.Marshal(map[string]string{"replyTo": m.ID})
			_ = ws.WriteMessage(websocket.BinaryMessage, text)
			_ = ws.WriteControl(websocket.PingMessage, []byte("are you there"), time.Now().Add(time.Minute))
			_ = ws.WriteMessage(websocket.TextMessage, []byte(fmt.Sprintf(`{"replyTo":%q,"type":"text"}`, m.ID)))
		}
	})
	m := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, URL: url, RequestTimeout: time.Minute})
	connect(t, m)
	resp, err := m.SendAsync(reservation())
	if err != nil || resp.Type != "text" {
		t.Errorf("SendAsync = %+v, %v, want the text frame's reply", resp, err)
	}
	if got := <-pong; got != "are you there" {
		t.Errorf("pong %q, want the ping's data", got)
	}
}
