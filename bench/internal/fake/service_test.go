package fake

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const (
	reserveA = `{"type":"request_for_allocation","payload":{"alias":"GET /","amount":1,"allocationId":"a"},"id":"1"}`
	useA     = `{"type":"use_allocation","payload":{"alias":"GET /","amount":1,"allocationId":"a"},"id":"2"}`
	useB     = `{"type":"use_allocation","payload":{"alias":"GET /","amount":1,"allocationId":"b"},"id":"3"}`
)

func TestRepliesAndCounts(t *testing.T) {
	s, ws := dial(t)
	send(t, ws, `{"type":"get_application_config","payload":null,"id":"0"}`)
	for _, tt := range []struct{ send, want string }{
		{reserveA, `{"type":"request_for_allocation","replyTo":"1","payload":{"allocationId":"a"}}`},
		{useA, `{"type":"use_allocation","replyTo":"2","payload":{"allocationId":"a"}}`},
	} {
		send(t, ws, tt.send)
		for {
			_, got, err := ws.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(got), "get_application_config") {
				continue // the first reply; checked by whoever parses it
			}
			if string(got) != tt.want {
				t.Errorf("reply %s, want %s", got, tt.want)
			}
			break
		}
	}
	c := s.Await(1, 10*time.Second)
	if c.Reserved != 1 || c.Used != 1 || c.Other != 1 || c.Broken != 0 {
		t.Errorf("counts %+v", c)
	}
	if err := s.Verify(1); err != nil {
		t.Error(err)
	}
	s.Reset()
	if err := s.Verify(0); err != nil {
		t.Error(err)
	}
}

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	for name, frames := range map[string][]string{
		"twice":         {reserveA, useA, reserveA, useA},
		"another":       {reserveA, useB},
		"order":         {useA, reserveA},
		"used twice":    {reserveA, strings.ReplaceAll(reserveA, `"a"`, `"b"`), useA, useA},
		"count differs": {reserveA},
		"broken":        {reserveA, useA, `{"type":`},
	} {
		t.Run(name, func(t *testing.T) {
			s, ws := dial(t)
			for _, f := range frames {
				send(t, ws, f)
			}
			send(t, ws, `{"type":"get_blocked_endpoints","payload":null,"id":"end"}`)
			for { // when its reply is here, everything before it is counted
				_, b, err := ws.ReadMessage()
				if err != nil {
					t.Fatal(err)
				}
				if strings.Contains(string(b), `"replyTo":"end"`) {
					break
				}
			}
			if s.Verify(len(frames)/2) == nil {
				t.Error("Verify = nil")
			}
		})
	}
}

func dial(t *testing.T) (*Service, *websocket.Conn) {
	t.Helper()
	s, err := Start(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ws, _, err := websocket.DefaultDialer.Dial(s.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	_ = ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	return s, ws
}

func send(t *testing.T, ws *websocket.Conn, frame string) {
	t.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(frame)); err != nil {
		t.Fatal(fmt.Errorf("send %s: %w", frame, err))
	}
}
