package frame

import "fmt"

// Code says why a stream or a connection ended.
type Code uint16

// The codes of RESET and GOAWAY.
const (
	NoProvider   Code = iota + 1 // the channel has no provider
	Busy                         // a limit is reached
	Draining                     // the broker, or the connection, takes no new requests
	Unsent                       // the provider was lost before the request was sent to it
	ProviderLost                 // the provider was lost, or left, after the request was sent to it
	Deadline                     // the request's time is over
	Cancelled                    // the consumer gave up, or was lost
	Rejected                     // the provider runs a request with that id already
	Protocol                     // the peer broke the protocol
	Unauthorized                 // the broker does not let the client in
	BadVersion                   // the broker speaks no version that the client speaks
	Unresponsive                 // the peer did not answer in time
	Stopped                      // the broker, or the client, was closed
)

// meaning is a row of the table in docs/protocol.md.
type meaning struct {
	name                  string
	dispatched, retryable bool
}

var meanings = [...]meaning{
	NoProvider:   {"NO_PROVIDER", false, true},
	Busy:         {"BUSY", false, true},
	Draining:     {"DRAINING", false, true},
	Unsent:       {"UNSENT", false, true},
	ProviderLost: {"PROVIDER_LOST", true, false},
	Deadline:     {"DEADLINE", true, false},
	Cancelled:    {"CANCELLED", true, false},
	Rejected:     {"REJECTED", false, false},
	Protocol:     {"PROTOCOL", true, false},
	Unauthorized: {"UNAUTHORIZED", false, false},
	BadVersion:   {"VERSION", false, false},
	Unresponsive: {"UNRESPONSIVE", true, false},
	Stopped:      {"STOPPED", true, false},
}

func (c Code) meaning() meaning {
	if c > 0 && int(c) < len(meanings) {
		return meanings[c]
	}
	// A code of a later version: the request may have been acted on.
	return meaning{fmt.Sprintf("code %d", uint16(c)), true, false}
}

// String returns the name that docs/protocol.md uses.
func (c Code) String() string { return c.meaning().name }

// Dispatched says whether a provider may have seen the request.
func (c Code) Dispatched() bool { return c.meaning().dispatched }

// Retryable says whether the same request may succeed when it is sent again, and can do no harm.
func (c Code) Retryable() bool { return c.meaning().retryable }
