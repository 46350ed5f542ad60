package socket

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

const (
	// defaultTimeout is that of a Send with timeout 0.
	defaultTimeout = 30 * time.Second
	// longestTimeout is that of a request whose context has no deadline: what an OPEN can say.
	longestTimeout = math.MaxUint32 * time.Millisecond
)

// Consumer sends requests to the providers of a channel. It keeps one connection to the broker, over
// which any number of requests run at once, and connects again by itself. All methods are safe for
// concurrent use. Close it when it is no longer needed.
type Consumer struct{ client *client }

// NewConsumer connects to the broker at addr (host:port), within 10 s, and returns when requests can be
// sent. The error is ErrUnauthorized where the broker refuses the token or the client.
func NewConsumer(addr string, channelID uuid.UUID, opts ...ClientOption) (*Consumer, error) {
	c := newClient(addr, RoleConsumer, channelID, opts)
	if err := c.connect(); err != nil {
		return nil, err
	}
	return &Consumer{client: c}, nil
}

// Send sends what r has to its end, and returns when the answer begins; the answer's reader gives it as
// it arrives. timeout bounds all of it, from the first byte of r to the last of the answer; 0 is 30 s.
// When it is over, errors.Is(err, context.DeadlineExceeded) is true of what Send or the reader returns; so it
// is at once where timeout is negative.
//
// Errors are ErrNoProvider, ErrProviderLost, ErrBusy, ErrDraining, ErrNotConnected and ErrConnectionLost
// (see each), a *RemoteError, ErrClosed, or wrap what r returned. r is read until its end, or until the
// request is over; a *bytes.Reader, *bytes.Buffer or *strings.Reader of at most 64 KiB before Send
// returns, others by a goroutine, which may be in r.Read until that returns.
//
// An answer that is not read holds at most Limits.Window bytes, until the timeout.
func (c *Consumer) Send(r io.Reader, timeout time.Duration) (io.Reader, error) {
	if timeout == 0 {
		timeout = defaultTimeout
	}
	answer, err := c.send(context.Background(), r, timeout, nil)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// SendContext is Send with a context: when it ends, the request does, and the provider is told. Its
// deadline is the request's; without one the request may take any time. Close the answer when it is not
// read to its end.
func (c *Consumer) SendContext(ctx context.Context, r io.Reader, opts ...SendOption) (io.ReadCloser, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	timeout := longestTimeout
	if deadline, ok := ctx.Deadline(); ok {
		timeout = time.Until(deadline)
	}
	answer, err := c.send(ctx, r, timeout, opts)
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// Close ends the connection. Running requests get ErrClosed, and so does every later call. It returns when
// the connection has ended; goroutines that send requests end at once, but for one that is in a request's own
// reader. It is idempotent and returns nil.
func (c *Consumer) Close() error {
	c.client.close()
	return nil
}

func (c *Consumer) send(ctx context.Context, r io.Reader, timeout time.Duration, opts []SendOption) (*answer, error) {
	switch {
	case r == nil:
		return nil, errNilReader
	case timeout < 0:
		return nil, ErrTimeout
	}
	req := broker.Request{ID: newRequestID(), Timeout: min(timeout, longestTimeout)}
	for _, opt := range opts {
		if err := opt.applyToRequest(&req); err != nil {
			return nil, err
		}
	}
	s, err := c.client.session()
	if err != nil {
		return nil, err
	}
	var body inMemoryBody
	if size, ok := inMemory(r); ok {
		if err := body.read(r, size, frame.MaxPayload-len(req.Metadata)-openOverhead); err != nil {
			return nil, err
		}
		req.Data, req.Whole = body.first.B[:body.n], size <= body.n
	}
	defer body.release()
	a := &answer{}
	if ctx.Done() != nil {
		a.stream.Owner = a
	}
	err = s.endpoint.Open(&a.stream, req, sinceEpoch())
	if err != nil {
		if err == broker.ErrLost { //nolint:errorlint // it is not wrapped
			err = ErrNotConnected // nothing was sent
		}
		return nil, brokerError(err)
	}
	if ctx.Done() != nil {
		a.follow(ctx)
	}
	switch {
	case req.Whole:
	case body.rest != nil: // where nobody waits for it any more, WaitHead says why
		_ = a.stream.Send(frame.Data, frame.FlagEnd, body.rest.B[:body.m])
	default:
		go a.upload(r)
	}
	body.release()
	a.stream.Flush()
	if err := a.stream.WaitHead(); err != nil {
		return nil, brokerError(err)
	}
	return a, nil
}

// inMemoryBody is what Send has read of a reader that never waits: what goes with the OPEN, and where it is
// little, the rest.
type inMemoryBody struct {
	first, rest *broker.Buffer
	n, m        int // bytes in them
}

// read reads up to room bytes of the size that r has, or, where they fit the first credit, all of them.
func (b *inMemoryBody) read(r io.Reader, size, room int) error {
	b.first, b.n = broker.NewBuffer(), min(size, room)
	_, err := readFull(r, b.first.B[:b.n])
	if err == nil && size > room && size <= frame.InitialWindow {
		b.rest, b.m = broker.NewBuffer(), size-room
		_, err = readFull(r, b.rest.B[:b.m])
	}
	if err != nil { // somebody else has read from it, or closed it
		b.release()
		return fmt.Errorf("socket: reading the request: %w", err)
	}
	return nil
}

func (b *inMemoryBody) release() {
	b.first.Release()
	b.rest.Release()
	b.first, b.rest = nil, nil
}

// openOverhead is what an OPEN's payload holds beside metadata and data.
const openOverhead = 22

// newRequestID returns a random UUID (RFC 9562, version 4). It names a request and protects nothing.
func newRequestID() (id uuid.UUID) {
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// answer is the reader that a consumer gets.
type answer struct {
	stream broker.Stream

	mu   sync.Mutex
	over bool
	stop func() bool // ends following the context
}

// follow ends the request when ctx ends.
func (a *answer) follow(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() {
		code := frame.Cancelled
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			code = frame.Deadline
		}
		a.stream.End(ctx.Err(), code)
	})
	a.mu.Lock()
	a.stop = stop
	over := a.over
	a.mu.Unlock()
	if over {
		stop()
	}
}

// Ended is called by the stream.
func (a *answer) Ended(error) {
	a.mu.Lock()
	a.over = true
	stop := a.stop
	a.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// upload sends the request's body.
func (a *answer) upload(r io.Reader) {
	if err := pump(&a.stream, r); err != nil && !errors.Is(err, broker.ErrOver) {
		a.stream.End(fmt.Errorf("socket: reading the request: %w", err), frame.Cancelled)
	}
}

// Read reads the answer as it arrives.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.stream.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // it is not wrapped
		err = brokerError(err)
	}
	return n, err
}

// WriteTo writes the rest of the answer to w.
func (a *answer) WriteTo(w io.Writer) (int64, error) {
	n, err := a.stream.WriteTo(w)
	return n, brokerError(err)
}

// Close ends the request, if its answer is not complete, and tells the provider. What was not read is dropped.
func (a *answer) Close() error {
	a.stream.End(ErrClosed, frame.Cancelled)
	return nil
}
