package socket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

const (
	// laneQueue is how many bytes of messages may wait to be sent on a lane.
	laneQueue = 4 << 20
	// laneBatches is how many batches may be under way on a lane.
	laneBatches = 64
	// laneTimeout is how long the answers to a batch may take.
	laneTimeout = 10 * time.Second
	// maxBatch is the size in bytes of a batch past which nothing is added to it.
	maxBatch = 256 << 10
)

// A batch is a request on the SidecarChannel with many messages, each behind its length as a uvarint. The answer
// begins with a byte 0, once all of them are on their way to the service, in that order; then come the replies as they arrive: twice the
// number of the message, plus one for a failure (see sidecarFailures); the length; the reply. Numbers and lengths are
// uvarints. A message without an id has no reply.
//
// The metadata name the lane: what comes on one goes over one connection to the service.
const (
	sidecarBatch = "batch"
	sidecarLane  = "lane"
)

// brokerLane is a wire.Lane over a broker: what was posted meanwhile goes in one request, behind the one before.
type brokerLane struct {
	transport *BrokerTransport
	id        string
	wake      chan struct{} // to send; has room for one
	flying    chan struct{} // has room for laneBatches

	mu      sync.Mutex
	dead    bool
	queue   []lanePost
	bytes   int                        // in queue
	pending map[string]wire.Completion // by the message's id
}

type lanePost struct {
	id   string
	text []byte
	done wire.Completion // without an id: called when it is on its way
}

var (
	_ wire.LaneTransport = (*BrokerTransport)(nil)
	_ wire.Lane          = (*brokerLane)(nil)
)

// Self implements wire.LaneTransport.
func (t *BrokerTransport) Self() any { return t }

// Lane implements wire.LaneTransport.
func (t *BrokerTransport) Lane(context.Context) (wire.Lane, error) {
	connected := t.IsConnected()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.life.Err() != nil:
		return nil, ErrClosed
	case !connected:
		return nil, ErrNotConnected
	}
	if t.lane == nil || !t.lane.Alive() {
		t.lane = &brokerLane{
			transport: t, id: uuid.NewString(), wake: make(chan struct{}, 1), flying: make(chan struct{}, laneBatches), pending: map[string]wire.Completion{},
		}
		t.running.Go(t.lane.run)
	}
	return t.lane, nil
}

// Alive implements wire.Lane.
func (l *brokerLane) Alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.dead
}

// Busy implements wire.Lane: there is no other lane that would be better.
func (l *brokerLane) Busy() bool { return false }

// Post implements wire.Lane.
func (l *brokerLane) Post(typ, id string, payload []byte, done wire.Completion) error {
	text, err := appendMessage(make([]byte, 0, len(payload)+len(typ)+len(id)+32), typ, wire.Raw(payload), id)
	switch {
	case err != nil:
		return err
	case len(text) > maxSidecarMessage:
		return errMessageTooLarge
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.dead:
		return ErrNotConnected
	case l.bytes+len(text) > laneQueue:
		return ErrQueueFull
	}
	p := lanePost{text: text, done: done}
	if id != "" && done != nil {
		if other := l.pending[id]; other != nil && other != done {
			return ErrDuplicateID
		}
		l.pending[id] = done
		p.id = id
	}
	l.queue = append(l.queue, p)
	l.bytes += len(text)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// run sends batches, one after another, until the lane is dead.
func (l *brokerLane) run() {
	ctx := l.transport.life
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			l.fail(nil, ErrClosed)
			return
		}
		if !l.Alive() {
			return
		}
		for batch := l.take(); len(batch) > 0; batch = l.take() {
			select {
			case l.flying <- struct{}{}:
			case <-ctx.Done():
				l.fail(batch, ErrClosed)
				return
			}
			if err := l.send(ctx, batch); err != nil {
				l.fail(batch, err)
				return
			}
		}
	}
}

// take takes what is to go in one batch.
func (l *brokerLane) take() []lanePost {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.queue) && (n == 0 || size+len(l.queue[n].text) <= maxBatch) {
		size += len(l.queue[n].text)
		n++
	}
	batch := l.queue[:n:n]
	if l.queue = l.queue[n:]; len(l.queue) == 0 {
		l.queue = nil
	}
	l.bytes -= size
	return batch
}

