package socket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

const (
	// brokerCallTimeout is how long a message without a deadline waits for its reply.
	brokerCallTimeout = 2 * time.Second
	// What is known of the sidecar's connection is asked for anew after these times, if anybody wants to know.
	askConnected    = 5 * time.Second
	askDisconnected = 250 * time.Millisecond
)

// BrokerTransport is a Transport whose messages go through a broker to a sidecar, and from there to the
// service: so the processes of a host share one pool of WebSockets. Its errors are those that the sidecar's
// pool would return here; a sidecar that is not there is ErrNotConnected.
type BrokerTransport struct {
	consumer *Consumer
	idPrefix string
	nextID   atomic.Uint64

	heard   atomic.Int64 // when it was last known whether the sidecar is connected, as sinceEpoch; 0: never
	down    atomic.Bool  // it was not
	asking  atomic.Bool
	running sync.WaitGroup  // every goroutine
	life    context.Context // ends with Close
	endLife context.CancelFunc

	mu   sync.Mutex  // Close waits for no goroutine that begins after it
	lane *brokerLane // the last one
}

var _ Transport = (*BrokerTransport)(nil)

// NewBrokerTransport returns a Transport over consumer, which is one of the SidecarChannel and belongs to the
// transport from now on. The other end is ServeTransport's, usageflow broker for one.
//
//	consumer, err := socket.NewConsumer("127.0.0.1:9090", socket.SidecarChannel)
//	flow, err := core.New(core.Config{Transport: socket.NewBrokerTransport(consumer)})
func NewBrokerTransport(consumer *Consumer) Transport {
	t := &BrokerTransport{consumer: consumer, idPrefix: uuid.NewString()[:8] + "-"}
	t.life, t.endLife = context.WithCancel(context.Background())
	return t
}

// Call implements Transport. Without a deadline in ctx the reply is awaited for 2 s.
func (t *BrokerTransport) Call(ctx context.Context, p *UsageFlowSocketMessage) (*UsageFlowSocketResponse, error) {
	if p == nil {
		return nil, errNoMessage
	}
	id := p.ID
	if id == "" {
		var buf [32]byte
		id = string(strconv.AppendUint(append(buf[:0], t.idPrefix...), t.nextID.Add(1), 36))
	}
	text, err := appendMessage(make([]byte, 0, 512), p.Type, p.Payload, id)
	if err != nil {
		return nil, err
	}
	text, err = t.exchange(ctx, text)
	if err != nil {
		return nil, err
	}
	var reply wire.Reply
	if err := reply.Parse(text); err != nil {
		return nil, fmt.Errorf("socket: the sidecar's answer: %w", err)
	}
	// The sidecar's pool has its own ids.
	if reply.ReplyTo == nil {
		reply.ID = []byte(id)
	} else {
		reply.ReplyTo = []byte(id)
	}
	return newResponse(&reply, id)
}

// Notify implements Transport. It returns when the sidecar has queued the message: so messages that are sent
// one after another are queued in that order.
func (t *BrokerTransport) Notify(ctx context.Context, p *UsageFlowSocketMessage) error {
	if p == nil {
		return errNoMessage
	}
	text, err := appendMessage(make([]byte, 0, 512), p.Type, p.Payload, p.ID)
	if err != nil {
		return err
	}
	_, err = t.exchange(ctx, text, WithMetadata(map[string]string{sidecarKind: sidecarNotify}))
	return err
}

// IsConnected implements Transport: whether there is a connection to the broker, and as far as is known one from
// the sidecar to the service. What is known is a few seconds old at most, of a lost connection less.
func (t *BrokerTransport) IsConnected() bool {
	if t.consumer.client.current.Load() == nil || t.life.Err() != nil {
		return false
	}
	down := t.down.Load()
	every := askConnected
	if down {
		every = askDisconnected
	}
	if time.Duration(sinceEpoch()-t.heard.Load()) > every && t.asking.CompareAndSwap(false, true) {
		t.mu.Lock()
		if t.life.Err() == nil {
			t.running.Go(t.ask)
		}
		t.mu.Unlock()
	}
	return !down
}

// ask asks whether the sidecar is connected.
func (t *BrokerTransport) ask() {
	defer t.asking.Store(false)
	ctx, cancel := context.WithTimeout(t.life, brokerCallTimeout)
	defer cancel()
	_, _ = t.exchange(ctx, nil, WithMetadata(map[string]string{sidecarKind: sidecarStatus})) // it notes the answer
}

// Close implements Transport. It closes the consumer; messages that wait for a reply get ErrClosed.
func (t *BrokerTransport) Close() error {
	t.mu.Lock()
	t.endLife()
	t.mu.Unlock()
	err := t.consumer.Close()
	t.running.Wait()
	return err
}

// exchange sends a request to the sidecar and returns its whole answer.
func (t *BrokerTransport) exchange(ctx context.Context, text []byte, opts ...SendOption) ([]byte, error) {
	if ctx == nil {
		return nil, errNilContext
	}
	if len(text) > maxSidecarMessage {
		return nil, errMessageTooLarge
	}
	if err := ctx.Err(); err != nil {
		return nil, timeoutOr(err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, brokerCallTimeout)
		defer cancel()
	}
	answer, err := t.consumer.SendContext(ctx, bytes.NewReader(text), opts...)
	var reply []byte
	if err == nil {
		reply, err = readAtMost(answer, maxSidecarReply)
		err = errors.Join(err, answer.Close())
	}
	if err != nil {
		err = transportError(err)
	}
	t.note(err)
	return reply, err
}

// note remembers what a request says of the sidecar's connection.
func (t *BrokerTransport) note(err error) {
	down := errors.Is(err, ErrNotConnected)
	if !down && err != nil {
		return // it says nothing
	}
	t.down.Store(down)
	t.heard.Store(sinceEpoch())
}

// readAtMost reads r to its end, which comes within limit bytes, or it is an error.
func readAtMost(r io.Reader, limit int) ([]byte, error) {
	b := bytes.NewBuffer(make([]byte, 0, 512))
	n, err := b.ReadFrom(io.LimitReader(r, int64(limit)+1))
	if err == nil && n > int64(limit) {
		err = fmt.Errorf("socket: more than %d bytes", limit)
	}
	return b.Bytes(), err
}
