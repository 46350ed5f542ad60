// Package service is the UsageFlow service that anyone can run: it speaks the wire protocol to agents
// over WebSockets, decides reservations against limits, and keeps what was used in a durable ledger.
//
// The parts, from the outside in:
//
//   - Service (service.go) owns the HTTP server: /ws for agents, /api/v1 for programs, / for people.
//   - conn (conn.go, conn_write.go) is one agent's WebSocket: one goroutine reads, one writes.
//   - Config (config.go) says what applications, keys, policies and limits there are. It comes from a file, or from a DocumentStore
//     (document.go), through which the HTTP API changes it.
//   - Ledger (ledger.go) is the contract of what keeps allocations; package service/sqlite keeps them
//     in an embedded database, and package ledgertest is the suite that every ledger passes.
//
// To run it:
//
//	cfg, err := service.LoadConfig("usageflow.yaml")
//	ledger, err := sqlite.Open(sqlite.Options{Dir: "data"})
//	svc, err := service.New(service.Options{Config: cfg, Documents: ledger, Ledger: ledger})
//	ln, err := svc.Listen("localhost:9000")
//	go svc.Serve(ln)
//	…
//	err = svc.Shutdown(ctx)
//	err = ledger.Close()
//
// A Service and a Ledger are safe for concurrent use. A Config is read-only once it is loaded.
package service
