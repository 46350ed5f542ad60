package socket

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// laneRest is how long the sidecar remembers which connection a worker's lane goes over.
const laneRest = time.Minute

// sidecarLanes are the workers' lanes, each with the connection to the service that it goes over.
type sidecarLanes struct {
	transport wire.LaneTransport

	mu     sync.Mutex
	byID   map[string]*sidecarLaneEntry
	tidied time.Time
}

type sidecarLaneEntry struct {
	lane wire.Lane
	used time.Time
}

// get returns a worker's lane. One whose connection has ended is over, for what was on it may be lost.
func (s *sidecarLanes) get(ctx context.Context, id string) (wire.Lane, error) {
	now := time.Now()
	s.mu.Lock()
	if now.Sub(s.tidied) > laneRest {
		s.tidied = now
		for id, e := range s.byID {
			if now.Sub(e.used) > laneRest {
				delete(s.byID, id)
			}
		}
	}
	if e := s.byID[id]; e != nil {
		defer s.mu.Unlock()
		e.used = now
		if !e.lane.Alive() {
			delete(s.byID, id)
			return nil, ErrConnectionLost
		}
		return e.lane, nil
	}
	s.mu.Unlock()
	lane, err := s.transport.Lane(ctx)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[id] = &sidecarLaneEntry{lane, now}
	return lane, nil
}

// answerBatch answers a batch.
func (s sidecar) answerBatch(ctx context.Context, r *Request) (io.Reader, error) {
	body, err := readAtMost(r.Reader, maxBatch+maxSidecarMessage+16)
	if err != nil {
		return nil, sidecarFailure(err)
	}
	texts, err := cutBatch(body)
	if err != nil {
		return nil, sidecarFailure(err)
	}
	messages := make([]*UsageFlowSocketMessage, len(texts))
	for i, text := range texts {
		if messages[i], err = parseMessage(text); err != nil {
			return nil, sidecarFailure(err)
		}
	}
	answer := newBatchAnswer(ctx)
	if s.lanes == nil {
		go answer.callAll(ctx, s.transport, messages)
		return answer, nil
	}
	lane, err := s.lanes.get(ctx, r.Metadata[sidecarLane])
	if err != nil {
		return nil, sidecarFailure(err)
	}
	for i, m := range messages {
		if err := answer.post(lane, i, m); err != nil {
			answer.fail(i, err)
		}
	}
	answer.posted()
	return answer, nil
}

// batchAnswer is the answer to a batch: a reader of the replies, as they come.
type batchAnswer struct {
	mu      sync.Mutex
	changed sync.Cond
	text    []byte // not yet read
	left    int    // messages without a reply, and one while messages are posted
	over    error
	stop    func() bool
}

func newBatchAnswer(ctx context.Context) *batchAnswer {
	a := &batchAnswer{text: []byte{0}, left: 1}
	a.changed.L = &a.mu
	a.stop = context.AfterFunc(ctx, func() {
		a.mu.Lock()
		a.over = ctx.Err()
		a.changed.Signal()
		a.mu.Unlock()
	})
	return a
}

// batchReply is the completion of one message of a batch.
type batchReply struct {
	answer *batchAnswer
	number int
}

// Complete implements wire.Completion.
func (b *batchReply) Complete(r *wire.Reply, err error) {
	if err != nil {
		b.answer.fail(b.number, err)
		return
	}
	b.answer.add(2*b.number, appendReply(nil, r))
}

// appendReply appends a reply of the service without its ids, which are the sidecar's.
func appendReply(dst []byte, r *wire.Reply) []byte {
	dst = append(dst, `{"type":`...)
	dst = wire.AppendString(dst, string(r.Type))
	if len(r.Error) > 0 {
		dst = append(dst, `,"error":`...)
		dst = wire.AppendString(dst, string(r.Error))
	}
	if len(r.Message) > 0 {
		dst = append(dst, `,"message":`...)
		dst = wire.AppendString(dst, string(r.Message))
	}
	if len(r.Payload) > 0 {
		dst = append(dst, `,"payload":`...)
		dst = append(dst, r.Payload...)
	}
	return append(dst, '}')
}

// post puts a message on the lane.
func (a *batchAnswer) post(lane wire.Lane, number int, m *UsageFlowSocketMessage) error {
	payload, _ := m.Payload.(json.RawMessage)
	if m.ID == "" {
		return lane.Post(m.Type, "", payload, nil) // an error is nobody's
	}
	a.mu.Lock()
	a.left++
	a.mu.Unlock()
	// The worker's id may be another worker's too.
	err := lane.Post(m.Type, newRequestID().String(), payload, &batchReply{a, number})
	if err != nil {
		a.posted()
	}
	return err
}

// posted takes back one of left.
func (a *batchAnswer) posted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left--
	a.changed.Signal()
}

// callAll is for a transport without lanes: one message after another.
func (a *batchAnswer) callAll(ctx context.Context, t Transport, messages []*UsageFlowSocketMessage) {
	defer a.posted()
	for i, m := range messages {
		if m.ID == "" {
			if err := t.Notify(ctx, m); err != nil {
				a.fail(i, err)
			}
			continue
		}
		call := *m
		call.ID = ""
		resp, err := t.Call(ctx, &call)
		if err == nil && resp == nil {
			err = errNoReply
		}
		var text []byte
		if err == nil {
			text, err = json.Marshal(resp)
		}
		a.mu.Lock()
		a.left++
		a.mu.Unlock()
		if err != nil {
			a.fail(i, err)
		} else {
			a.add(2*i, text)
		}
	}
}

var errNoReply = errors.New("the transport gave no reply")

// fail says why there is no reply.
func (a *batchAnswer) fail(number int, err error) {
	a.add(2*number+1, []byte(sidecarFailure(err).Error()))
}

// add adds a reply, or what stands for one.
func (a *batchAnswer) add(number int, text []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.left--
	if a.over != nil {
		return
	}
	a.text = binary.AppendUvarint(a.text, uint64(number))
	a.text = append(binary.AppendUvarint(a.text, uint64(len(text))), text...)
	a.changed.Signal()
}

// Read implements io.Reader.
func (a *batchAnswer) Read(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.text) == 0 && a.left > 0 && a.over == nil {
		a.changed.Wait()
	}
	switch {
	case a.over != nil:
		return 0, a.over
	case len(a.text) == 0:
		return 0, io.EOF
	}
	n := copy(p, a.text)
	a.text = a.text[n:]
	return n, nil
}

// Close implements io.Closer.
func (a *batchAnswer) Close() error {
	a.stop()
	return nil
}
