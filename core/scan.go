package core

import (
	"bytes"
	"mime"
	"net/http"
	"strings"
)

// responseScanner finds the amount in a response as it is written, for the fields that the route's policies track. Its
// memory does not depend on the response's length: nothing of the body is kept.
type responseScanner struct {
	fields []*fieldScanner
	begun  bool
	blind  bool // the body can't be read: it is encoded
	events *eventScanner
}

func newResponseScanner(tracked []string) *responseScanner {
	s := &responseScanner{fields: make([]*fieldScanner, len(tracked))}
	for i, path := range tracked {
		s.fields[i] = newFieldScanner(path)
	}
	return s
}

// write looks at a piece of the body. The header says what it is, at the first piece.
func (s *responseScanner) write(header http.Header, p []byte) {
	if !s.begun {
		s.begun = true
		if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
			s.blind = true
		}
		if mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type")); mediaType == "text/event-stream" {
			s.events = &eventScanner{fields: s.fields}
		}
	}
	switch {
	case s.blind:
	case s.events != nil:
		s.events.write(p)
	default:
		for _, f := range s.fields {
			f.write(p)
		}
	}
}

// amount is the number in the first of the fields that was found; not valid if that is no number.
func (s *responseScanner) amount() (amount float64, found bool) {
	for _, f := range s.fields {
		if amount, found := f.amount(); found {
			return amount, true
		}
	}
	return 0, false
}

// eventScanner takes the JSON documents out of the data lines of server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). A value counts as soon as it was written: the last
// event needs no blank line behind it.
type eventScanner struct {
	fields []*fieldScanner
	name   []byte // of the line's field, as far as it has come
	state  eventState
	lastCR bool // the last byte was a carriage return; a newline after it belongs to it
}

type eventState uint8

const (
	lineStart eventState = iota
	fieldName
	dataStart // behind "data:": one space is no part of the data
	dataLine
	otherLine
)

func (s *eventScanner) write(p []byte) {
	for len(p) > 0 {
		if s.state == dataLine || s.state == otherLine {
			end := bytes.IndexAny(p, "\r\n")
			piece := p
			if end >= 0 {
				piece = p[:end]
			}
			if s.state == dataLine {
				s.data(piece)
			}
			p = p[len(piece):]
			if end < 0 {
				return
			}
		}
		s.step(p[0])
		p = p[1:]
	}
}

func (s *eventScanner) data(p []byte) {
	for _, f := range s.fields {
		f.write(p)
	}
}

func (s *eventScanner) step(b byte) {
	if b == '\n' && s.lastCR {
		s.lastCR = false
		return
	}
	s.lastCR = b == '\r'
	if b == '\n' || b == '\r' {
		if s.state == lineStart { // a blank line ends the event
			for _, f := range s.fields {
				f.reset()
			}
		} else if s.state == dataLine || s.state == dataStart {
			s.data([]byte{'\n'})
		}
		s.state, s.name = lineStart, s.name[:0]
		return
	}
	switch s.state {
	case lineStart, fieldName:
		s.state = fieldName
		if b != ':' {
			if s.name = append(s.name, b); len(s.name) > len("data") {
				s.state = otherLine
			}
			return
		}
		if s.state = otherLine; string(s.name) == "data" {
			s.state = dataStart
		}
	case dataStart:
		s.state = dataLine
		if b != ' ' {
			s.data([]byte{b})
		}
	}
}
