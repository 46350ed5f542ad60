package socket_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// answerer is a provider.
type answerer struct {
	h        *history
	number   int
	channel  byte
	faulty   bool
	provider *socket.Provider
	// killed says that it was closed while it may have had requests.
	killed atomic.Bool
	leave  context.CancelFunc
	ended  chan struct{} // once it takes no more
	once   sync.Once
}

const (
	direct       = false
	behindFaults = true
)

// newAnswerer makes a provider that works until it is closed. nil where it cannot connect, which it must
// without faults.
func (h *history) newAnswerer(channel byte, faulty bool, work func(context.Context, *answerer)) *answerer {
	h.mu.Lock()
	p := &answerer{h: h, number: len(h.providers), channel: channel, faulty: faulty, ended: make(chan struct{})}
	h.providers = append(h.providers, p)
	h.mu.Unlock()
	addr, opts := h.rig.farAddr, []socket.ClientOption{quietBroker()}
	if faulty {
		addr = h.toBroker[1].addr()
	}
	if p.number%3 == 0 {
		opts = append(opts, socket.WithDial(opaqueDial))
	}
	provider, err := socket.NewProvider(addr, h.channels[channel], opts...)
	if err != nil {
		close(p.ended)
		if !faulty {
			h.violation("NewProvider, without faults: %v", err)
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	p.provider, p.leave = provider, cancel
	go func() {
		defer close(p.ended)
		work(ctx, p)
	}()
	return p
}

// keepProvider fails the test where the provider could not be made.
func (h *history) keepProvider(p *answerer) {
	h.t.Helper()
	if p == nil {
		h.t.Fatal("a provider could not connect before the faults began")
	}
}

// close closes the provider and waits for its work to end.
func (p *answerer) close() {
	p.once.Do(func() {
		if p.provider != nil {
			_ = p.provider.Close()
			<-p.ended
			p.leave()
		}
	})
}

// replacing keeps a provider on the channel that gives way to the next now and then: at once, or when its
// work is done.
func (h *history) replacing(channel byte, faulty bool) {
	old := h.newAnswerer(channel, faulty, h.toServe)
	h.keepProvider(old)
	h.churning(2+uint64(channel), func(random *rand.Rand) {
		next := h.newAnswerer(channel, faulty, h.toServe)
		if next == nil {
			return
		}
		if random.IntN(2) == 0 {
			old.killed.Store(true)
			h.count("provider killed")
		} else {
			old.leave()
			<-old.ended
			h.count("provider left")
		}
		old.close()
		old = next
	})
}

// toServe answers with Serve.
func (h *history) toServe(ctx context.Context, p *answerer) {
	if err := p.provider.Serve(ctx, p.answer); err != nil && !errors.Is(err, socket.ErrClosed) {
		h.violation("Serve: %v", err)
	}
}

// toReceive answers with ReceiveContext and Respond.
func (h *history) toReceive(ctx context.Context, p *answerer) {
	var answering sync.WaitGroup
	defer answering.Wait()
	for {
		r, err := p.provider.ReceiveContext(ctx)
		if err != nil {
			if !errors.Is(err, socket.ErrClosed) {
				h.violation("ReceiveContext: %v", err)
			}
			return
		}
		answering.Go(func() { p.respond(r) })
	}
}

// respond does what Serve does, and a little more.
func (p *answerer) respond(r *socket.Request) {
	body, err := p.answerSafely(r)
	err = p.provider.Respond(r.ID, body, err)
	readers := errors.Is(err, errBrokenAnswer) // the answer's own reader failed
	if s, ok := body.(*streamed); ok {
		readers = readers || s.failed.Load()
	}
	if err != nil && !readers && !errors.Is(err, socket.ErrUnknownRequest) {
		p.h.violation("Respond: %v", err)
	}
	if closer, ok := body.(io.Closer); ok {
		_ = closer.Close()
	}
	if err := p.provider.Respond(r.ID, strings.NewReader("again"), nil); !errors.Is(err, socket.ErrUnknownRequest) {
		p.h.violation("the second Respond: got %v, want ErrUnknownRequest", err)
	}
}

func (p *answerer) answerSafely(r *socket.Request) (body io.Reader, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%s%v", handlerPanicked, v)
		}
	}()
	return p.answer(r.Context, r)
}

