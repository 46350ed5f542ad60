package core

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Codes of denials.
const (
	CodeRateLimited = "rate_limit_exceeded" // 429
	CodeBlocked     = "endpoint_blocked"    // 403
	CodeUnavailable = "service_unavailable" // 503
)

const (
	// unknownReset is how long a denial is remembered where the service names no reset.
	unknownReset = 5 * time.Second
	// maxDenials bounds the memory of denials.
	maxDenials = 10_000
)

// Denial is an answer to a request that must not run. It is a value, not an error: an outage is not a denial.
type Denial struct {
	Status  int
	Code    string
	Message string
	Header  http.Header // Retry-After, RateLimit and RateLimit-Policy, where they apply
}

// ServeHTTP answers with the denial, as JSON: {"error":code,"message":message}.
func (d *Denial) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	for name, values := range d.Header {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(d.Status)
	_, _ = w.Write(d.Body()) // the client may be gone
}

// Body is the JSON text of the answer.
func (d *Denial) Body() []byte {
	text, err := json.Marshal(struct {
		Error   string `json:"error"`
		Message string `json:"message"`
	}{d.Code, d.Message})
	if err != nil { // two strings always marshal
		return []byte(`{"error":"` + CodeUnavailable + `"}`)
	}
	return text
}

// DeniedError is a Denial where an error is due: Do returns it for a job.
type DeniedError struct{ Denial *Denial }

func (e *DeniedError) Error() string {
	return "usageflow: " + e.Denial.Code + ": " + e.Denial.Message
}

func blockedDenial() *Denial {
	return &Denial{Status: http.StatusForbidden, Code: CodeBlocked, Message: "This endpoint is blocked.", Header: http.Header{}}
}

func unavailableDenial() *Denial {
	return &Denial{
		Status: http.StatusServiceUnavailable, Code: CodeUnavailable,
		Message: "Usage limits cannot be checked at the moment.", Header: http.Header{"Retry-After": {"5"}},
	}
}

// refusal is what the service said when it denied, as it is remembered.
type refusal struct {
	amount  float64 // what was asked for
	message string
	policy  string
	limit   float64 // with limited
	left    float64
	window  time.Duration // 0: unknown
	limited bool          // the service told the limit
	until   time.Time     // when to ask again
	reset   bool          // until is the window's reset
}

// newRefusal reads the reply's payload. Clocks differ: the reset is never later than one window from now.
func newRefusal(amount float64, message string, payload any, now time.Time) *refusal {
	r := &refusal{amount: amount, message: message, until: now.Add(unknownReset)}
	if r.message == "" {
		r.message = "Rate limit exceeded."
	}
	fields, _ := payload.(map[string]any)
	number := func(name string) (float64, bool) {
		v, ok := fields[name].(float64)
		return v, ok && v >= 0 && !math.IsInf(v, 0)
	}
	if seconds, ok := number("windowSeconds"); ok {
		r.window = time.Duration(min(seconds, 366*24*3600) * float64(time.Second))
	}
	if ms, ok := number("resetAt"); ok && ms < 1<<53 {
		until := time.UnixMilli(int64(ms))
		if r.window > 0 && until.After(now.Add(r.window)) {
			until = now.Add(r.window)
		}
		if until.After(now) {
			r.until, r.reset = until, true
		}
	}
	r.limit, r.limited = number("limit")
	r.left, _ = number("remaining")
	r.policy, _ = fields["policy"].(string)
	if r.policy == "" {
		r.policy = "default"
	}
	return r
}

// denial is the answer to a request at the given time.
func (r *refusal) denial(now time.Time) *Denial {
	wait := strconv.Itoa(max(1, int(math.Ceil(r.until.Sub(now).Seconds()))))
	h := http.Header{"Retry-After": {wait}}
	if r.limited {
		name := structuredString(r.policy)
		policy := fmt.Sprintf("%s;q=%d", name, structuredInteger(r.limit))
		if r.window > 0 {
			policy += fmt.Sprintf(";w=%d", max(1, int64(r.window.Seconds())))
		}
		current := fmt.Sprintf("%s;r=%d", name, structuredInteger(r.left))
		if r.reset {
			current += ";t=" + wait
		}
		h.Set("RateLimit-Policy", policy)
		h.Set("RateLimit", current)
	}
	return &Denial{Status: http.StatusTooManyRequests, Code: CodeRateLimited, Message: r.message, Header: h}
}

// structuredInteger is the largest integer of RFC 9651 that is not above f.
func structuredInteger(f float64) int64 { return int64(min(f, 999_999_999_999_999)) }

// structuredString is a string of RFC 9651: printable ASCII in quotes.
func structuredString(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, b := range []byte(s) {
		switch {
		case b == '"' || b == '\\':
			out.WriteByte('\\')
			out.WriteByte(b)
		case b >= 0x20 && b < 0x7f:
			out.WriteByte(b)
		default:
			out.WriteByte('?')
		}
	}
	out.WriteByte('"')
	return out.String()
}

// denials remembers refusals by alias, so that a caller who is over the limit costs no round trip.
// Approvals are never remembered.
type denials struct {
	table atomic.Pointer[denialTable]
}

type denialTable struct {
	refusals sync.Map // alias -> *refusal
	size     atomic.Int64
}

// clear forgets all. A refresh does so: limits may have changed.
func (d *denials) clear() { d.table.Store(&denialTable{}) }

// get returns the refusal that holds for an amount on a ledger, nil if there is none: what was too much says nothing of less.
func (d *denials) get(alias string, amount float64, now time.Time) *refusal {
	t := d.table.Load()
	if t.size.Load() == 0 {
		return nil
	}
	v, ok := t.refusals.Load(alias)
	if !ok {
		return nil
	}
	r := v.(*refusal)
	if now.Before(r.until) {
		if amount < r.amount {
			return nil
		}
		return r
	}
	if t.refusals.CompareAndDelete(alias, v) {
		t.size.Add(-1)
	}
	return nil
}

func (d *denials) put(alias string, r *refusal) {
	t := d.table.Load()
	if t.size.Load() >= maxDenials {
		d.clear()
		t = d.table.Load()
	}
	if _, had := t.refusals.Swap(alias, r); !had {
		t.size.Add(1)
	}
}

func (d *denials) forget(alias string) {
	t := d.table.Load()
	if t.size.Load() == 0 {
		return
	}
	if _, had := t.refusals.LoadAndDelete(alias); had {
		t.size.Add(-1)
	}
}
