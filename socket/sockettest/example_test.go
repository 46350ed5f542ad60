package sockettest_test

import (
	"context"
	"fmt"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A server with a limit of one. In a test, New(t) starts it and closes it when the test ends.
func Example() {
	srv, err := sockettest.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	srv.Limit("GET /api/reports acme", 1)

	// Any client will do; yours dials srv.URL.
	ws, _, err := websocket.DefaultDialer.Dial(srv.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer ws.Close()
	for _, id := range []string{"1", "2"} {
		_ = ws.WriteJSON(socket.UsageFlowSocketMessage{
			Type: socket.TypeRequestForAllocation, ID: id,
			Payload: socket.RequestForAllocation{Alias: "GET /api/reports acme", Amount: 1},
		})
		var reply socket.UsageFlowSocketResponse
		_ = ws.ReadJSON(&reply)
		fmt.Printf("%s %s %q\n", reply.ReplyTo, reply.Type, reply.Error)
	}
	err = srv.WaitFor(context.Background(), func(r *sockettest.Record) bool {
		return r.Count(socket.TypeRequestForAllocation) == 2
	})
	fmt.Println(err, srv.Messages()[1].Allocation().Alias)
	// Output:
	// 1 request_for_allocation ""
	// 2 error "rate_limit_exceeded"
	// <nil> GET /api/reports acme
}

// A handler scripts the replies; what it has no opinion on, it leaves to the server.
func ExampleServer_Handle() {
	srv, err := sockettest.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		switch {
		case m.Allocation().Alias == "GET /api/reports acme":
			return sockettest.Deny("no reports for acme", nil)
		case m.Type == socket.TypeUseAllocation:
			return sockettest.Silence()
		default:
			return sockettest.Default()
		}
	})
}
