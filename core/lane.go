package core

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

const (
	callLaneWorkers = 32
	callLaneQueue   = 256 // messages that may wait for one worker
)

// callLanes makes a lane of a Transport that has none: each message is a Call that a worker waits for. The messages of one
// allocation go through one worker, so that they keep their order.
type callLanes struct {
	ctx       context.Context
	transport socket.Transport
	timeout   time.Duration
	queues    [callLaneWorkers]chan callLanePost
}

type callLanePost struct {
	message *socket.UsageFlowSocketMessage
	done    wire.Completion
}

var (
	_ wire.LaneTransport = (*callLanes)(nil)
	_ wire.Lane          = (*callLanes)(nil)
)

// newCallLanes starts the workers; they end with ctx.
func newCallLanes(ctx context.Context, t socket.Transport, timeout time.Duration, running *sync.WaitGroup) *callLanes {
	l := &callLanes{ctx: ctx, transport: t, timeout: timeout}
	for i := range l.queues {
		queue := make(chan callLanePost, callLaneQueue)
		l.queues[i] = queue
		running.Go(func() { l.work(queue) })
	}
	return l
}

// Lane implements wire.LaneTransport.
func (l *callLanes) Lane(context.Context) (wire.Lane, error) {
	if !l.Alive() {
		return nil, socket.ErrNotConnected
	}
	return l, nil
}

// Self implements wire.LaneTransport.
func (l *callLanes) Self() any { return l }

// Busy implements wire.Lane: a full queue says so by itself.
func (l *callLanes) Busy() bool { return false }

// Alive implements wire.Lane.
func (l *callLanes) Alive() bool { return l.transport.IsConnected() }

// Post implements wire.Lane.
func (l *callLanes) Post(typ, id string, payload []byte, done wire.Completion) error {
	typed, key, err := typedPayload(typ, payload)
	if err != nil {
		return err
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // a hash takes everything
	select {
	case l.queues[h.Sum32()%callLaneWorkers] <- callLanePost{&socket.UsageFlowSocketMessage{Type: typ, Payload: typed, ID: id}, done}:
		return nil
	default:
		return socket.ErrQueueFull
	}
}

// typedPayload is the payload in its documented type, as a transport that is not ours gets it, and the allocation that it is for.
func typedPayload(typ string, payload []byte) (typed any, allocation string, err error) {
	switch typ {
	case socket.TypeRequestForAllocation:
		var r socket.RequestForAllocation
		err = json.Unmarshal(payload, &r)
		return &r, r.AllocationID, err
	case socket.TypeUseAllocation:
		var u socket.UseAllocationRequest
		err = json.Unmarshal(payload, &u)
		return &u, u.AllocationID, err
	}
	return nil, "", fmt.Errorf("core: no payload of type %s goes over a lane", typ)
}

func (l *callLanes) work(queue chan callLanePost) {
	for {
		select {
		case p := <-queue:
			if p.done == nil {
				l.notify(p.message)
			} else {
				p.done.Complete(l.call(p.message))
			}
		case <-l.ctx.Done():
			return
		}
	}
}

func (l *callLanes) call(m *socket.UsageFlowSocketMessage) (*wire.Reply, error) {
	ctx, cancel := context.WithTimeout(l.ctx, l.timeout)
	defer cancel()
	resp, err := l.transport.Call(ctx, m)
	if resp == nil && err == nil {
		err = errNoReply
	}
	if err != nil {
		return nil, err
	}
	return &wire.Reply{Type: []byte(resp.Type), Error: []byte(resp.Error), Message: []byte(resp.Message)}, nil
}

// notify sends a reservation of which no answer is awaited. Where that fails, its settlement is charged all the same.
func (l *callLanes) notify(m *socket.UsageFlowSocketMessage) {
	ctx, cancel := context.WithTimeout(l.ctx, l.timeout)
	defer cancel()
	_ = l.transport.Notify(ctx, m)
}
