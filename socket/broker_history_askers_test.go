package socket_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// askingSlot is a place for a consumer.
type askingSlot struct {
	h        *history
	channel  byte
	faulty   bool // behind a proxy
	replaced bool // and closed, now and then
	current  atomic.Pointer[socket.Consumer]
}

func (h *history) newSlot(channel byte, faulty, other bool) *askingSlot {
	s := &askingSlot{h: h, channel: channel, faulty: faulty, replaced: other && !faulty}
	addr, opts := h.rig.addr, []socket.ClientOption{quietBroker()}
	if faulty {
		addr = h.toBroker[0].addr()
	}
	if faulty && other {
		opts = append(opts, socket.WithDial(opaqueDial))
	}
	c, err := socket.NewConsumer(addr, h.channels[channel], opts...)
	if err != nil {
		h.t.Fatalf("NewConsumer: %v", err)
	}
	s.current.Store(c)
	return s
}

// replace puts a new consumer into the slot and closes the old one, whatever it does.
func (s *askingSlot) replace(*rand.Rand) {
	c, err := socket.NewConsumer(s.h.rig.addr, s.h.channels[s.channel], quietBroker())
	if err != nil {
		s.h.violation("NewConsumer, without faults: %v", err)
		return
	}
	_ = s.current.Swap(c).Close()
}

// opaqueDial dials a connection that is only a net.Conn to the client.
func opaqueDial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return struct{ net.Conn }{conn}, nil
}

// attempt is one Send, and what was seen of it.
type attempt struct {
	id       uint32
	question *question

	begun    atomic.Int32             // how many handlers were called with it
	executed atomic.Int32             // how many of them have read all of it
	by       atomic.Pointer[answerer] // the last of them

	// Written by its asker.
	outcome error // nil for an answer that was read to its end, or given up
	answer  bool  // it was read to its end
}

func (h *history) newAttempt(q *question) *attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := &attempt{id: uint32(len(h.attempts)), question: q}
	h.attempts = append(h.attempts, a)
	return a
}

// find returns the attempt of that id, nil for none.
func (h *history) find(id uint32) *attempt {
	h.mu.Lock()
	defer h.mu.Unlock()
	if int64(id) >= int64(len(h.attempts)) {
		return nil
	}
	return h.attempts[id]
}

// ask asks until there is an outcome that forbids to ask again, and returns it.
func (h *history) ask(q *question) error {
	random := rand.New(rand.NewPCG(q.seed, 1<<41+uint64(q.number)))
	first := time.Now()
	for try := 1; ; try++ {
		a := h.newAttempt(q)
		began := time.Now()
		a.outcome = h.attempt(a)
		if a.outcome != nil {
			h.judge(a, time.Since(began))
		}
		again := socket.Retryable(a.outcome) ||
			q.idempotent && (errors.Is(a.outcome, socket.ErrProviderLost) || errors.Is(a.outcome, socket.ErrConnectionLost))
		if !again || try == historyTries || time.Since(first) > historyPatience {
			return a.outcome
		}
		<-time.After(between(random, time.Millisecond, 20*time.Millisecond<<min(try, 3)))
	}
}

// attempt sends the question once, and uses the answer.
func (h *history) attempt(a *attempt) error {
	q := a.question
	ctx, cancel := context.WithTimeout(context.Background(), q.timeout)
	defer cancel()
	if q.cancel > 0 {
		defer time.AfterFunc(q.cancel, cancel).Stop()
	}
	defer time.AfterFunc(q.timeout+historySlack, func() {
		buf := make([]byte, 1<<20)
		h.violation("attempt %d (%+v) is not over %v after its timeout\n%s", a.id, *q, historySlack, buf[:runtime.Stack(buf, true)])
	}).Stop()
	body := h.body(a)
	if closer, ok := body.(io.Closer); ok {
		defer closer.Close()
	}
	consumer := h.consumers[q.channel][q.consumer].current.Load()
	var answer io.Reader
	var err error
	if q.plainSend {
		answer, err = consumer.Send(body, q.timeout)
	} else {
		var closable io.ReadCloser
		closable, err = consumer.SendContext(ctx, body, socket.WithMetadata(a.metadata()))
		if closable != nil { // else answer would not be nil
			answer = closable
		}
	}
	switch {
	case err != nil && answer != nil:
		h.violation("attempt %d: a reader came with the error %v", a.id, err)
		return err
	case err != nil:
		return err
	case answer == nil:
		h.violation("attempt %d: no reader and no error", a.id)
		return nil
	}
	return h.use(a, answer)
}

