package sockettest_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// client is a plain WebSocket client; a read that hangs fails the test.
type client struct {
	t  *testing.T
	ws *websocket.Conn
}

func dialer(srv *sockettest.Server) *websocket.Dialer {
	return &websocket.Dialer{NetDialContext: srv.Dial, HandshakeTimeout: 10 * time.Second}
}

func dial(t *testing.T, srv *sockettest.Server) *client {
	t.Helper()
	ws, _, err := dialer(srv).DialContext(t.Context(), srv.URL, http.Header{"x-usage-key": {"key"}})
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	return &client{t: t, ws: ws}
}

func (c *client) send(m socket.UsageFlowSocketMessage) {
	c.t.Helper()
	if err := c.ws.WriteJSON(m); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

func (c *client) read() []byte {
	c.t.Helper()
	_ = c.ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	_, b, err := c.ws.ReadMessage()
	if err != nil {
		c.t.Fatalf("read: %v", err)
	}
	return b
}

func (c *client) recv() socket.UsageFlowSocketResponse {
	c.t.Helper()
	var r socket.UsageFlowSocketResponse
	if err := json.Unmarshal(c.read(), &r); err != nil {
		c.t.Fatalf("reply: %v", err)
	}
	return r
}

// readError reads until the connection ends.
func (c *client) readError() error {
	_ = c.ws.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, _, err := c.ws.ReadMessage(); err != nil {
			return err
		}
	}
}

func (c *client) call(m socket.UsageFlowSocketMessage) socket.UsageFlowSocketResponse {
	c.t.Helper()
	c.send(m)
	return c.recv()
}

func reserve(id, alias, allocation string) socket.UsageFlowSocketMessage {
	return socket.UsageFlowSocketMessage{
		Type: socket.TypeRequestForAllocation, ID: id,
		Payload: socket.RequestForAllocation{Alias: alias, Amount: 1, AllocationID: allocation},
	}
}

func use(id, alias, allocation string) socket.UsageFlowSocketMessage {
	return socket.UsageFlowSocketMessage{
		Type: socket.TypeUseAllocation, ID: id,
		Payload: socket.UseAllocationRequest{Alias: alias, Amount: 1, AllocationID: allocation},
	}
}

// payload returns a field of the reply's payload.
func payload(t *testing.T, r socket.UsageFlowSocketResponse, field string) any {
	t.Helper()
	p, ok := r.Payload.(map[string]any)
	if !ok {
		t.Fatalf("payload = %v, want an object", r.Payload)
	}
	return p[field]
}

// wait fails the test if cond does not come to hold.
func wait(t *testing.T, srv *sockettest.Server, cond func(*sockettest.Record) bool) {
	t.Helper()
	if err := srv.WaitFor(t.Context(), cond); err != nil {
		t.Fatal(err)
	}
}
