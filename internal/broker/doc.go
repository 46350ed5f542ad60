// Package broker is the heart of the TCP broker's protocol: what the server (Relay) and its clients
// (Endpoint) do with the frames that arrive and with the passing of time. It does no I/O, starts no
// goroutine and reads no clock: bytes go in through an Inbox, come out of an Outbox, and the time is a
// parameter, in nanoseconds since any fixed moment. So a test can run it through any schedule.
//
// # Ownership
//
// Each connection has one Outbox, whose lock guards all that the connection has to send and the table of
// its streams. In the Relay a request is an exchange of two legs, one on each connection; a frame that
// arrives on one leg is put into the other leg's outbox by the goroutine that read it. A worker, which the
// request's id chooses, owns what concerns both legs: admission, the choice of the provider, the deadline
// and the end. A worker's lock is taken before an outbox's; of outboxes one is locked at a time.
package broker
