package sockettest

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// A Message is one message that the server received. It is a copy; its payload is shared between all
// copies and must not be written to.
type Message struct {
	Type string
	// ID is empty in a one-way message.
	ID      string
	Payload json.RawMessage
	// Conn is the number of the connection it came on; they count from 1, over the server's whole life.
	Conn int
	// Seq is its place in the order in which the server read all messages of all connections, from 1.
	Seq      int
	Received time.Time
}

// Allocation is the payload of a request_for_allocation. It is the zero value for any other message and
// for a payload that does not decode; CheckProtocol reports the latter.
func (m Message) Allocation() socket.RequestForAllocation {
	var p socket.RequestForAllocation
	if m.Type != socket.TypeRequestForAllocation || json.Unmarshal(m.Payload, &p) != nil {
		return socket.RequestForAllocation{}
	}
	return p
}

// Use is the payload of a use_allocation, the zero value as for Allocation.
func (m Message) Use() socket.UseAllocationRequest {
	var p socket.UseAllocationRequest
	if m.Type != socket.TypeUseAllocation || json.Unmarshal(m.Payload, &p) != nil {
		return socket.UseAllocationRequest{}
	}
	return p
}

// check says what is wrong with the payload by the protocol's rules.
func (m Message) check() error {
	var p struct {
		Alias        string   `json:"alias"`
		Amount       *float64 `json:"amount"`
		AllocationID string   `json:"allocationId"`
	}
	switch m.Type {
	case socket.TypeRequestForAllocation, socket.TypeUseAllocation:
		if err := json.Unmarshal(m.Payload, &p); err != nil {
			return fmt.Errorf("payload: %w", err)
		}
	default:
		return nil
	}
	switch {
	case p.Alias == "":
		return errors.New("no alias")
	case p.Amount == nil:
		return errors.New("no amount")
	case *p.Amount < 0:
		return fmt.Errorf("amount %v is negative", *p.Amount)
	case m.Type == socket.TypeUseAllocation && p.AllocationID == "":
		return errors.New("no allocationId")
	default:
		return nil
	}
}