func (a *attempt) metadata() map[string]string {
	m := map[string]string{"attempt": strconv.Itoa(int(a.id))}
	if a.question.idempotent {
		m["idempotency-key"] = a.question.key()
	}
	return m
}

// body is the reader of the attempt's body. One that is a Closer is to be closed once it is not needed.
func (h *history) body(a *attempt) io.Reader {
	q := a.question
	data := questionBody(q.channel, a.id, q.size)
	random := rand.New(rand.NewPCG(q.seed, 1<<42+uint64(q.number)))
	if q.body == bodyInMemory {
		switch random.IntN(3) {
		case 0:
			return strings.NewReader(string(data))
		case 1:
			return bytes.NewBuffer(data)
		}
		return bytes.NewReader(data)
	}
	r, w := io.Pipe()
	h.asking.Go(func() {
		if q.body == bodyBroken {
			data = data[:len(data)/2]
		}
		for len(data) > 0 {
			n := min(len(data), 1+random.IntN(40<<10))
			if _, err := w.Write(data[:n]); err != nil {
				return
			}
			if data = data[n:]; random.IntN(3) == 0 {
				<-time.After(between(random, 0, 5*time.Millisecond))
			}
		}
		err := error(nil)
		if q.body == bodyBroken {
			err = errBrokenBody
		}
		_ = w.CloseWithError(err)
	})
	return r
}

var errBrokenBody = errors.New("history: the body broke")

// use does with the answer what the question says. nil means that the answer came to its end, or was given up.
func (h *history) use(a *attempt, answer io.Reader) error {
	q := a.question
	random := rand.New(rand.NewPCG(q.seed, 1<<43+uint64(q.number)))
	most := math.MaxInt
	switch q.use {
	case useForget:
		return nil
	case useNothing:
		most = 0
	case useHalf:
		most = random.IntN(q.answerSize + stampedHeader)
	}
	var got []byte
	pauses := 0 // bounded: an answer that has come whole may be read after its timeout
	buf := make([]byte, 1+random.IntN(40<<10))
	for len(got) < most {
		n, err := answer.Read(buf)
		got = append(got, buf[:n]...)
		if err != nil {
			h.checkAnswer(a, got, err == io.EOF)
			if err == io.EOF {
				return nil
			}
			return err
		}
		if q.use == useSlowly && pauses < 20 && random.IntN(2) == 0 {
			pauses++
			<-time.After(between(random, 0, 10*time.Millisecond))
		}
	}
	h.checkAnswer(a, got, false)
	h.count("answer given up")
	if err := answer.(io.Closer).Close(); err != nil {
		h.violation("attempt %d: closing the answer: %v", a.id, err)
	}
	if n, err := answer.Read(buf); n > 0 || err == nil {
		h.violation("attempt %d: reading a closed answer gave %d bytes, %v", a.id, n, err)
	}
	return nil
}

