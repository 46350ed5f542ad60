package wire

import "context"

// A Completion is told what became of one posted message. Complete is called exactly once for each
// message that Post took, possibly before Post returns, from a goroutine that must not be blocked; no
// lock is held, so that it may post again. Completions of one lane are compared: use pointers.
type Completion interface {
	// Complete gives the reply, whose bytes are valid only during the call, or the error that means no
	// reply will come on this lane.
	Complete(r *Reply, err error)
}

// A Lane is an ordered way to the service: what is posted on one lane arrives in the order of the
// posts. It ends with its connection, and nothing that was posted on it moves to another one. Safe for
// concurrent use; no method blocks.
type Lane interface {
	// Post queues a message; payload is JSON, and copied. A message with an id is completed by its reply;
	// one without, by nil, nil once it is written. With a nil done nobody is told, and an id expects no reply.
	// A message with the id and the completion of one that still waits takes its place: both are sent, and
	// the completion is called once. An error means that the message was not taken, and done is not called.
	Post(typ, id string, payload []byte, done Completion) error
	// Alive reports whether the lane still takes messages.
	Alive() bool
	// Busy reports whether so much is under way that further messages had better take another lane.
	Busy() bool
}

// A LaneTransport is a Transport that has lanes.
type LaneTransport interface {
	// Self is the transport that the lanes belong to. Another type that embeds it has these methods too, but
	// wants its own Call and Notify to be used.
	Self() any
	// Lane gives the lane with the least to do. It waits for the very first round of connecting at most, and no
	// longer than ctx.
	Lane(ctx context.Context) (Lane, error)
}

// Raw is a payload that is JSON already. It is sent as it is.
type Raw []byte
