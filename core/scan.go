package core

import (
	"bytes"
	"mime"
	"net/http"
)

// responseScanner finds the amount in a response as it is written, for the fields that the route's policies track. Its
// memory does not depend on the response's length: nothing of the body is kept.
type responseScanner struct {
	tracked *tracked
	amounts *amounts      // nil before the first piece
	fields  *fieldScanner // what is found
	text    func([]byte)  // takes the body, decoded
	body    *decoder      // of an encoded one; nil where it is not
}

func newResponseScanner(t *tracked) *responseScanner { return &responseScanner{tracked: t} }

// write looks at a piece of the body. The header says what it is, at the first piece.
func (s *responseScanner) write(header http.Header, p []byte) {
	if s.amounts == nil {
		s.begin(header)
	}
	if s.body != nil {
		s.body.write(p)
		return
	}
	s.text(p)
}

func (s *responseScanner) begin(header http.Header) {
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	s.amounts = &s.tracked.stream
	switch mediaType {
	case "text/event-stream", "application/json-seq",
		"application/x-ndjson", "application/ndjson", "application/jsonl", "application/jsonlines", "application/x-jsonlines", "application/stream+json":
	default:
		s.amounts = &s.tracked.document
	}
	s.fields = newFieldScanner(s.amounts.paths...)
	switch {
	case s.amounts == &s.tracked.document:
		s.text = s.fields.write
	case mediaType == "text/event-stream":
		s.text = (&eventScanner{fields: s.fields}).write
	case mediaType == "application/json-seq":
		s.text = func(p []byte) { s.fields.writeSeparated(p, 0x1e) } // RFC 7464
	default:
		s.text = func(p []byte) { s.fields.writeSeparated(p, '\n') }
	}
	s.body = newDecoder(header.Values("Content-Encoding"), s.text)
}

// close ends the scan when the response has ended. It says why the body, or a part of it, could not be read; "" if it could.
func (s *responseScanner) close() (problem string) {
	if s.body == nil {
		return ""
	}
	return s.body.close()
}

// whole reports whether the response is a JSON document that has come to its end. It is called after close.
func (s *responseScanner) whole() bool {
	return s.amounts == &s.tracked.document && s.fields.whole()
}

// amount is the number in the first of the fields that was found; not valid if that is no number. It is called after close.
func (s *responseScanner) amount() (amount float64, found bool) {
	if s.amounts == nil {
		return 0, false // nothing was written
	}
	return s.amounts.in(s.fields)
}

// eventScanner takes the JSON documents out of the data lines of server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html). A value counts as soon as it was written: the last
// event needs no blank line behind it.
type eventScanner struct {
	fields *fieldScanner
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
				s.fields.write(piece)
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

func (s *eventScanner) step(b byte) {
	if b == '\n' && s.lastCR {
		s.lastCR = false
		return
	}
	s.lastCR = b == '\r'
	if b == '\n' || b == '\r' {
		if s.state == lineStart { // a blank line ends the event
			s.fields.reset()
		} else if s.state == dataLine || s.state == dataStart {
			s.fields.write([]byte{'\n'})
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
			s.fields.write([]byte{b})
		}
	}
}
