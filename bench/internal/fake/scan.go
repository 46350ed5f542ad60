package fake

import "bytes"

// message is what the service needs of a client's message. Its slices are those of the frame.
type message struct {
	typ, id, allocation []byte
}

// scan walks over one JSON object without decoding it. ok is false if the object is not complete; other
// mistakes go unnoticed.
func scan(b []byte) (m message, ok bool) {
	depth, inPayload := 0, false
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			key := text(b[i:])
			i += len(key) + 2
			if i >= len(b) || b[i] != ':' {
				i--
				continue // a value, or an incomplete message
			}
			if depth == 1 {
				inPayload = string(key) == "payload"
			}
			if i+1 >= len(b) || b[i+1] != '"' {
				continue
			}
			value := text(b[i+1:])
			switch {
			case depth == 1 && string(key) == "type":
				m.typ = value
			case depth == 1 && string(key) == "id":
				m.id = value
			case depth == 2 && inPayload && string(key) == "allocationId":
				m.allocation = value
			}
			i += len(value) + 2
		}
	}
	return m, depth == 0 && len(b) > 1 && b[len(b)-1] == '}'
}

// text returns what stands between the quote that b starts with and the next one that is not escaped.
func text(b []byte) []byte {
	for end := 1; ; end++ {
		n := bytes.IndexByte(b[end:], '"')
		if n < 0 {
			return b[1:]
		}
		end += n
		slashes := 0
		for b[end-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return b[1:end]
		}
	}
}
