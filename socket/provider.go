package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// Provider answers the requests of a channel. It keeps one connection to the broker, over which any
// number of requests run at once, and connects again by itself. All methods are safe for concurrent use.
// Close it when it is no longer needed.
//
// Take requests with Serve, with ReceiveContext, or with Receive, and answer each: a request that is not
// answered costs its consumer the whole timeout.
type Provider struct {
	client *client

	mu      sync.Mutex
	arrived sync.Cond // the queue, or what is below, has changed
	first   *incoming // of the queue
	last    *incoming
	byID    map[uuid.UUID]*incoming // not yet answered
	closed  bool
	leaving bool // takes no new requests
	idle    int  // goroutines of Serve that wait
	// handlers is how many goroutines Serve has.
	handlers int
}

// NewProvider connects to the broker at addr (host:port), within 10 s, and returns when the provider is
// registered: requests may come from then on. The error is ErrUnauthorized where the broker refuses the
// token or the client.
func NewProvider(addr string, channelID uuid.UUID, opts ...ClientOption) (*Provider, error) {
	p := &Provider{client: newClient(addr, RoleProvider, channelID, opts), byID: map[uuid.UUID]*incoming{}}
	p.arrived.L = &p.mu
	p.client.events = sessionEvents{make: p.newStream, accept: p.accept}
	if err := p.client.connect(); err != nil {
		return nil, err
	}
	return p, nil
}

// newStream makes the stream of a request that arrives.
func (p *Provider) newStream() *broker.Stream {
	r := &incoming{provider: p}
	r.stream.Owner = r
	return &r.stream
}

// accept queues a request.
func (p *Provider) accept(s *broker.Stream) {
	r := s.Owner.(*incoming)
	r.ID, r.Reader, r.Metadata = s.ID, requestBody{s}, s.Metadata
	r.context.deadline = epoch.Add(time.Duration(s.Deadline()))
	r.Context = &r.context
	p.mu.Lock()
	duplicate := p.byID[r.ID] != nil
	refused := p.closed || p.leaving
	if !duplicate && !refused && !s.Over() {
		p.byID[r.ID] = r
		p.push(r)
		p.arrived.Signal()
	}
	p.mu.Unlock()
	switch {
	case refused:
		s.End(ErrDraining, frame.Draining)
	case duplicate:
		s.End(errors.New("socket: a request with that id is running"), frame.Rejected)
	}
}

// ended is called once when nobody waits for the request's answer any more.
func (p *Provider) ended(r *incoming, err error) {
	switch err = brokerError(err); {
	case err == nil, errors.Is(err, ErrClosed):
		err = context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		err = context.DeadlineExceeded
	default:
		err = context.Canceled
	}
	r.context.end(err)
	p.mu.Lock()
	p.remove(r)
	if id := r.stream.ID; p.byID[id] == r { // accept may not have come to set r.ID
		delete(p.byID, id)
	}
	p.mu.Unlock()
}

// push appends r to the queue. It needs mu.
func (p *Provider) push(r *incoming) {
	r.queued, r.prev = true, p.last
	if p.last != nil {
		p.last.next = r
	} else {
		p.first = r
	}
	p.last = r
}

// remove takes r out of the queue, if it is there. It needs mu.
func (p *Provider) remove(r *incoming) {
	if !r.queued {
		return
	}
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		p.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		p.last = r.prev
	}
	r.queued, r.prev, r.next = false, nil, nil
}

// Receive waits for a request and returns its id, which Respond needs, and its reader. ok is false once
// the provider is closed. Requests whose time is over are not delivered.
func (p *Provider) Receive() (reqID uuid.UUID, r io.Reader, ok bool) {
	req, err := p.ReceiveContext(context.Background())
	if err != nil {
		return uuid.Nil, nil, false
	}
	return req.ID, req.Reader, true
}

