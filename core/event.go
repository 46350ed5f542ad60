package core

// EventKind says what happened.
type EventKind string

// The events that Config.Observe is told of.
const (
	EventConfigured   EventKind = "configured"    // a configuration was loaded
	EventAdmitted     EventKind = "admitted"      // a request or job was let in
	EventDenied       EventKind = "denied"        // answered 429
	EventBlocked      EventKind = "blocked"       // answered 403
	EventShadowed     EventKind = "shadowed"      // let in by Config.Shadow, where it would have been answered 429, 403 or 503
	EventFailedOpen   EventKind = "failed_open"   // let in because the service gave no decision
	EventFailedClosed EventKind = "failed_closed" // answered 503 because the service gave no decision
	EventLateDenial   EventKind = "late_denial"   // the service denied a metered reservation afterwards
	EventSettled      EventKind = "settled"       // the service confirmed a settlement: of one request, or of a slice's (Config.Lease)
	EventVoided       EventKind = "voided"        // the same, with amount 0
	EventDropped      EventKind = "dropped"       // a settlement was lost
	EventOutage       EventKind = "outage"        // decisions began to fail
	EventRecovered    EventKind = "recovered"     // decisions come again

	EventBreakerOpened EventKind = "breaker_opened" // decisions stop waiting: several in a row got no answer
	EventBreakerClosed EventKind = "breaker_closed" // the service has answered again

	EventSpoolFailed    EventKind = "spool_failed"    // settlements can't be written to SpoolDir
	EventSpoolRecovered EventKind = "spool_recovered" // they can again
)

// Event is one thing that happened. Fields that do not apply are zero.
type Event struct {
	Kind         EventKind
	Alias        string
	AllocationID string
	Amount       float64
	Err          error
}
