package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// Handler answers a request. ctx is the request's Context. The answer is what the reader has, to its end;
// one that is an io.Closer is closed afterwards; where nobody waits for the answer any more, perhaps while its
// Read runs. An error is sent in its place.
type Handler func(ctx context.Context, r *Request) (io.Reader, error)

// leavePatience is how long the broker may take to say that it sends no more requests. What comes later is
// sent back, and the consumer may try again.
const leavePatience = 2 * time.Second

// maxIdleHandlers is how many goroutines of Serve wait for the next request; more end.
const maxIdleHandlers = 64

// Serve answers requests with h, each in a goroutine, until ctx ends or the provider is closed. When ctx
// ends the broker is told to send no more requests to this provider; those that are there are answered, and
// when the broker has read the answers Serve returns nil. Close the provider after it: it takes no requests
// any more. After Close Serve returns ErrClosed, once the handlers have returned.
//
// At most as many handlers run at once as the broker lets requests run on a connection (Limits.Streams). The
// end of the context of one Serve is that of all: the broker sends the provider no more requests.
//
// A handler that panics, or ends its goroutine, costs its request, which is answered with an error, and a line
// in the log.
func (p *Provider) Serve(ctx context.Context, h Handler) error {
	switch {
	case ctx == nil:
		return errNilContext
	case h == nil:
		return errors.New("socket: nil handler")
	}
	var handlers sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { p.leave() })
	defer stop()
	p.mu.Lock()
	p.startHandler(&handlers, h)
	p.mu.Unlock()
	handlers.Wait()
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if closed {
		return ErrClosed
	}
	p.deliver()
	return nil
}

// leave makes the provider take no new requests: it tells the broker, whose answer comes after the last of
// them, or does not come because the connection is lost.
func (p *Provider) leave() {
	c := p.client
	c.mu.Lock()
	c.retired = true
	sessions := slices.Collect(maps.Keys(c.sessions))
	c.mu.Unlock()
	patience, cancel := context.WithTimeout(c.life, leavePatience)
	defer cancel()
	for _, s := range sessions {
		s.endpoint.Leave()
		select {
		case <-s.leaving:
		case <-s.ended:
		case <-patience.Done():
		}
	}
	p.mu.Lock()
	p.leaving = true
	p.arrived.Broadcast()
	p.mu.Unlock()
}

// deliver waits until the broker has read every answer, and then ends the connection; unless there are
// requests that Receive gave out: those may still be answered.
func (p *Provider) deliver() {
	c := p.client
	c.mu.Lock()
	sessions := slices.Collect(maps.Keys(c.sessions))
	c.mu.Unlock()
	for _, s := range sessions {
		if s.link.awaitWritten(forever) && s.endpoint.Running() == 0 {
			s.sayGoodbye(forever, forever)
		}
	}
}

// handle takes requests and answers them. While it answers one another goroutine waits for the next, so
// that a request starts with one switch of goroutines. There are at most as many as the broker lets requests
// run at once: of one that is cancelled the handler may go on.
func (p *Provider) handle(handlers *sync.WaitGroup, h Handler) {
	normal := false
	defer func() {
		p.mu.Lock()
		p.handlers--
		if !normal && p.idle == 0 { // a handler has called runtime.Goexit
			p.startHandler(handlers, h)
		}
		p.mu.Unlock()
	}()
	for r := p.next(handlers, h); r != nil; r = p.next(handlers, h) {
		p.answer(&r.Request, h)
	}
	normal = true
}

// startHandler starts another handle. It needs mu.
func (p *Provider) startHandler(handlers *sync.WaitGroup, h Handler) {
	p.handlers++
	handlers.Go(func() { p.handle(handlers, h) })
}

// next waits for the next request for a handler. It returns nil where that is to end.
func (p *Provider) next(handlers *sync.WaitGroup, h Handler) *incoming {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle >= maxIdleHandlers {
		return nil
	}
	p.idle++
	r, err := p.take(context.Background())
	p.idle--
	if err != nil {
		return nil
	}
	if p.idle == 0 && int64(p.handlers) < p.client.streams.Load() {
		p.startHandler(handlers, h)
	}
	return r
}

// answer answers one request.
func (p *Provider) answer(r *Request, h Handler) {
	returned := false
	defer func() {
		if !returned {
			p.client.cfg.log.Error("a handler has ended its goroutine", "channel", p.client.channel)
			_ = p.Respond(r.ID, nil, errors.New("the handler ended its goroutine")) // if it has not responded
		}
	}()
	body, err := p.call(r, h)
	if err := p.Respond(r.ID, body, err); err != nil && !errors.Is(err, ErrUnknownRequest) {
		p.client.cfg.log.Warn("a request was not answered in full", "channel", p.client.channel, "request", r.ID, "error", err)
	}
	if closer, ok := body.(io.Closer); ok {
		p.closeAnswer(closer)
	}
	returned = true
}

func (p *Provider) closeAnswer(closer io.Closer) {
	defer p.recovered(nil)
	if err := closer.Close(); err != nil {
		p.client.cfg.log.Debug("closing an answer failed", "channel", p.client.channel, "error", err)
	}
}

// call calls the user's handler.
func (p *Provider) call(r *Request, h Handler) (body io.Reader, err error) {
	defer p.recovered(&err)
	return h(r.Context, r)
}

// recovered turns a panic of the user's code into a line in the log, and into an error.
func (p *Provider) recovered(err *error) {
	v := recover()
	if v == nil {
		return
	}
	p.client.cfg.log.Error("a handler panicked", "channel", p.client.channel, "panic", v, "stack", string(debug.Stack()))
	if err != nil {
		*err = fmt.Errorf("the handler panicked: %v", v)
	}
}
