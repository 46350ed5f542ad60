//go:build linux

// Command chaos shows that no usage is lost and no customer is harmed, whatever breaks.
//
// It runs a Gin app with the middleware, and a UsageFlow service, as processes, with a proxy between them that makes faults; it kills and stops the
// two, and fills the disk of the app's spool. All the while clients send requests to the app. In the end it compares what the clients were
// answered with what the service has charged:
//
//   - no request has failed, or waited longer than Config.Timeout, because of the middleware;
//   - each ledger has charged exactly the requests that were admitted, less what the app's Stats call dropped;
//   - no limit was exceeded by one;
//   - the app's memory, goroutines and descriptors are what they were before.
//
// go run ./chaos makes all faults once; -minutes goes on for that long; -seed repeats the order and the times of a run.
package main
