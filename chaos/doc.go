//go:build linux

// Command chaos shows that no usage is lost and no customer is harmed, whatever breaks.
//
// It runs a Gin app with the middleware, and a UsageFlow service, as processes, with a proxy between them that makes faults; it kills and stops the
// two, and fills the disk of the app's spool. All the while clients send requests to the app. In the end it compares what the clients were
// answered with what the service has charged:
//
//   - no request has failed, or waited longer than Config.Timeout, because of the middleware;
//   - what was charged is what was admitted, less what the app's Stats call dropped, to the unit; when the app was killed, requests that had ended in
//     the quarter of a second before may be missing, and are counted;
//   - no limit was exceeded by one: each fault has one of its own to run into;
//   - the app's memory, goroutines and descriptors are what they were before.
//
// go run ./chaos makes all faults once; -minutes goes on for that long; -seed repeats the order and the times of a run.
package main
