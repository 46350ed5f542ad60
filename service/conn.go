package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

const (
	// maxMessage is the largest message; a larger one closes the connection with 1009.
	maxMessage = 1 << 20
	// maxInFlight bounds the operations of one connection that wait for the ledger. A connection that
	// has as many is not read from until one is answered.
	maxInFlight = 1024
	// pingInterval and pongWait find peers that are gone.
	pingInterval = 30 * time.Second
	pongWait     = 60 * time.Second
	// farewell is how long a peer may take to answer a close frame.
	farewell = 2 * time.Second
)

var errBinary = errors.New("the peer sent a binary message")

// conn is an agent's WebSocket. One goroutine reads and submits (read), one writes (outbox.write); the
// ledger's goroutine puts replies into the outbox. Messages take effect in the order in which they
// arrive, and nobody waits for one to be durable before the next is submitted.
type conn struct {
	service *Service
	key     keyHash
	name    string // of the application
	lastUse *atomic.Int64
	app     atomic.Pointer[Application]
	ws      *websocket.Conn
	out     *outbox
	// slots has one element per operation in flight.
	slots chan struct{}
	// quiet is held by who takes all the slots: two who do so at once would wait for each other for ever.
	quiet sync.Mutex

	leaveOnce sync.Once
}

func newConn(s *Service, key keyHash, app *Application, ws *websocket.Conn, flush *flushConn) *conn {
	c := &conn{service: s, key: key, name: app.Name, lastUse: s.usedClock(key), ws: ws, out: newOutbox(ws, flush), slots: make(chan struct{}, maxInFlight)}
	c.app.Store(app)
	return c
}

// adopt makes c go by another configuration; false if its key is not the application's any more.
func (c *conn) adopt(config *Config) bool {
	app := config.byKey[c.key]
	if app == nil || app.Name != c.name {
		return false
	}
	c.app.Store(app)
	return true
}

// used notes that the key is in use, to the second.
func (c *conn) used(now time.Time) {
	if ms := now.UnixMilli(); ms > c.lastUse.Load()+999 {
		c.lastUse.Store(ms)
	}
}

// revoke ends a connection whose key is gone. What is in flight is still answered.
func (c *conn) revoke() {
	if c.out.close(websocket.ClosePolicyViolation, errRevoked.Error()) {
		c.deadline(farewell)
	}
}

// serve runs the connection and returns when both of its goroutines have ended and what it submitted
// has been decided.
func (c *conn) serve() {
	var writer sync.WaitGroup
	writer.Go(c.out.write)
	c.ws.SetReadLimit(maxMessage)
	c.extend()
	c.ws.SetPongHandler(func(string) error { c.extend(); return nil })
	c.ws.SetPingHandler(func(data string) error {
		c.extend()
		c.out.control(websocket.PongMessage, []byte(data))
		return nil
	})
	c.ws.SetCloseHandler(func(code int, _ string) error {
		if code == websocket.CloseNoStatusReceived {
			code = websocket.CloseNormalClosure
		}
		c.out.close(code, "")
		return nil
	})
	err := c.read()
	c.out.close(websocket.CloseNormalClosure, "")
	writer.Wait()
	if errors.Is(err, websocket.ErrReadLimit) || errors.Is(err, errBinary) {
		c.drain()
	}
	if err := c.ws.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.service.log.Debug("closing a connection failed", "error", err)
	}
	c.quiesce(context.Background(), func() {})
	c.service.log.Debug("an agent has gone", "application", c.name, "reason", err)
}

// drain reads and drops what the peer is still sending: closing a connection with unread bytes resets
// it, and the peer would not see why it was closed.
func (c *conn) drain() {
	c.deadline(farewell)
	// Whatever ends it, the connection is closed next.
	_, _ = io.Copy(io.Discard, io.LimitReader(c.ws.NetConn(), 32*maxMessage))
}

// extend gives the peer another pongWait, unless it is on its way out.
func (c *conn) extend() {
	if !c.out.isClosed() {
		c.deadline(pongWait)
	}
}

// deadline bounds the next read. An error means that the connection is closed: the read will say so.
func (c *conn) deadline(d time.Duration) { _ = c.ws.SetReadDeadline(time.Now().Add(d)) }

// read submits messages until the connection ends.
func (c *conn) read() error {
	for {
		kind, data, err := c.ws.ReadMessage()
		if err != nil {
			return err
		}
		if kind != websocket.TextMessage {
			c.out.close(websocket.CloseUnsupportedData, "messages are text")
			return errBinary
		}
		c.handle(data)
	}
}

// handle answers one message, or submits it to the ledger, whose answer then comes later.
func (c *conn) handle(data []byte) {
	r, err := decodeRequest(data)
	if err != nil {
		c.refuse(&r, &refusal{code: codeInvalidMessage, message: "the message is not the JSON of a message: " + err.Error()})
		return
	}
	switch r.Type {
	case socket.TypeRequestForAllocation:
		c.reserve(&r)
	case socket.TypeUseAllocation:
		c.settle(&r)
	case socket.TypeGetPolicies:
		c.describe(&r, c.service.policies(c.app.Load()))
	case socket.TypeGetConfig:
		c.describe(&r, c.service.settings(c.app.Load()))
	case socket.TypeGetBlockedEndpoints:
		c.describe(&r, c.app.Load().blocked())
	default:
		c.refuse(&r, &refusal{code: codeUnknownType, message: "there is no message of this type"})
	}
}

