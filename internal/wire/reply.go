package wire

import (
	"bytes"
	"encoding/json"
	"errors"
)

// ErrMalformed is returned for a message that is not one JSON object.
var ErrMalformed = errors.New("wire: malformed message")

// Reply is the envelope of a message from the service. Its fields share the memory of the text that
// it was parsed from.
type Reply struct {
	Type, ID, ReplyTo, Error, Message []byte
	// Payload is raw JSON, not checked beyond its extent; nil where there is none.
	Payload []byte
}

// Refused reports whether the service refused: type "error", or an error that is not empty.
func (r *Reply) Refused() bool {
	return len(r.Error) > 0 || string(r.Type) == "error"
}

// Parse reads the envelope in text into r. Unknown fields are skipped.
func (r *Reply) Parse(text []byte) error {
	*r = Reply{}
	s := scanner{text: text}
	if s.next() != '{' {
		return ErrMalformed
	}
	s.pos++
	if s.next() == '}' {
		s.pos++
		return s.end()
	}
	for {
		key, ok := s.str()
		if !ok || s.next() != ':' {
			return ErrMalformed
		}
		s.pos++
		value, ok := s.value()
		if !ok {
			return ErrMalformed
		}
		switch string(key) {
		case "type":
			r.Type = scalar(value)
		case "id":
			r.ID = scalar(value)
		case "replyTo":
			r.ReplyTo = scalar(value)
		case "error":
			r.Error = scalar(value)
		case "message":
			r.Message = scalar(value)
		case "payload":
			r.Payload = value
		}
		switch s.next() {
		case ',':
			s.pos++
		case '}':
			s.pos++
			return s.end()
		default:
			return ErrMalformed
		}
	}
}

// scalar is a scalar's text: a string's content, a number as written; null, false and "" are empty.
func scalar(value []byte) []byte {
	if value[0] == '"' {
		return unquote(value)
	}
	if string(value) == "null" || string(value) == "false" {
		return nil
	}
	return value
}

func unquote(quoted []byte) []byte {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return quoted[1 : len(quoted)-1]
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return quoted[1 : len(quoted)-1]
	}
	return []byte(s)
}

// scanner finds the extent of JSON values. It does not check what is inside them.
type scanner struct {
	text []byte
	pos  int
}

// next skips white space and returns the byte that follows, 0 at the end.
func (s *scanner) next() byte {
	for s.pos < len(s.text) {
		switch b := s.text[s.pos]; b {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return b
		}
	}
	return 0
}

func (s *scanner) end() error {
	if s.next() != 0 || s.pos < len(s.text) {
		return ErrMalformed
	}
	return nil
}

// str reads a string and returns its content.
func (s *scanner) str() ([]byte, bool) {
	if s.next() != '"' {
		return nil, false
	}
	start := s.pos
	if !s.skipString() {
		return nil, false
	}
	return unquote(s.text[start:s.pos]), true
}

func (s *scanner) skipString() bool {
	// IndexByte looks at many bytes at once, and an escape is rare.
	rest := s.text[s.pos+1:]
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return false
	}
	if bytes.IndexByte(rest[:end], '\\') < 0 {
		s.pos += end + 2
		return true
	}
	for i := 0; i < len(rest); i++ {
		switch rest[i] {
		case '"':
			s.pos += i + 2
			return true
		case '\\':
			i++
		}
	}
	return false
}

// value reads any value and returns its text.
func (s *scanner) value() ([]byte, bool) {
	first := s.next()
	start := s.pos
	switch first {
	case 0, ',', ':', '}', ']':
		return nil, false
	case '"':
		if !s.skipString() {
			return nil, false
		}
	case '{', '[':
		if !s.skipNested() {
			return nil, false
		}
	default:
		for s.pos < len(s.text) && !isDelimiter(s.text[s.pos]) {
			s.pos++
		}
	}
	return s.text[start:s.pos], true
}

func (s *scanner) skipNested() bool {
	depth := 0
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case '"':
			if !s.skipString() {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
			if depth == 0 {
				s.pos++
				return true
			}
		}
		s.pos++
	}
	return false
}

func isDelimiter(b byte) bool {
	switch b {
	case ',', ':', '{', '}', '[', ']', '"', ' ', '\t', '\n', '\r':
		return true
	}
	return false
}

// Members calls yield with the name and raw value of each member of the JSON object in text, until it
// returns false. It reports whether text is an object as far as it was read.
func Members(text []byte, yield func(name, value []byte) bool) bool {
	s := scanner{text: text}
	if s.next() != '{' {
		return false
	}
	s.pos++
	if s.next() == '}' {
		return true
	}
	for {
		key, ok := s.str()
		if !ok || s.next() != ':' {
			return false
		}
		s.pos++
		value, ok := s.value()
		if !ok {
			return false
		}
		if !yield(key, value) {
			return true
		}
		switch s.next() {
		case ',':
			s.pos++
		case '}':
			return true
		default:
			return false
		}
	}
}