// send sends a batch, and returns when all of it is on its way to the service. Somebody else waits for the replies.
func (l *brokerLane) send(ctx context.Context, batch []lanePost) error {
	ctx, cancel := context.WithTimeout(ctx, laneTimeout)
	var body []byte
	for _, p := range batch {
		body = append(binary.AppendUvarint(body, uint64(len(p.text))), p.text...)
	}
	answer, err := l.transport.consumer.SendContext(ctx, bytes.NewReader(body), WithMetadata(map[string]string{sidecarKind: sidecarBatch, sidecarLane: l.id}))
	if err != nil {
		cancel()
		err = transportError(err)
		l.transport.note(err)
		return err
	}
	for _, p := range batch {
		if p.id == "" && p.done != nil {
			p.done.Complete(nil, nil)
		}
	}
	l.transport.running.Go(func() {
		defer cancel()
		defer func() { <-l.flying }()
		err := l.replies(batch, answer)
		_ = answer.Close() // it is over
		if err != nil {
			err = transportError(err)
		}
		l.transport.note(err)
		l.missing(batch, err)
	})
	return nil
}

// replies reads the replies to a batch.
func (l *brokerLane) replies(batch []lanePost, answer io.Reader) error {
	r := bufio.NewReader(answer)
	if _, err := r.ReadByte(); err != nil {
		return err
	}
	var text []byte
	for {
		number, err := binary.ReadUvarint(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		size, err2 := binary.ReadUvarint(r)
		if err = errors.Join(err, err2); err != nil {
			return err
		}
		if number/2 >= uint64(len(batch)) || size > maxSidecarReply {
			return errBadProtocol
		}
		text = slices.Grow(text[:0], int(size))[:size]
		if _, err := io.ReadFull(r, text); err != nil {
			return err
		}
		l.reply(batch[number/2].id, text, number%2 == 1)
	}
}

// reply gives the reply to one message.
func (l *brokerLane) reply(id string, text []byte, failed bool) {
	done := l.claim(id)
	if done == nil {
		return // it was answered before
	}
	var r wire.Reply
	var err error
	if failed {
		err = parseSidecarFailure(string(text))
	} else {
		err = r.Parse(text)
	}
	if err != nil {
		l.transport.note(err)
		done.Complete(nil, err)
		return
	}
	done.Complete(&r, nil)
}

// claim takes the completion of a message, nil where it was called already.
func (l *brokerLane) claim(id string) wire.Completion {
	l.mu.Lock()
	defer l.mu.Unlock()
	done := l.pending[id]
	delete(l.pending, id)
	return done
}

// missing completes what a batch has no replies for. The lane goes on only where that is nothing.
func (l *brokerLane) missing(batch []lanePost, err error) {
	for _, p := range batch {
		if p.id == "" {
			continue
		}
		if done := l.claim(p.id); done != nil {
			if err == nil {
				err = ErrConnectionLost
			}
			done.Complete(nil, err)
		}
	}
	if err != nil {
		l.fail(nil, err)
	}
}

// fail ends the lane, and completes the batch, and what waits behind it, with err.
func (l *brokerLane) fail(batch []lanePost, err error) {
	l.mu.Lock()
	l.dead = true
	batch = append(batch[:len(batch):len(batch)], l.queue...)
	l.queue, l.bytes = nil, 0
	l.mu.Unlock()
	for _, p := range batch {
		switch {
		case p.id != "":
			if done := l.claim(p.id); done != nil {
				done.Complete(nil, err)
			}
		case p.done != nil:
			p.done.Complete(nil, err)
		}
	}
	select {
	case l.wake <- struct{}{}: // run ends
	default:
	}
}

// cutBatch returns the messages of a batch.
func cutBatch(body []byte) (messages [][]byte, err error) {
	for len(body) > 0 {
		size, n := binary.Uvarint(body)
		if n <= 0 || size > uint64(len(body)-n) {
			return nil, fmt.Errorf("%w: a batch that is cut off", errBadProtocol)
		}
		messages = append(messages, body[n:n+int(size)])
		body = body[n+int(size):]
	}
	return messages, nil
}
