package core

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// unknownReset is how long a denial is remembered where the service names no reset.
const unknownReset = 5 * time.Second

// RateLimitHeaders is a form of the response fields that tell of a limit.
type RateLimitHeaders int

// The forms of the fields.
const (
	// RateLimitIETF is that of the IETF's draft, RateLimit-Policy: "name";q=100;w=60 and RateLimit: "name";r=0;t=12
	// (https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-10).
	RateLimitIETF RateLimitHeaders = iota
	// RateLimitX is what many APIs have: X-RateLimit-Limit, X-RateLimit-Remaining and X-RateLimit-Reset, the latter in Unix seconds.
	RateLimitX
	// RateLimitNone leaves them out, and the policy's name out of problem documents.
	RateLimitNone
)

// refusal is what the service said when it denied, as it is remembered.
type refusal struct {
	amount     float64 // what was asked for
	message    string
	policy     string
	limit      float64 // with limitKnown
	left       float64
	window     time.Duration // 0: unknown
	limitKnown bool          // the service told the limit
	until      time.Time     // when to ask again
	resetKnown bool          // until is the window's reset
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
			r.until, r.resetKnown = until, true
		}
	}
	r.limit, r.limitKnown = number("limit")
	r.left, _ = number("remaining")
	r.policy, _ = fields["policy"].(string)
	if r.policy == "" {
		r.policy = "default"
	}
	return r
}

// denial is the answer to a request at the given time.
func (r *refusal) denial(now time.Time, form RateLimitHeaders) *Denial {
	wait := max(1, int(math.Ceil(r.until.Sub(now).Seconds())))
	d := &Denial{Status: http.StatusTooManyRequests, Code: CodeRateLimited, Message: r.message, Header: http.Header{}}
	d.Header.Set("Retry-After", strconv.Itoa(wait+jitter(wait)))
	if !r.limitKnown {
		return d
	}
	if form != RateLimitNone {
		d.violated = r.policy
	}
	switch form {
	case RateLimitIETF:
		name := structuredString(r.policy)
		policy := fmt.Sprintf("%s;q=%d", name, structuredInteger(r.limit))
		if r.window > 0 {
			policy += fmt.Sprintf(";w=%d", max(1, int64(r.window.Seconds())))
		}
		current := fmt.Sprintf("%s;r=%d", name, structuredInteger(r.left))
		if r.resetKnown {
			current += fmt.Sprintf(";t=%d", wait)
		}
		d.Header.Set("RateLimit-Policy", policy)
		d.Header.Set("RateLimit", current)
	case RateLimitX:
		d.Header.Set("X-RateLimit-Limit", strconv.FormatInt(structuredInteger(r.limit), 10))
		d.Header.Set("X-RateLimit-Remaining", strconv.FormatInt(structuredInteger(r.left), 10))
		if r.resetKnown {
			d.Header.Set("X-RateLimit-Reset", strconv.FormatInt(now.Unix()+int64(wait), 10))
		}
	}
	return d
}

// jitter is what callers are told to wait beyond the reset, in seconds, so that they do not all come back in the same moment: up
// to a tenth of the wait, which is taken to be at least 10 s and at most 300 s.
func jitter(wait int) int { return rand.N(min(max(wait/10, 1), 30) + 1) }

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
