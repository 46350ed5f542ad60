package socket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// newResponse copies a reply out of the reader's buffer. id is the id that the reply was matched by.
func newResponse(r *wire.Reply, id string) (*UsageFlowSocketResponse, error) {
	resp := &UsageFlowSocketResponse{
		Type:    typeName(r.Type),
		ID:      idString(r.ID, id),
		ReplyTo: idString(r.ReplyTo, id),
		Message: string(r.Message),
		Error:   string(r.Error),
	}
	var err error
	if resp.Payload, err = decodePayload(r.Payload); err != nil && !resp.Refused() { // a refusal is one whatever its payload
		return nil, fmt.Errorf("socket: malformed payload in the reply: %w", err)
	}
	return resp, nil
}

// typeName saves an allocation for the types that nearly all replies have.
func typeName(b []byte) string {
	switch string(b) {
	case TypeRequestForAllocation:
		return TypeRequestForAllocation
	case TypeUseAllocation:
		return TypeUseAllocation
	case TypeError:
		return TypeError
	}
	return string(b)
}

func idString(b []byte, id string) string {
	if string(b) == id {
		return id
	}
	return string(b)
}

// decodePayload gives what encoding/json would; a small flat object, as the replies to
// reservations and settlements are, is read directly.
func decodePayload(text []byte) (any, error) {
	if len(text) == 0 || string(text) == "null" {
		return nil, nil
	}
	if text[0] == '{' && len(text) < 512 {
		if m, ok := decodeFlat(text); ok {
			return m, nil
		}
	}
	var v any
	err := json.Unmarshal(text, &v)
	return v, err
}

func decodeFlat(text []byte) (map[string]any, bool) {
	m := make(map[string]any, 8)
	flat := true
	ok := wire.Members(text, func(name, value []byte) bool {
		if !isPlain(name) {
			flat = false
			return false
		}
		var v any
		if v, flat = decodeScalar(value); flat {
			m[memberName(name)] = v
		}
		return flat
	})
	return m, ok && flat
}

// memberName saves an allocation for the members that replies have most often.
func memberName(b []byte) string {
	switch string(b) {
	case "allocationId":
		return "allocationId"
	case "limit":
		return "limit"
	case "remaining":
		return "remaining"
	case "resetAt":
		return "resetAt"
	case "windowSeconds":
		return "windowSeconds"
	case "policy":
		return "policy"
	}
	return string(b)
}

// isPlain reports whether the content of a JSON string stands for itself.
func isPlain(b []byte) bool {
	for _, c := range b {
		if c < 0x20 || c >= 0x7f || c == '\\' || c == '"' {
			return false
		}
	}
	return true
}

// decodeScalar reads the values that need no unescaping; all others are left to encoding/json.
func decodeScalar(value []byte) (any, bool) {
	switch {
	case value[0] == '"':
		content := value[1 : len(value)-1]
		if !isPlain(content) {
			return nil, false
		}
		return string(content), true
	case string(value) == "true":
		return true, true
	case string(value) == "false":
		return false, true
	case len(bytes.Trim(value, "0123456789")) == 0 && len(value) < 16 && (value[0] != '0' || len(value) == 1):
		n, err := strconv.ParseInt(string(value), 10, 64)
		return float64(n), err == nil
	}
	return nil, false
}
