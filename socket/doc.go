// Package socket carries messages to a UsageFlow service over a pool of WebSockets.
//
//	manager := socket.NewUsageFlowSocketManager("api-key")
//	defer manager.Close()
//	response, err := manager.SendAsync(&socket.UsageFlowSocketMessage{
//		Type:    socket.TypeRequestForAllocation,
//		Payload: &socket.RequestForAllocation{Alias: "GET /api/users/:id acme", Amount: 1},
//	})
//
// The service is the one at the URL in USAGEFLOW_URL, or on localhost. NewManager takes every setting and
// leaves the start to Connect or the first message.
//
// An error of a call says that no reply came, and whether the message can have been acted on (see the
// Err variables). A reply that refuses is no error: check Refused, or response.Error.
//
// The pool looks after itself. Each of its slots keeps one connection up: it dials, serves, and after a
// failure waits and dials again, for ever; it never dials hot, and a service that was away for any length
// of time is found again within a minute. Messages go to the connection with the least to do. One that was
// not written when its connection ended goes to another; a call that was is told at once that its reply is
// lost. A peer that stops reading costs the calls that are on its connection, and no others.
//
// Everything is safe for concurrent use, and a message may be shared: no call changes it. NewManager
// starts no goroutine; the others end before Close returns.
//
// Package sockettest has a service for tests.
package socket
