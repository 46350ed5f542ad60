package core

import (
	"encoding/json"
	"net/http"
	"sync/atomic"
)

// Stats counts, since New, what became of the requests and jobs that the flow admitted. It is one consistent
// snapshot: Admitted = Settled + Voided + Pending + Spooled + Dropped, always.
type Stats struct {
	Admitted int64 // reserved, or let pass while the service gave no decision
	Settled  int64 // confirmed by the service, with an amount
	Voided   int64 // confirmed by the service, with amount 0; jobs with an ID that panicked among them, whose reservation another run may settle
	Pending  int64 // running, or not confirmed yet
	Spooled  int64 // in SpoolDir, and not confirmed yet; what an earlier process has left there counts as Admitted too
	Dropped  int64 // lost: the bound on memory was reached, or the process ended first

	Denied         int64 // answered 429
	Blocked        int64 // answered 403
	FailedOpen     int64 // passed because the service gave no decision
	FailedClosed   int64 // answered 503 for the same reason
	LateDenials    int64 // metered reservations that the service denied after the request had passed; settled all the same
	InvalidAmounts int64 // amounts that were negative, over 1e12, not finite or not numbers; what would be charged without them was
	UnknownAmounts int64 // responses in which the tracked field was not found; the default amount was charged
	Unreadable     int64 // responses with a tracked field whose body could not be read to its end, mostly for its encoding
	LateAmounts    int64 // amounts that were set after the request had ended, and not charged
	Shadowed       int64 // requests that Config.Shadow let pass where they would have been refused
	Missed         int64 // requests of routes that are metered or blocked which were served without the flow's knowing: see Flow.ReportMissed
	SkippedBodies  int64 // requests whose identity was not looked for in their body: Config.MaxMemoryBytes was reached
	Unmetered      int64 // passed before the first configuration had come
	InvalidTokens  int64 // JWTs that were malformed, or that VerifyJWT refused

	Breaker BreakerState // whether decisions wait for the service
	Amount  float64      // the sum of the amounts that are settled
}

// counters are those that take no part in the sum.
type counters struct {
	admitted                                                   atomic.Int64
	denied, blocked, failedOpen, failedClosed                  atomic.Int64
	lateDenials, invalidAmounts, unknownAmounts, invalidTokens atomic.Int64
	unmetered, unreadable, lateAmounts, shadowed, missed       atomic.Int64
	skippedBodies                                              atomic.Int64
}

// StatsHandler serves Stats as JSON, with the fields' names, for usageflow doctor and others who watch over the process. It is not for the public.
func (f *Flow) StatsHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(f.Stats()) // the client may be gone
	})
}

// Stats returns the counts.
func (f *Flow) Stats() Stats {
	s := f.outbox.stats()
	c := &f.counters
	s.Denied, s.Blocked = c.denied.Load(), c.blocked.Load()
	s.FailedOpen, s.FailedClosed = c.failedOpen.Load(), c.failedClosed.Load()
	s.LateDenials, s.InvalidAmounts = c.lateDenials.Load(), c.invalidAmounts.Load()
	s.UnknownAmounts, s.InvalidTokens = c.unknownAmounts.Load(), c.invalidTokens.Load()
	s.Unmetered, s.Unreadable, s.LateAmounts = c.unmetered.Load(), c.unreadable.Load(), c.lateAmounts.Load()
	s.Shadowed, s.Missed, s.SkippedBodies = c.shadowed.Load(), c.missed.Load(), c.skippedBodies.Load()
	if f.breaker.open() {
		s.Breaker = BreakerOpen
	}
	return s
}
