package service

import (
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// The errors that a reply can carry beside rate_limit_exceeded. Agents take any of them as a refusal
// of the message; a failure of the store is never told this way (see conn.failed).
const (
	codeRateLimited    = "rate_limit_exceeded"
	codeInvalidMessage = "invalid_message"
	codeUnknownType    = "unknown_type"
	codeInvalidAmount  = "invalid_amount"
	codeInvalidAlias   = "invalid_alias"
	codeInvalidID      = "invalid_allocation_id"
	codeConflict       = "allocation_conflict"
	codeTooManyLedgers = "too_many_ledgers"
)

const (
	// maxAlias and maxID bound what a message may name, maxText each text of the metadata that is kept.
	maxAlias = 4 << 10
	maxID    = 256
	maxText  = 1 << 10
	// maxRequestID is the longest id of a request that its events show.
	maxRequestID = 64
)

// request is a message of an agent, with the payloads of all types in one.
type request struct {
	Type    string         `json:"type"`
	ID      string         `json:"id"`
	Payload requestPayload `json:"payload"`
}

type requestPayload struct {
	Alias        string          `json:"alias"`
	Amount       *float64        `json:"amount"`
	AllocationID string          `json:"allocationId"`
	Metadata     requestMetadata `json:"metadata"`
}

// requestMetadata is what a message says of a request: what is kept with its allocation, and what its events alone show.
type requestMetadata struct {
	Metadata
	// RequestID is the same for all that one HTTP request has caused: itself, and the jobs of workers.
	RequestID string `json:"usageflowRequestId"`
}

// decodeRequest reads a message. Metadata of unexpected types is left out. Where the error is not nil
// but the message has an id, the request holds it.
func decodeRequest(data []byte) (request, error) {
	var r request
	err := json.Unmarshal(data, &r)
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) && strings.HasPrefix(wrongType.Field, "payload.metadata") {
		return r.lenient(data)
	}
	return r, err
}

// lenient reads a message again whose metadata has values of other types than the ones that are kept.
func (r request) lenient(data []byte) (request, error) {
	var m struct {
		Type    string `json:"type"`
		ID      string `json:"id"`
		Payload struct {
			Alias        string          `json:"alias"`
			Amount       *float64        `json:"amount"`
			AllocationID string          `json:"allocationId"`
			Metadata     json.RawMessage `json:"metadata"`
		} `json:"payload"`
	}
	err := json.Unmarshal(data, &m)
	p := requestPayload{Alias: m.Payload.Alias, Amount: m.Payload.Amount, AllocationID: m.Payload.AllocationID}
	var fields map[string]any
	if json.Unmarshal(m.Payload.Metadata, &fields) == nil {
		p.Metadata.Method, _ = fields["method"].(string)
		p.Metadata.URL, _ = fields["url"].(string)
		p.Metadata.RawURL, _ = fields["rawUrl"].(string)
		status, _ := fields["responseStatusCode"].(float64)
		p.Metadata.Status = int(status)
		p.Metadata.DurationMS, _ = fields["requestDuration"].(float64)
		p.Metadata.RequestID, _ = fields["usageflowRequestId"].(string)
	}
	return request{Type: m.Type, ID: m.ID, Payload: p}, err
}

// checked returns the payload's amount and its alias and id, checked, or the refusal.
func (p *requestPayload) checked() (Micros, *refusal) {
	switch {
	case p.Alias == "":
		return 0, &refusal{code: codeInvalidAlias, message: "the alias is missing"}
	case len(p.Alias) > maxAlias:
		return 0, &refusal{code: codeInvalidAlias, message: "the alias is longer than 4096 bytes"}
	case strings.IndexByte(p.Alias, 0) >= 0: // databases have no such text
		return 0, &refusal{code: codeInvalidAlias, message: "the alias has a NUL byte"}
	case strings.HasPrefix(p.Alias, planLedger): // the service's own: no route has such a method
		return 0, &refusal{code: codeInvalidAlias, message: "the alias is the name of a budget's ledger"}
	case strings.IndexByte(p.AllocationID, 0) >= 0:
		return 0, &refusal{code: codeInvalidID, message: "the allocation id has a NUL byte"}
	case len(p.AllocationID) > maxID:
		return 0, &refusal{code: codeInvalidID, message: "the allocation id is longer than 256 bytes"}
	case p.Amount == nil:
		return 0, &refusal{code: codeInvalidAmount, message: "the amount is missing"}
	}
	amount, err := ToMicros(*p.Amount)
	if err != nil {
		return 0, &refusal{code: codeInvalidAmount, message: err.Error()}
	}
	p.Metadata.bound()
	return amount, nil
}

