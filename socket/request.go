package socket

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
)

// Request is one that a Provider was given.
type Request struct {
	// ID is what Respond needs.
	ID uuid.UUID
	// Reader gives the request as it arrives, to io.EOF. Any other error means that the rest will not
	// come: the consumer gave up, its time is over, or a connection was lost.
	Reader io.Reader
	// Context ends when nobody waits for the answer: it is complete, the consumer gave up, the time is
	// over, or the connection to the broker was lost. Its deadline is the request's.
	Context context.Context //nolint:containedctx // it is the request's own, as in net/http
	// Metadata is what the consumer's WithMetadata said, nil for nothing.
	Metadata map[string]string
}

// incoming is a request that a provider holds.
type incoming struct {
	Request
	provider *Provider
	stream   broker.Stream
	context  requestContext

	// Guarded by Provider.mu.
	prev, next *incoming // in the queue
	queued     bool
}

// Ended is called by the stream.
func (in *incoming) Ended(err error) { in.provider.ended(in, err) }

// requestBody is the reader of a request.
type requestBody struct{ stream *broker.Stream }

func (b requestBody) Read(p []byte) (int, error) {
	n, err := b.stream.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // it is not wrapped
		err = brokerError(err)
	}
	return n, err
}

func (b requestBody) WriteTo(w io.Writer) (int64, error) {
	n, err := b.stream.WriteTo(w)
	return n, brokerError(err)
}

// requestContext is a context.Context that costs nothing until somebody waits for it.
type requestContext struct {
	deadline time.Time

	mu    sync.Mutex
	done  chan struct{} // made by the first Done
	err   error
	after map[*func()]struct{}
}

func (c *requestContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (c *requestContext) Value(any) any { return nil }

func (c *requestContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *requestContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		}
	}
	return c.done
}

// AfterFunc calls f in a goroutine of its own once the context has ended. The context package looks for
// it: a context made from this one then needs no goroutine to follow it.
func (c *requestContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	if c.after == nil {
		c.after = map[*func()]struct{}{}
	}
	c.after[&f] = struct{}{}
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, waiting := c.after[&f]
		delete(c.after, &f)
		return waiting
	}
}

// end ends the context. Of several calls the first counts.
func (c *requestContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	for f := range c.after {
		go (*f)()
	}
	c.after = nil
}