// checkAnswer says whether got is the attempt's answer, or the beginning of it.
func (h *history) checkAnswer(a *attempt, got []byte, complete bool) {
	q := a.question
	if complete {
		a.answer = true
		h.count("answer")
		switch q.answer {
		case answerError, answerBroken, answerPanic, answerNever:
			h.violation("attempt %d: a clean end after %d bytes of an answer that has none", a.id, len(got))
		}
	}
	if q.answer == answerEmpty {
		if len(got) > 0 {
			h.violation("attempt %d: %d bytes of an empty answer", a.id, len(got))
		}
		return
	}
	if len(got) < stampedHeader {
		if err := whatDiffers(q.channel, got, historyStamp(q.channel, a.id, 0)[:8]); err != nil && len(got) <= 8 {
			h.violation("attempt %d: %v", a.id, err)
		}
		if complete {
			h.violation("attempt %d: a clean end after %d bytes", a.id, len(got))
		}
		return
	}
	provider := int(unspread(binary.BigEndian.Uint64(got[8:])))
	size := q.answerSize
	if q.answer == answerStream {
		size = q.size
	}
	want := answerBody(q.channel, a.id, provider, size)
	if err := whatDiffers(q.channel, got, want); err != nil {
		h.violation("attempt %d on channel %d got a foreign answer, of attempt %d by provider %d: %v",
			a.id, q.channel, unspread(binary.BigEndian.Uint64(got)), provider, err)
		return
	}
	if complete && len(got) < len(want) {
		h.violation("attempt %d: a clean end after %d bytes of %d", a.id, len(got), len(want))
	}
	if by := a.by.Load(); by == nil {
		h.violation("attempt %d was answered by provider %d, and begun by none", a.id, provider)
	} else if by.number != provider {
		h.violation("attempt %d was answered by provider %d, and begun by %d", a.id, provider, by.number)
	}
}

// judge says whether an attempt may have ended with the error that it did.
func (h *history) judge(a *attempt, took time.Duration) {
	q, err := a.question, a.outcome
	slot := h.consumers[q.channel][q.consumer]
	var remote *socket.RemoteError
	kind, fine := "", false
	switch {
	case errors.As(err, &remote):
		kind, fine = "RemoteError", slices.Contains(a.messages(), remote.Message)
	case errors.Is(err, errBrokenBody):
		kind, fine = "the body's error", q.body == bodyBroken
	case errors.Is(err, context.DeadlineExceeded):
		kind, fine = "deadline", took > q.timeout-time.Millisecond
	case errors.Is(err, context.Canceled):
		kind, fine = "canceled", q.cancel > 0 && took > q.cancel-time.Millisecond
	case errors.Is(err, socket.ErrNoProvider):
		kind, fine = "ErrNoProvider", q.channel == 1
	case errors.Is(err, socket.ErrProviderLost) && socket.Retryable(err):
		kind, fine = "ErrProviderLost, unsent", true
	case errors.Is(err, socket.ErrProviderLost):
		kind, fine = "ErrProviderLost", true
	case errors.Is(err, socket.ErrBusy):
		kind, fine = "ErrBusy", true
	case errors.Is(err, socket.ErrDraining):
		kind, fine = "ErrDraining", true
	case errors.Is(err, socket.ErrNotConnected):
		kind, fine = "ErrNotConnected", slot.faulty
	case errors.Is(err, socket.ErrConnectionLost):
		kind, fine = "ErrConnectionLost", slot.faulty
	case errors.Is(err, socket.ErrClosed):
		kind, fine = "ErrClosed", slot.replaced
	}
	if kind == "" {
		kind = "an undocumented error"
	}
	h.count(kind)
	if !fine {
		h.violation("attempt %d (%+v) ended after %v with what it must not: %s: %v", a.id, *q, took, kind, err)
	}
}

// messages are those of the errors that a provider may answer the attempt with.
func (a *attempt) messages() []string {
	switch a.question.answer {
	case answerError:
		return []string{a.refusal().Error()}
	case answerBroken:
		return []string{a.breakage().Error()}
	case answerPanic:
		return []string{handlerPanicked + a.panic()}
	}
	return nil
}

// handlerPanicked begins the message that Serve makes of a panic.
const handlerPanicked = "the handler panicked: "

func (a *attempt) refusal() error { return fmt.Errorf("history: attempt %d is refused", a.id) }
func (a *attempt) breakage() error {
	return fmt.Errorf("history: attempt %d: %w", a.id, errBrokenAnswer)
}
func (a *attempt) panic() string { return fmt.Sprintf("history: attempt %d", a.id) }

var errBrokenAnswer = errors.New("the answer broke")
