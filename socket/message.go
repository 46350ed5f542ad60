package socket

import "context"

// Types of the messages a client sends; the protocol is in docs/wire-protocol.md.
const (
	TypeRequestForAllocation = "request_for_allocation"
	TypeUseAllocation        = "use_allocation"
	TypeGetPolicies          = "get_application_policies"
	TypeGetConfig            = "get_application_config"
	TypeGetBlockedEndpoints  = "get_blocked_endpoints"

	// TypeError is the type of a reply that refuses a request.
	TypeError = "error"
)

// UsageFlowSocketMessage is a message from the client to the service.
type UsageFlowSocketMessage struct {
	Type string `json:"type"`
	// Payload is anything that encoding/json can marshal; nil goes out as null.
	Payload any `json:"payload"`
	// ID correlates the reply. Where it is empty, SendAsync and Call make a unique one for the
	// wire and leave the caller's message as it is; Send and Notify send none: the service then does not reply.
	ID string `json:"id,omitempty"`
}

// UsageFlowSocketResponse is a reply of the service. A reply whose Type is "error" or whose Error is
// not empty is a refusal; it is a value, not a Go error (see Refused).
type UsageFlowSocketResponse struct {
	Type string `json:"type"`
	// Payload is the reply's payload as encoding/json decodes into an any.
	Payload any    `json:"payload"`
	ID      string `json:"id,omitempty"`
	ReplyTo string `json:"replyTo,omitempty"`
	Message string `json:"message,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Refused reports whether the service refused the request. No text of the reply is looked at.
func (r *UsageFlowSocketResponse) Refused() bool {
	return r.Type == TypeError || r.Error != ""
}

// RequestForAllocation is the payload of a request_for_allocation: it reserves Amount on the ledger Alias.
type RequestForAllocation struct {
	Alias    string         `json:"alias"`
	Amount   float64        `json:"amount"`
	Metadata map[string]any `json:"metadata,omitempty"`
	// AllocationID is the client's own id (a UUID) for the reservation; empty lets the service make one.
	AllocationID string `json:"allocationId,omitempty"`
}

// UseAllocationRequest is the payload of a use_allocation: it settles the allocation with the real
// Amount; 0 voids it.
type UseAllocationRequest struct {
	Alias               string         `json:"alias"`
	Amount              float64        `json:"amount"`
	AllocationID        string         `json:"allocationId"`
	Metadata            map[string]any `json:"metadata,omitempty"`
	WaitForConfirmation bool           `json:"waitForConfirmation,omitempty"`
}

// A Transport carries messages to a UsageFlow service. All methods are safe for concurrent use.
type Transport interface {
	// Call sends p and waits for its reply until ctx ends. A reply that refuses is a value; an error
	// means that no reply came (ErrNotConnected, ErrTimeout, ErrConnectionLost, ErrQueueFull, ErrClosed,
	// or the context's own).
	Call(ctx context.Context, p *UsageFlowSocketMessage) (*UsageFlowSocketResponse, error)
	// Notify queues p and does not wait for a reply. A nil error means queued, not delivered.
	Notify(ctx context.Context, p *UsageFlowSocketMessage) error
	// IsConnected reports whether a message sent now has a connection to go to.
	IsConnected() bool
	// Close sends what is queued, then ends every connection and goroutine. It is idempotent.
	Close() error
}
