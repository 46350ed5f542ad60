// Package socket carries messages to a UsageFlow service over a pool of WebSockets, and requests between
// processes through a broker.
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
//
// # Requests between processes
//
// A Server is a broker: it gives each request of a Consumer to one Provider of the same channel, the one
// with the least to do, and passes the answer back. Both are streams of any size.
//
//	server := socket.NewServer("9090") // on 127.0.0.1; WithAddress for others
//	err := server.Start()
//
//	provider, err := socket.NewProvider("127.0.0.1:9090", channelID)
//	err = provider.Serve(ctx, func(ctx context.Context, r *socket.Request) (io.Reader, error) {
//		return resize(ctx, r.Reader)
//	})
//
//	consumer, err := socket.NewConsumer("127.0.0.1:9090", channelID)
//	answer, err := consumer.Send(picture, 5*time.Second)
//
// Every request has one outcome: an answer, or an error that says whether a provider can have seen it; see
// Retryable. Nothing is kept on disk, and no request is sent twice. A request that meets no provider, one
// whose provider dies, and one whose time is over end at once, on both sides. Who reads slowly slows the
// stream that it reads, and no other. docs/protocol.md specifies what goes over the wire.
package socket
