package broker

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// Error is why a stream ended, where the peer or the relay ended it.
type Error struct {
	Code   frame.Code
	Reason string
}

func (e *Error) Error() string {
	if e.Reason == "" {
		return "broker: " + e.Code.String()
	}
	return "broker: " + e.Code.String() + ": " + e.Reason
}

// Failure is what the provider answered with in place of an answer: its message.
type Failure struct{ Message string }

func (f *Failure) Error() string { return f.Message }

// ErrLost ends the streams of a connection that was lost.
var ErrLost = errors.New("broker: connection lost")

// Endpoint is a client's side of a connection. A consumer's opens streams; a provider's accepts them.
// All methods are safe for concurrent use, but for Receive.
type Endpoint struct {
	Out Outbox

	// Static after construction.
	role    frame.Role
	streams int // may be open at once
	window  int // of a stream, in bytes, at most
	// make makes the stream of a request that a provider's Receive got, and accept is called with it
	// when it is ready. Neither blocks.
	make   func() *Stream
	accept func(*Stream)
	// alarm is called when there is a deadline before the one that Expire returned last. It may be nil.
	alarm func()
	// drained is called, if set, when the relay has said that it opens no more streams on this connection.
	drained func()

	// Guarded by Out.mu.
	table   map[uint64]*Stream
	last    uint64
	leaving bool  // the relay takes no new requests here
	lost    error // why the connection ended

	clock deadlineClock
}

// EndpointConfig is what an Endpoint is made of. See its fields.
type EndpointConfig struct {
	Role    frame.Role
	Welcome frame.WelcomePayload
	Flush   func()
	Make    func() *Stream
	Accept  func(*Stream)
	Alarm   func()
	Drained func()
}

// NewEndpoint returns the endpoint of a connection whose handshake is over.
func NewEndpoint(cfg EndpointConfig) *Endpoint {
	e := &Endpoint{
		role: cfg.Role, streams: int(cfg.Welcome.Streams), window: int(cfg.Welcome.Window),
		make: cfg.Make, accept: cfg.Accept, alarm: cfg.Alarm, drained: cfg.Drained, table: map[uint64]*Stream{},
	}
	e.Out.init(func() int { return len(e.table) })
	e.Out.Flush = cfg.Flush
	return e
}

// Expire ends every stream whose time is over and returns when the next one's is, 0 for never.
func (e *Endpoint) Expire(now int64) (next int64) {
	for {
		s, ok, next := e.clock.pop(now)
		if !ok {
			return next
		}
		s.End(&Error{Code: frame.Deadline}, frame.Deadline)
	}
}

// Request is what a stream is opened with.
type Request struct {
	ID       uuid.UUID
	Timeout  time.Duration
	Metadata []byte // encoded
	Data     []byte // the first of the body, which is copied
	Whole    bool   // and all of it
}

// Open sends a request. The outbox is to be flushed after it. The error is ErrLost or an *Error.
func (e *Endpoint) Open(s *Stream, r Request, now int64) error {
	s.init(e, r.ID, now+int64(r.Timeout))
	s.allow -= int64(len(r.Data))
	s.sealed = r.Whole
	open := frame.OpenPayload{RequestID: r.ID, Timeout: r.Timeout, Metadata: r.Metadata}
	var memory [64]byte
	prefix := open.AppendPrefix(memory[:0])
	var flags frame.Flags
	if r.Whole {
		flags = frame.FlagEnd
	}
	e.Out.mu.Lock()
	switch {
	case e.lost != nil:
		defer e.Out.mu.Unlock()
		return e.lost
	case e.leaving:
		e.Out.mu.Unlock()
		return &Error{Code: frame.Draining}
	case len(e.table) >= e.streams:
		e.Out.mu.Unlock()
		return &Error{Code: frame.Busy, Reason: "the connection has as many requests as it may"}
	}
	e.last++
	s.send.id = e.last
	e.table[e.last] = s
	earlier := e.clock.add(s) // before anybody can see the request's end
	e.Out.putCopy(&s.send, frame.Open, flags, prefix, r.Data)
	e.Out.mu.Unlock()
	if earlier && e.alarm != nil {
		e.alarm()
	}
	return nil
}