// ReceiveContext waits for a request. The error is ErrClosed once the provider is closed, or ctx's.
func (p *Provider) ReceiveContext(ctx context.Context) (*Request, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if ctx.Done() != nil {
		stop := context.AfterFunc(ctx, p.wake)
		defer stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.take(ctx)
	if err != nil {
		return nil, err
	}
	return &r.Request, nil
}

// wake makes everybody who waits look again.
func (p *Provider) wake() {
	p.mu.Lock()
	p.arrived.Broadcast()
	p.mu.Unlock()
}

// take waits for a request and takes it out of the queue. It needs mu.
func (p *Provider) take(ctx context.Context) (*incoming, error) {
	for {
		switch r := p.first; {
		case p.closed:
			return nil, ErrClosed
		case r != nil:
			p.remove(r)
			if p.first != nil {
				p.arrived.Signal() // a signal may have come for one that had stopped waiting
			}
			return r, nil
		case p.leaving:
			return nil, ErrClosed
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		p.arrived.Wait()
	}
}

// Respond answers a request with what r has, to its end, or with err, which the consumer gets as a
// *RemoteError. It returns when all of the answer is on its way. An error of r reaches the consumer too,
// after what r returned before, and is returned.
//
// The error is ErrUnknownRequest for an id that the provider does not have, or no longer; or says that the
// consumer gave up meanwhile. r is read by a goroutine that may be in r.Read until that returns, unless it
// holds everything in memory: a *bytes.Reader, *bytes.Buffer or *strings.Reader, or the reader of a request
// or of an answer that has come whole.
func (p *Provider) Respond(reqID uuid.UUID, r io.Reader, err error) error {
	p.mu.Lock()
	req := p.byID[reqID]
	if req == nil {
		p.mu.Unlock()
		return ErrUnknownRequest
	}
	p.remove(req)
	delete(p.byID, reqID)
	p.mu.Unlock()
	s := &req.stream
	switch {
	case err != nil:
		return respondError(sendFailure(s, err))
	case r == nil:
		_ = sendFailure(s, errors.New("the provider answered with a nil reader")) // what counts is returned
		return errNilReader
	}
	if size, ok := inMemory(r); ok {
		return respondError(sendMemory(s, r, size))
	}
	return respondError(sendStream(s, r))
}

func respondError(err error) error {
	if errors.Is(err, broker.ErrOver) {
		return fmt.Errorf("%w: nobody waits for its answer", ErrUnknownRequest)
	}
	return err
}

// sendMemory sends what a reader in memory holds.
func sendMemory(s *broker.Stream, r io.Reader, size int) error {
	buf := broker.NewBuffer()
	defer buf.Release()
	t := frame.Head
	for {
		n, err := s.WaitCredit()
		if err != nil {
			return err
		}
		n, err = readFull(r, buf.B[:min(n, size)])
		if err != nil { // somebody else has read from it, or closed it
			return failAnswer(s, err)
		}
		var flags frame.Flags
		if size -= n; size == 0 {
			flags = frame.FlagEnd
		}
		if err := s.Send(t, flags, buf.B[:n]); err != nil {
			return err
		}
		s.Flush()
		if flags != 0 {
			return nil
		}
		t = frame.Data
	}
}

// sendStream sends what r has, and returns at the latest when nobody waits for it any more.
func sendStream(s *broker.Stream, r io.Reader) error {
	if err := s.Send(frame.Head, 0, nil); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		err := pump(s, r)
		if err != nil && !errors.Is(err, broker.ErrOver) {
			err = failAnswer(s, err)
		}
		sent <- err
		s.Wake()
	}()
	s.Flush()
	return s.WaitSent(sent)
}

// failAnswer tells the consumer that reading its answer failed with err, and returns the error to return.
func failAnswer(s *broker.Stream, err error) error {
	failed := fmt.Errorf("socket: reading the answer: %w", err)
	if err := sendFailure(s, err); err != nil {
		return errors.Join(failed, err)
	}
	return failed
}

// sendFailure sends the message of err in place of an answer, or of the rest of it.
func sendFailure(s *broker.Stream, err error) error {
	message := errorMessage(err)
	if err := s.Send(frame.Head, frame.FlagError, nil); err != nil {
		return err
	}
	err = pump(s, bytes.NewReader([]byte(message)))
	s.Flush()
	return err
}

// errorMessage returns err.Error(), which is the user's.
func errorMessage(err error) (message string) {
	defer func() {
		if v := recover(); v != nil {
			message = fmt.Sprintf("an error that panicked: %v", v)
		}
	}()
	return err.Error()
}

// Close ends the connection. Consumers whose requests run get ErrProviderLost, Receive returns false and
// Serve ErrClosed. It returns when the connection has ended; goroutines that send answers end at once, but
// for one that is in an answer's own reader. It is idempotent and returns nil.
func (p *Provider) Close() error {
	p.mu.Lock()
	p.closed = true
	p.arrived.Broadcast()
	p.mu.Unlock()
	p.client.close()
	return nil
}
