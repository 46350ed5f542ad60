package core

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/url"
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
	// Param returns a path parameter's value, "" if there is none of that name. It is called until the handler has returned.
	Param func(name string) string
	// ParamsEscaped says that Param's values are as they stand in URL.RawPath, where there is one: routers that match the encoded
	// path may leave them so. Begin replaces Param then by one that decodes them.
	ParamsEscaped bool
	// ClientIP is the client's address, as the router trusts it.
	ClientIP string
}

// decodeParams makes Param's values those that the client meant.
func (r *Request) decodeParams() {
	escaped := r.Param
	if escaped == nil || !r.ParamsEscaped || r.URL.RawPath == "" {
		return
	}
	r.ParamsEscaped = false
	r.Param = func(name string) string {
		value := escaped(name)
		if decoded, err := url.PathUnescape(value); err == nil {
			return decoded
		}
		return value
	}
}

// Call is one admitted request or job, from its reservation to its settlement. All methods are safe for concurrent
// use, and do nothing on a nil Call.
type Call struct {
	// Static after construction.
	flow       *Flow
	rule       *rule
	ids        string // the allocation id, then "r": the id of the message that reserves it
	alias      string
	requestID  string
	reserved   float64
	start      time.Time
	method     string
	receipt    *receipt // of a job that waits until it is settled; else nil
	repeatable bool     // another run may settle the same id
	rawURL     string   // the path; with the masked query where queries are captured
	clientIP   string
	userAgent  string
	request    *http.Request // only to capture from; nil for a job
	param      func(string) string
	ctx        callContext

	granted    string                     // the id that the service made in place of ours, or the slice's; set before the handler runs
	slice      *slice                     // that let it in; nil where it was decided by itself. Set before the handler runs
	known      atomic.Bool                // the service has answered the reservation
	sentStatus atomic.Int32               // that went out through the call's Writer; 0: none has
	unreserved atomic.Bool                // the reservation was lost on its way
	settlement atomic.Pointer[settlement] // once the sender has made it

	held  int64     // bytes of Flow.callMemory; owned by who has the call: Begin, then its end, then the sender
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
	outer       *http.Request    // the request as it came, and
	inner       *http.Request    // as the handler got it, from Request to the end
	hijacked    bool             // the connection was taken over, and is open
	holds       int              // that were not released
	returned    bool             // the handler has returned
	panicked    bool
	cutOff      bool   // the client went away before it was answered in full, as far as is known
	voided      bool   // a response with this status is not charged
	problem     string // why the response's amount could not be read
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

// newCall makes the record of a request or job that was let in, whose callBytes were taken.
func (f *Flow) newCall(ctx context.Context, rl *rule, identity string, reserved float64) *Call {
	c := &Call{flow: f, rule: rl, alias: rl.ledger(identity), reserved: reserved, start: time.Now(), ids: newIDs(), held: callBytes}
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
		c.outer, c.inner = r, inner
	}
	return inner
}

// AllocationID is the id under which the call is reserved and settled. With Config.Lease, requests may have it in common, and one that lasts longer than
// a second or two may be settled under another.
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
