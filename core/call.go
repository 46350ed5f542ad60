package core

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// Request is an HTTP request as a router knows it.
type Request struct {
	*http.Request
	// Route is the pattern that the router matched, in the router's own syntax; "" if it matched none.
	Route string
	// Param returns a path parameter's value, "" if there is none of that name.
	Param func(name string) string
	// ClientIP is the client's address, as the router trusts it.
	ClientIP string
}

// Call is one admitted request or job, from its reservation to its settlement. All methods are safe for concurrent
// use, and do nothing on a nil Call.
type Call struct {
	// Static after construction.
	flow      *Flow
	rule      *rule
	ids       string // the allocation id, then "r": the id of the message that reserves it
	alias     string
	requestID string
	reserved  float64
	start     time.Time
	method    string
	rawURL    string // the path; with the masked query where queries are captured
	clientIP  string
	userAgent string
	request   *http.Request // only to capture from; nil for a job
	param     func(string) string
	ctx       callContext

	granted    string                     // the id that the service made in place of ours; set before the handler runs
	known      atomic.Bool                // the service has answered the reservation
	unreserved atomic.Bool                // the reservation was lost on its way
	settlement atomic.Pointer[settlement] // once the sender has made it

	lane  wire.Lane // the lane that the reservation went out on; owned by the sender
	begun inboxNode
	ended inboxNode

	mu          sync.Mutex // guards what follows
	amount      float64
	set         bool             // amount was set by the handler
	seen        *responseScanner // finds the amount in the response; nil where no policy tracks it
	body        *capturedBody    // the response's; nil where it is not captured
	requestBody *capturedBody    // likewise
	captured    []byte           // JSON members of the metadata
	served      [2]*http.Request // the request as it came, and as the handler got it, from Request to the end
	hijacked    bool             // the connection was taken over, and is open
	returned    bool             // the handler has returned
	panicked    bool
	aborted     bool // the client went away before it was answered
	voided      bool // a response with this status is not charged
	finished    bool
	status      int
	duration    time.Duration
}

type callContext struct {
	context.Context
	call *Call
}

type contextKey struct{}

func (c *callContext) Value(key any) any {
	if _, ok := key.(contextKey); ok {
		return c.call
	}
	return c.Context.Value(key)
}

// FromContext returns the call that ctx belongs to, nil if it is not metered. In gin, ctx is c.Request.Context().
func FromContext(ctx context.Context) *Call {
	call, _ := ctx.Value(contextKey{}).(*Call)
	return call
}

// newCall makes the record of a request or job that was let in.
func (f *Flow) newCall(ctx context.Context, rl *rule, identity string, reserved float64) *Call {
	c := &Call{flow: f, rule: rl, alias: rl.alias, reserved: reserved, start: time.Now(), ids: newIDs()}
	if identity != "" {
		c.alias = rl.alias + " " + identity
	}
	c.requestID = c.ids[:uuidLen]
	if outer := FromContext(ctx); outer != nil {
		c.requestID = outer.requestID
	}
	c.ctx = callContext{ctx, c}
	c.begun = inboxNode{call: c}
	c.ended = inboxNode{call: c, end: true}
	return c
}

const uuidLen = 36

// newIDs makes a random UUID (version 4). It needs to be unique, not secret: the runtime's generator, which is
// seeded by the system and takes no lock, costs a tenth of a call to the system's.
func newIDs() string {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	var text [uuidLen + 1]byte
	at := 0
	for i, b := range id {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			text[at] = '-'
			at++
		}
		hex.Encode(text[at:at+2], []byte{b})
		at += 2
	}
	text[uuidLen] = 'r'
	return string(text[:])
}

// Context is the request's context with the call in it: FromContext finds it there.
func (c *Call) Context() context.Context { return &c.ctx }

