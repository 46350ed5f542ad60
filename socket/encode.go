package socket

import (
	"encoding/json"
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// appendMessage appends the wire form of a message to dst. The protocol's own payloads are written
// without reflection; any other goes through encoding/json.
func appendMessage(dst []byte, typ string, payload any, id string) ([]byte, error) {
	dst = append(dst, `{"type":`...)
	dst = wire.AppendString(dst, typ)
	dst = append(dst, `,"payload":`...)
	dst, err := appendPayload(dst, payload)
	if err != nil {
		return dst, fmt.Errorf("socket: encode %s: %w", typ, err)
	}
	if id != "" {
		dst = append(dst, `,"id":`...)
		dst = wire.AppendString(dst, id)
	}
	return append(dst, '}'), nil
}

func appendPayload(dst []byte, payload any) ([]byte, error) {
	switch p := payload.(type) {
	case nil:
		return append(dst, "null"...), nil
	case wire.Raw:
		return append(dst, p...), nil
	case *RequestForAllocation:
		if p != nil {
			return p.appendJSON(dst)
		}
	case RequestForAllocation:
		return p.appendJSON(dst)
	case *UseAllocationRequest:
		if p != nil {
			return p.appendJSON(dst)
		}
	case UseAllocationRequest:
		return p.appendJSON(dst)
	}
	text, err := json.Marshal(payload)
	return append(dst, text...), err
}

func (r *RequestForAllocation) appendJSON(dst []byte) ([]byte, error) {
	dst, err := appendAliasAmount(dst, r.Alias, r.Amount)
	if err != nil {
		return dst, err
	}
	if dst, err = appendMetadata(dst, r.Metadata); err != nil {
		return dst, err
	}
	if r.AllocationID != "" {
		dst = append(dst, `,"allocationId":`...)
		dst = wire.AppendString(dst, r.AllocationID)
	}
	return append(dst, '}'), nil
}

func (r *UseAllocationRequest) appendJSON(dst []byte) ([]byte, error) {
	dst, err := appendAliasAmount(dst, r.Alias, r.Amount)
	if err != nil {
		return dst, err
	}
	dst = append(dst, `,"allocationId":`...)
	dst = wire.AppendString(dst, r.AllocationID)
	if dst, err = appendMetadata(dst, r.Metadata); err != nil {
		return dst, err
	}
	if r.WaitForConfirmation {
		dst = append(dst, `,"waitForConfirmation":true`...)
	}
	return append(dst, '}'), nil
}

func appendAliasAmount(dst []byte, alias string, amount float64) ([]byte, error) {
	dst = append(dst, `{"alias":`...)
	dst = wire.AppendString(dst, alias)
	dst = append(dst, `,"amount":`...)
	return wire.AppendFloat(dst, amount)
}

func appendMetadata(dst []byte, metadata map[string]any) ([]byte, error) {
	if len(metadata) == 0 {
		return dst, nil
	}
	text, err := json.Marshal(metadata)
	if err != nil {
		return dst, err
	}
	dst = append(dst, `,"metadata":`...)
	return append(dst, text...), nil
}
