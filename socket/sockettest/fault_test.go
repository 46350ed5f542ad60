package sockettest_test

import (
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestScriptedReplies(t *testing.T) {
	tests := []struct {
		name  string
		reply sockettest.Reply
		want  string
	}{
		{"ok", sockettest.OK(map[string]any{"a": 1}), `{"type":"t","replyTo":"7","payload":{"a":1}}`},
		{"ok with null", sockettest.OK(nil), `{"type":"t","replyTo":"7","payload":null}`},
		{"deny", sockettest.Deny("no more", nil), `{"type":"error","replyTo":"7","error":"rate_limit_exceeded","message":"no more"}`},
		{"deny with fields", sockettest.Deny("no more", map[string]any{"limit": 5}), `{"type":"error","replyTo":"7","payload":{"limit":5},"error":"rate_limit_exceeded","message":"no more"}`},
		{"error", sockettest.Error("boom", "it broke"), `{"type":"error","replyTo":"7","error":"boom","message":"it broke"}`},
		{"raw", sockettest.Raw([]byte("{")), `{`},
		{"by id", sockettest.OK(1).Styled(sockettest.ByID), `{"type":"t","id":"7","payload":1}`},
		{"by both", sockettest.OK(1).Styled(sockettest.ByBoth), `{"type":"t","id":"service-1","replyTo":"7","payload":1}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			srv := sockettest.New(t)
			srv.Handle(func(m sockettest.Message) sockettest.Reply { return tt.reply })
			c := dial(t, srv)
			c.send(socket.UsageFlowSocketMessage{Type: "t", ID: "7"})
			if got := string(c.read()); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestSilenceAndAfter(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithReplyStyle(sockettest.ByID))
	ready := make(chan struct{})
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		switch m.ID {
		case "silent":
			return sockettest.Silence()
		case "late":
			return sockettest.Default().After(ready)
		default:
			return sockettest.Default()
		}
	})
	c := dial(t, srv)
	c.send(reserve("silent", "GET /a", "a"))
	c.send(reserve("late", "GET /a", "b"))
	if r := c.call(reserve("now", "GET /a", "c")); r.ID != "now" {
		t.Errorf("first reply is to %q, want now", r.ID)
	}
	close(ready)
	if r := c.recv(); r.ID != "late" || payload(t, r, "allocationId") != "b" {
		t.Errorf("held back reply = %+v", r)
	}
}

func TestEndingReplies(t *testing.T) {
	for name, reply := range map[string]sockettest.Reply{"drop": sockettest.Drop(), "reset": sockettest.Reset()} {
		t.Run(name, func(t *testing.T) {
			srv := sockettest.New(t)
			srv.Handle(func(sockettest.Message) sockettest.Reply { return reply })
			c := dial(t, srv)
			c.send(reserve("1", "GET /a", "a"))
			err := c.readError()
			if name == "reset" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read error = %v, want a reset", err)
			}
			if name == "drop" && !websocket.IsCloseError(err, websocket.CloseAbnormalClosure) {
				t.Errorf("read error = %v, want an end without a close frame", err)
			}
			wait(t, srv, func(r *sockettest.Record) bool { return r.Conns() == 0 })
		})
	}
}

func TestCloseFramesAreEchoed(t *testing.T) {
	srv := sockettest.New(t)
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.CloseWith(1012, "restart") })
	c := dial(t, srv)
	c.send(reserve("1", "GET /a", "a"))
	if err := c.readError(); !websocket.IsCloseError(err, 1012) {
		t.Errorf("read error = %v, want 1012", err)
	}
	wait(t, srv, func(r *sockettest.Record) bool { return r.Conns() == 0 && len(r.CloseFrames()) == 1 })
	if f := srv.CloseFrames()[0]; f.Code != 1012 || f.Conn != 1 {
		t.Errorf("echoed %+v, want 1012 on connection 1", f)
	}

	c = dial(t, srv)
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, "bye"), time.Now().Add(time.Second))
	if err := c.readError(); !websocket.IsCloseError(err, 1000) {
		t.Errorf("read error = %v, want the echo of 1000", err)
	}

	c = dial(t, srv)
	srv.CloseAll(1001, "")
	if err := c.readError(); !websocket.IsCloseError(err, 1001) {
		t.Errorf("read error = %v, want 1001", err)
	}
}

func TestHandshakes(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithAPIKey("key"))
	refused := func(header http.Header) *http.Response {
		t.Helper()
		ws, resp, err := dialer(srv).Dial(srv.URL, header)
		if err == nil {
			_ = ws.Close()
			t.Fatal("the handshake was accepted")
		}
		return resp
	}
	key := http.Header{"X-Usage-Key": {"key"}}
	if resp := refused(http.Header{"X-Usage-Key": {"other"}}); resp.StatusCode != 401 {
		t.Errorf("wrong key: %d, want 401", resp.StatusCode)
	}
	srv.RejectHandshake(503, http.Header{"Retry-After": {"7"}})
	if resp := refused(key); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("rejected: %d %v", resp.StatusCode, resp.Header)
	}
	srv.HandleHandshake(func(n int, _ *http.Request) sockettest.Handshake {
		if n == 3 {
			return sockettest.Reject(429, nil)
		}
		return sockettest.Accept()
	})
	if resp := refused(key); resp.StatusCode != 429 {
		t.Errorf("third: %d, want 429", resp.StatusCode)
	}
	dial(t, srv)
	if n := srv.Handshakes(); n != 4 || srv.Conns() != 1 {
		t.Errorf("handshakes = %d, conns = %d; want 4 and 1", n, srv.Conns())
	}
}

func TestSilentHandshake(t *testing.T) {
	srv := sockettest.New(t)
	srv.SilentHandshake()
	nc, err := srv.Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_, err = nc.Write([]byte("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	wait(t, srv, func(r *sockettest.Record) bool { return r.Handshakes() == 1 })
	_ = nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d bytes, error %v; want silence", n, err)
	}
	srv.AcceptHandshake()
	dial(t, srv).call(reserve("1", "GET /a", "a"))
}

func TestStopReading(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithReceiveBuffer(4096))
	stuck, fine := dial(t, srv), dial(t, srv)
	stuck.call(reserve("1", "GET /a", "a"))
	srv.StopReading(1)
	stuck.send(reserve("2", "GET /a", "b"))
	fine.call(reserve("3", "GET /a", "c"))
	if n := srv.Count(); n != 2 {
		t.Errorf("messages = %d, want 2 while connection 1 is not read", n)
	}
	// Bytes pile up until the client's own write blocks.
	_ = stuck.ws.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
	block := []byte(`{"type":"x","payload":"` + strings.Repeat("x", 1<<20) + `"}`)
	var err error
	for range 64 {
		if err = stuck.ws.WriteMessage(websocket.TextMessage, block); err != nil {
			break
		}
	}
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("write error = %v, want a timeout", err)
	}
	srv.ResumeReading()
	if r := stuck.recv(); r.ReplyTo != "2" {
		t.Errorf("after ResumeReading: got %+v", r)
	}
}

func TestPingsAreAnsweredAndCounted(t *testing.T) {
	srv := sockettest.New(t)
	c := dial(t, srv)
	pongs := make(chan string, 2)
	c.ws.SetPongHandler(func(data string) error { pongs <- data; return nil })
	ping := func(data string) {
		t.Helper()
		if err := c.ws.WriteControl(websocket.PingMessage, []byte(data), time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	srv.IgnorePings(true)
	ping("ignored")
	wait(t, srv, func(r *sockettest.Record) bool { return r.Pings() == 1 })
	srv.IgnorePings(false)
	ping("answered")
	c.call(reserve("1", "GET /a", "a")) // pongs are handled while reading
	if got := <-pongs; got != "answered" || srv.Pings() != 2 {
		t.Errorf("pong %q, %d pings; want answered, 2", got, srv.Pings())
	}
}

func TestPushAndDropAll(t *testing.T) {
	srv := sockettest.New(t)
	c, d := dial(t, srv), dial(t, srv)
	if err := srv.Push(1, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := string(c.read()); got != "hello" {
		t.Errorf("pushed %q", got)
	}
	if got := srv.OpenConns(); len(got) != 2 || got[0] != 1 || got[1] != 2 {
		t.Errorf("OpenConns() = %v, want [1 2]", got)
	}
	srv.DropAll()
	if c.readError() == nil || d.readError() == nil {
		t.Error("a connection outlived DropAll")
	}
	wait(t, srv, func(r *sockettest.Record) bool { return r.Conns() == 0 })
	if srv.Push(1, nil) == nil {
		t.Error("Push to a closed connection succeeded")
	}
	e := dial(t, srv)
	srv.ResetAll()
	if err := e.readError(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after ResetAll: %v, want a reset", err)
	}
}
