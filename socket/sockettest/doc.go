// Package sockettest is a fake UsageFlow service for tests: it speaks the WebSocket protocol on a
// loopback port, answers as a generous service would, and can be told to deny, to stay silent, to
// refuse handshakes, to stop reading or to vanish. It records what it received.
//
//	srv := sockettest.New(t)
//	srv.Limit("GET /api/reports acme", 5)
//	// ... point the client under test at srv.URL ...
//	err := srv.WaitFor(t.Context(), func(r *sockettest.Record) bool {
//		return r.Count(socket.TypeUseAllocation) == 6
//	})
//
// A Server is safe for concurrent use. Each connection has one reading and one writing goroutine; all
// of them have ended when Close returns. With [WithInMemory] no socket is opened at all, so that a
// server and its client fit into a testing/synctest bubble.
//
// It imports nothing of package socket but the messages. Tests of package socket itself can use it from
// package socket_test.
package sockettest