func (c *conn) describe(r *request, payload any) {
	if r.ID == "" {
		return
	}
	data, err := json.Marshal(&socket.UsageFlowSocketResponse{Type: r.Type, ReplyTo: r.ID, ID: r.ID, Payload: payload})
	if err != nil {
		c.service.log.Error("a reply could not be encoded", "type", r.Type, "error", err)
		return
	}
	c.out.text(frame{data: data})
}

func (c *conn) reserve(r *request) {
	amount, refused := r.Payload.checked()
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	id, start := r.ID, time.Now()
	c.used(start)
	if !c.acquire() {
		return
	}
	err := c.service.ledger.SubmitReserve(Reservation{
		Application: c.name, Alias: r.Payload.Alias, ID: cmp.Or(r.Payload.AllocationID, uuid.NewString()), Amount: amount,
		Limits: c.app.Load().limits.find(r.Payload.Alias), Metadata: r.Payload.Metadata.Metadata,
	}, func(d Decision, err error) {
		defer func() { <-c.slots }()
		if err != nil {
			c.failed(r, err)
			return
		}
		c.service.metrics.decided(c.name, &d, time.Since(start))
		c.decided(r, amount, &d)
		if id != "" {
			c.out.text(frame{reply: func() *socket.UsageFlowSocketResponse { return d.reply(id) }})
		}
	})
	if err != nil {
		<-c.slots
		c.failed(r, err)
	}
}

func (c *conn) settle(r *request) {
	amount, refused := r.Payload.checked()
	if refused == nil && r.Payload.AllocationID == "" {
		refused = &refusal{code: codeInvalidID, message: "the allocation id is missing"}
	}
	if refused != nil {
		c.refuse(r, refused)
		return
	}
	id := r.ID
	if !c.acquire() {
		return
	}
	err := c.service.ledger.SubmitSettle(Settlement{
		Application: c.name, Alias: r.Payload.Alias, ID: r.Payload.AllocationID, Amount: amount,
		Limits: c.app.Load().limits.find(r.Payload.Alias), Metadata: r.Payload.Metadata.Metadata,
	}, func(receipt Receipt, err error) {
		defer func() { <-c.slots }()
		if err != nil {
			c.failed(r, err)
			return
		}
		c.service.metrics.settled(c.name, &receipt)
		c.settled(r, &receipt)
		if id != "" {
			c.out.text(frame{reply: func() *socket.UsageFlowSocketResponse { return receipt.reply(id) }})
		}
	})
	if err != nil {
		<-c.slots
		c.failed(r, err)
	}
}

// acquire waits for a slot in flight; false says that connections are being cut.
func (c *conn) acquire() bool {
	select {
	case c.slots <- struct{}{}:
		return true
	case <-c.service.cut:
		return false
	}
}

// failed answers an operation that the ledger did not carry out. What the agent did wrong is told to
// it. A failure of the ledger is not: agents take an error reply as the answer, deny their caller or
// give a settlement up. The connection ends instead, which they treat as the outage it is.
func (c *conn) failed(r *request, err error) {
	switch {
	case errors.Is(err, ErrConflict):
		c.refuse(r, &refusal{code: codeConflict, message: err.Error()})
	case errors.Is(err, ErrHeldTooMuch):
		c.refuse(r, &refusal{code: codeInvalidAmount, message: err.Error()})
	case errors.Is(err, ErrTooManyLedgers):
		c.refuse(r, &refusal{code: codeTooManyLedgers, message: err.Error()})
	default:
		c.service.counts.failures.Add(1)
		if c.out.close(websocket.CloseTryAgainLater, "the ledger is unavailable") {
			c.deadline(farewell)
		}
	}
}

// refuse sends an error reply. A one-way message has nobody to tell but the log, and so has one that
// cannot be read, which is answered without replyTo.
func (c *conn) refuse(r *request, why *refusal) {
	c.service.counts.refused.Add(1)
	c.refused(r, why)
	if r.ID == "" {
		c.service.oneWayError(c.name, r.Type, why)
		if why.code != codeInvalidMessage {
			return
		}
	}
	c.reply(why.reply(r.ID))
}

func (c *conn) reply(r *socket.UsageFlowSocketResponse) {
	c.out.text(frame{reply: func() *socket.UsageFlowSocketResponse { return r }})
}

// leave tells the agent to go elsewhere: what is in flight is answered, then comes the close frame,
// and what the agent has sent before it reads that still takes effect, without replies.
func (c *conn) leave(ctx context.Context) {
	c.leaveOnce.Do(func() {
		c.quiesce(ctx, func() {
			if c.out.close(websocket.CloseGoingAway, "the service is stopping") {
				c.deadline(farewell)
			}
		})
	})
}

// quiesce waits until nothing is in flight, or ctx ends or connections are cut, and calls then before
// anything else is submitted.
func (c *conn) quiesce(ctx context.Context, then func()) {
	c.quiet.Lock()
	defer c.quiet.Unlock()
	taken := 0
	for taken < maxInFlight && ctx.Err() == nil && c.acquire() {
		taken++
	}
	then()
	for range taken {
		<-c.slots
	}
}

// abort ends the connection without a word.
func (c *conn) abort() {
	c.out.discard()
	if err := c.ws.NetConn().Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		c.service.log.Debug("closing a connection failed", "error", err)
	}
}