// answer is the handler of all providers.
func (p *answerer) answer(ctx context.Context, r *socket.Request) (io.Reader, error) {
	p.h.handlers.Add(1)
	defer p.h.handlers.Add(-1)
	a, head, err := p.identify(r)
	if err != nil {
		return nil, err
	}
	p.begin(a, r)
	q := a.question
	random := rand.New(rand.NewPCG(q.seed, 1<<44+uint64(q.number)))
	body := &arriving{p: p, a: a, r: io.MultiReader(bytes.NewReader(head), r.Reader), want: questionBody(q.channel, a.id, q.size)}
	answer := answerBody(q.channel, a.id, p.number, q.answerSize)
	switch q.answer {
	case answerEarly:
		return p.pieces(ctx, a, random, answer, nil), nil
	case answerStream:
		return &streamed{r: body, provider: p.number, head: historyStamp(q.channel, a.id, p.number)}, nil
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		return nil, fmt.Errorf("history: the request was not read: %w", err)
	}
	if random.IntN(2) == 0 {
		pause(between(random, 0, 40*time.Millisecond), ctx.Done())
	}
	switch q.answer {
	case answerPieces:
		return p.pieces(ctx, a, random, answer, nil), nil
	case answerBroken:
		return p.pieces(ctx, a, random, answer[:len(answer)/2], a.breakage()), nil
	case answerEmpty:
		return strings.NewReader(""), nil
	case answerError:
		return nil, a.refusal()
	case answerPanic:
		panic(a.panic())
	case answerNever:
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return bytes.NewReader(answer), nil
}

// identify finds the attempt that a request is, by its metadata, else by its stamp, which it returns.
func (p *answerer) identify(r *socket.Request) (*attempt, []byte, error) {
	if s, ok := r.Metadata["attempt"]; ok {
		id, err := strconv.ParseUint(s, 10, 32)
		if a := p.h.find(uint32(id)); err == nil && a != nil {
			return a, nil, nil
		}
		p.h.violation("a provider got the metadata %v", r.Metadata)
		return nil, nil, errors.New("history: unknown")
	}
	head := make([]byte, stampedHeader)
	if n, err := io.ReadFull(r.Reader, head); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		p.h.violation("a provider got a clean end after %d bytes of a stamp", n)
		return nil, nil, err
	} else if err != nil {
		return nil, nil, err
	}
	a := p.h.find(uint32(unspread(binary.BigEndian.Uint64(head))))
	if a == nil {
		p.h.violation("a provider got a stamp that nobody sent: %x", head)
		return nil, nil, errors.New("history: unknown")
	}
	return a, head, nil
}

// begin notes that an execution begins.
func (p *answerer) begin(a *attempt, r *socket.Request) {
	a.by.Store(p)
	if n := a.begun.Add(1); n > 1 {
		p.h.violation("attempt %d was begun %d times", a.id, n)
	}
	if a.question.channel != p.channel {
		p.h.violation("attempt %d of channel %d came to channel %d", a.id, a.question.channel, p.channel)
	}
	if key, ok := r.Metadata["idempotency-key"]; ok != a.question.idempotent || ok && key != a.question.key() {
		p.h.violation("attempt %d came with the metadata %v", a.id, r.Metadata)
	}
	if deadline, ok := r.Context.Deadline(); !ok || time.Until(deadline) > a.question.timeout+time.Millisecond {
		p.h.violation("attempt %d, of %v, came with the deadline %v", a.id, a.question.timeout, deadline)
	}
}

// arriving is the reader of a request, which checks what it reads.
type arriving struct {
	p    *answerer
	a    *attempt
	r    io.Reader
	want []byte // what is to come
	read int
	over bool
}

func (b *arriving) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if wrong := whatDiffers(b.a.question.channel, p[:n], b.want); wrong != nil {
		b.p.h.violation("attempt %d, after %d bytes of the request: %v", b.a.id, b.read, wrong)
	}
	b.want, b.read = b.want[min(n, len(b.want)):], b.read+n
	if err == io.EOF && !b.over {
		b.over = true
		b.a.executed.Add(1)
		if len(b.want) > 0 || b.a.question.body == bodyBroken {
			b.p.h.violation("attempt %d: a clean end of the request after %d bytes of %d", b.a.id, b.read, b.a.question.size)
		}
	}
	return n, err
}

// streamed makes an answer of a request while it arrives.
type streamed struct {
	r        io.Reader
	provider int
	head     []byte // what goes first
	failed   atomic.Bool
}

func (s *streamed) Read(p []byte) (int, error) {
	if len(s.head) > 0 {
		n := copy(p, s.head)
		s.head = s.head[n:]
		return n, nil
	}
	n, err := s.r.Read(p)
	disguise(p[:n], s.provider)
	if err != nil && err != io.EOF {
		s.failed.Store(true)
	}
	return n, err
}

// pieces is an answer that comes now and then, and ends with err, nil for a clean end.
func (p *answerer) pieces(ctx context.Context, a *attempt, random *rand.Rand, data []byte, err error) *pieces {
	p.h.openAnswers.Add(1)
	if err == nil {
		err = io.EOF
	}
	return &pieces{h: p.h, id: a.id, ctx: ctx, random: random, data: data, err: err}
}

type pieces struct {
	h      *history
	id     uint32
	ctx    context.Context
	random *rand.Rand
	data   []byte
	err    error
	closed atomic.Bool
}

func (b *pieces) Read(p []byte) (int, error) {
	if b.random.IntN(3) == 0 {
		pause(between(b.random, 0, 10*time.Millisecond), b.ctx.Done())
	}
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p[:min(len(p), 1+b.random.IntN(40<<10))], b.data)
	b.data = b.data[n:]
	return n, nil
}

func (b *pieces) Close() error {
	if b.closed.Swap(true) {
		b.h.violation("the answer to %d was closed twice", b.id)
	}
	b.h.openAnswers.Add(-1)
	return nil
}