// Request is r, as it was given to Begin, for the handler: with Context in it.
func (c *Call) Request(r *http.Request) *http.Request {
	inner := r.WithContext(&c.ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.returned {
		c.served = [2]*http.Request{r, inner}
	}
	return inner
}

// AllocationID is the id under which the call is reserved and settled.
func (c *Call) AllocationID() string {
	if c == nil {
		return ""
	}
	if c.granted != "" {
		return c.granted
	}
	return c.ids[:uuidLen]
}

// RequestID is the id that the settlements of a request, and of the jobs that it causes, have in common.
func (c *Call) RequestID() string {
	if c == nil {
		return ""
	}
	return c.requestID
}

// Alias names the ledger that the call is charged to.
func (c *Call) Alias() string {
	if c == nil {
		return ""
	}
	return c.alias
}

// SetAmount sets the amount that is charged, in the policy's unit. Zero is a valid amount. One that is negative, over 1e12 or
// not finite is not taken: it is counted, and what would be charged without it is. It does nothing once the work has ended.
func (c *Call) SetAmount(amount float64) { c.change(amount, false) }

// AddAmount adds to the amount that is charged, from 0, as SetAmount sets it.
func (c *Call) AddAmount(amount float64) { c.change(amount, true) }

func (c *Call) change(amount float64, add bool) {
	if c == nil {
		return
	}
	if !c.take(amount, add) {
		c.flow.invalidAmount(c.alias)
	}
}

// take sets or adds to the amount; false if it is not valid.
func (c *Call) take(amount float64, add bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return true
	}
	if add && validAmount(amount) {
		amount += c.amount
	}
	if !validAmount(amount) {
		return false
	}
	c.amount, c.set = amount, true
	return true
}

// Void charges nothing, whatever the response says. It is SetAmount(0).
func (c *Call) Void() { c.change(0, false) }

// maxAmount is the largest amount that the service takes; it counts in millionths.
const maxAmount = 1e12

func validAmount(amount float64) bool { return amount >= 0 && amount <= maxAmount }

// End says that the handler has returned with the given status; 0 says that it wrote no answer of its own, which
// the server makes a 200. Only the first End counts. The call is settled then, or when its hijacked connection closes.
//
// A client that has gone before it was answered, or in the middle of a response that tells the amount, aborts the
// work: what was set or seen so far is charged, else nothing. End never blocks.
func (c *Call) End(status int) {
	if status == 0 {
		c.handlerReturned(http.StatusOK, false, false)
		return
	}
	c.handlerReturned(status, false, true)
}

// Abort says that the handler panicked: what was set or seen so far is charged, else nothing. It takes the place of End.
func (c *Call) Abort() { c.handlerReturned(http.StatusInternalServerError, true, true) }

func (c *Call) handlerReturned(status int, panicked, answered bool) {
	if c == nil {
		return
	}
	void := !panicked && c.flow.callVoidStatus(status)
	pathParams := c.flow.capturePathParams(c)
	c.mu.Lock()
	if c.returned {
		c.mu.Unlock()
		return
	}
	c.returned = true
	c.status, c.panicked, c.voided = status, panicked, void
	if outer, inner := c.served[0], c.served[1]; inner != nil {
		if outer.MultipartForm == nil {
			outer.MultipartForm = inner.MultipartForm // whose files the server removes
		}
		c.served = [2]*http.Request{}
	}
	if !panicked && c.ctx.Context.Err() != nil {
		c.aborted = !answered || c.seen != nil
	}
	if c.request != nil {
		c.captured = c.flow.appendCaptured(pathParams, c)
		c.request = nil
	}
	c.finishLocked()
}

// finishLocked settles the call if its work is over. It gives mu back.
func (c *Call) finishLocked() {
	if !c.returned || c.hijacked || c.finished {
		c.mu.Unlock()
		return
	}
	c.finished = true
	c.duration = time.Since(c.start)
	c.mu.Unlock()
	c.flow.sender.finish(c)
}

// charge decides what a finished call is charged: what the handler set, else what the response said, else the
// amount reserved. found says what the response told, where it was looked at and decides.
func (c *Call) charge() (amount float64, found tracking) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.set {
		return c.amount, untracked
	}
	if c.seen != nil {
		switch amount, found := c.seen.amount(); {
		case found && validAmount(amount):
			return amount, untracked
		case found:
			return c.reserved, trackedInvalid
		}
	}
	if c.panicked || c.aborted || c.voided {
		return 0, untracked
	}
	if c.seen != nil {
		return c.reserved, trackedNothing
	}
	return c.reserved, untracked
}

// tracking is what became of the amount in a response that a policy tracks.
type tracking int

const (
	untracked      tracking = iota // nothing is amiss
	trackedInvalid                 // it is no amount
	trackedNothing                 // there is none
)

func (f *Flow) invalidAmount(alias string) {
	if f.counters.invalidAmounts.Add(1) == 1 {
		f.log.Warn("usageflow: an amount is negative, over 1e12 or no number; the default is charged. Later ones are only counted", "alias", alias)
	}
}