// Receive deals with a frame that the relay sent. One goroutine calls it. The outboxes in b are to be
// flushed after it. An error ends the connection; it is a *Error where the relay said that it does so.
func (e *Endpoint) Receive(f *Frame, now int64, b *Batch) error {
	switch f.Type {
	case frame.Open:
		return e.receiveOpen(f, now, b)
	case frame.Head, frame.Data:
		s, err := e.find(f)
		if s == nil {
			return err
		}
		return s.receive(f, b)
	case frame.Credit:
		n, err := frame.ParseCredit(f.Payload)
		if err != nil {
			return err
		}
		s, err := e.find(f)
		if s != nil {
			s.receiveCredit(int64(n))
		}
		return err
	case frame.Reset:
		code, reason, err := frame.ParseEnd(f.Payload)
		if err != nil {
			return err
		}
		s, err := e.find(f)
		if s != nil {
			s.receiveReset(&Error{Code: code, Reason: reason})
		}
		return err
	case frame.Ping:
		return e.Out.receivePing(f, b)
	case frame.GoAway:
		return e.receiveGoAway(f)
	default:
		return violation("%v after the handshake", f.Type)
	}
}

func (e *Endpoint) receiveGoAway(f *Frame) error {
	code, reason, err := frame.ParseEnd(f.Payload)
	if err != nil {
		return err
	}
	if code != frame.Draining {
		return &Error{Code: code, Reason: reason}
	}
	e.Out.mu.Lock()
	e.leaving = true
	e.Out.mu.Unlock()
	if e.drained != nil {
		e.drained()
	}
	return nil
}

// find returns the stream that a frame belongs to; nil where it is over.
func (e *Endpoint) find(f *Frame) (*Stream, error) {
	e.Out.mu.Lock()
	defer e.Out.mu.Unlock()
	if s := e.table[f.Stream]; s != nil {
		return s, nil
	}
	if f.Stream > e.last {
		return nil, violation("%v of stream %d, which was not opened", f.Type, f.Stream)
	}
	return nil, nil
}

func (e *Endpoint) receiveOpen(f *Frame, now int64, b *Batch) error {
	o, err := frame.ParseOpen(f.Payload)
	if err != nil {
		return err
	}
	if e.role != frame.Provider {
		return violation("OPEN to a consumer")
	}
	s := e.make()
	s.init(e, o.RequestID, now+int64(o.Timeout))
	s.send.id, s.send.opened = f.Stream, true
	if s.Metadata, err = frame.ParseMetadata(o.Metadata); err != nil {
		return err
	}
	e.Out.mu.Lock()
	if f.Stream <= e.last {
		e.Out.mu.Unlock()
		return violation("OPEN of stream %d after %d", f.Stream, e.last)
	}
	e.last = f.Stream
	leaving := e.lost != nil
	earlier := false
	if !leaving {
		e.table[f.Stream] = s
		earlier = e.clock.add(s)
	}
	e.Out.mu.Unlock()
	if leaving {
		return nil //nolint:nilerr // the relay sees to the request
	}
	if earlier && e.alarm != nil {
		e.alarm()
	}
	body := *f
	body.Payload = o.Data
	if err := s.receive(&body, b); err != nil {
		return err
	}
	e.accept(s)
	return nil
}

// Leave tells the relay that no new requests are wanted on this connection.
func (e *Endpoint) Leave() {
	e.Out.Control(frame.GoAway, frame.AppendEnd(nil, frame.Draining, ""))
	e.Out.Flush()
}

// Running returns how many streams are open.
func (e *Endpoint) Running() int {
	e.Out.mu.Lock()
	defer e.Out.mu.Unlock()
	return len(e.table)
}

// Close ends every stream with err. It is idempotent.
func (e *Endpoint) Close(err error) {
	e.Abandon(err)
	e.Out.mu.Lock()
	e.Out.close()
	e.Out.mu.Unlock()
}

// Abandon ends every stream with err. What is on its way of streams that have ended before stays in the
// outbox, and the outbox may be told more.
func (e *Endpoint) Abandon(err error) {
	e.Out.mu.Lock()
	streams := slices.Collect(maps.Values(e.table))
	if e.lost == nil {
		e.lost = err
	}
	e.Out.mu.Unlock()
	slices.SortFunc(streams, func(a, b *Stream) int { return cmp.Compare(a.send.id, b.send.id) })
	for _, s := range streams {
		s.fail(err)
	}
}