// bound cuts what is too long to keep. Half an id would be another one.
func (m *requestMetadata) bound() {
	if len(m.RequestID) > maxRequestID {
		m.RequestID = ""
	}
	for _, text := range []*string{&m.Method, &m.URL, &m.RawURL} {
		if len(*text) > maxText {
			*text = strings.ToValidUTF8((*text)[:maxText], "")
		}
	}
}

// refusal is an error reply.
type refusal struct {
	code, message string
	payload       any
}

func (r *refusal) reply(id string) *socket.UsageFlowSocketResponse {
	return &socket.UsageFlowSocketResponse{Type: socket.TypeError, ReplyTo: id, ID: id, Error: r.code, Message: r.message, Payload: r.payload}
}

// allocationReply is the payload of a reply to request_for_allocation, allowed or denied.
type allocationReply struct {
	AllocationID string `json:"allocationId,omitempty"`
	*limitReply
}

type limitReply struct {
	Limit         float64 `json:"limit"`
	Remaining     float64 `json:"remaining"`
	ResetAt       int64   `json:"resetAt"` // Unix ms
	WindowSeconds int64   `json:"windowSeconds"`
	Policy        string  `json:"policy"`
	Now           int64   `json:"now"` // by the service's clock, Unix ms
}

// reply turns a decision into what is sent.
func (d *Decision) reply(id string) *socket.UsageFlowSocketResponse {
	payload := allocationReply{}
	if d.Limited {
		payload.limitReply = &limitReply{
			Limit: d.Limit.Units(), Remaining: d.Remaining.Units(), ResetAt: d.ResetAt.UnixMilli(), WindowSeconds: d.WindowSeconds, Policy: d.Policy, Now: time.Now().UnixMilli(),
		}
	}
	if !d.Allowed {
		refused := refusal{code: codeRateLimited, message: "the limit of policy " + d.Policy + " is reached", payload: payload}
		return refused.reply(id)
	}
	payload.AllocationID = d.ID
	return &socket.UsageFlowSocketResponse{Type: socket.TypeRequestForAllocation, ReplyTo: id, ID: id, Payload: payload}
}

// useReply is the payload of a reply to use_allocation.
type useReply struct {
	AllocationID string   `json:"allocationId"`
	Amount       float64  `json:"amount"`
	State        string   `json:"state"`
	Flagged      []string `json:"flagged,omitempty"`
}

func (r *Receipt) reply(id string) *socket.UsageFlowSocketResponse {
	payload := useReply{AllocationID: r.ID, Amount: r.Amount.Units(), State: r.State.String(), Flagged: r.Flags.Names()}
	return &socket.UsageFlowSocketResponse{Type: socket.TypeUseAllocation, ReplyTo: id, ID: id, Payload: payload}
}

// policies, settings and blocked are the payloads that describe the application to its agents. They
// carry the documented fields only: agents of other makers may refuse what they don't know.
func (s *Service) policies(a *Application) any {
	return struct {
		Policies          []Policy `json:"policies"`
		Total             int      `json:"total"`
		AccountReachLimit bool     `json:"accountReachLimit"`
	}{list(a.Policies), len(a.Policies), s.capped(a)}
}

func (s *Service) settings(a *Application) any {
	return struct {
		MonitoringPaths    []Endpoint `json:"monitoringPaths"`
		WhitelistEndpoints []Endpoint `json:"whitelistEndpoints"`
		AccountReachLimit  bool       `json:"accountReachLimit"`
		DiscoveryDisabled  bool       `json:"discoveryDisabled"`
	}{list(a.MonitoringPaths), list(a.WhitelistEndpoints), s.capped(a), a.DiscoveryDisabled}
}

func (a *Application) blocked() any {
	return struct {
		Endpoints []BlockedEndpoint `json:"endpoints"`
		Total     int               `json:"total"`
	}{list(a.BlockedEndpoints), len(a.BlockedEndpoints)}
}

// list makes an empty list of none: JSON's null is no list.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
