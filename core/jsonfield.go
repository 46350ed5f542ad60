package core

import (
	"math"
	"strconv"
	"strings"
)

const (
	maxJSONDepth  = 256
	maxNumberText = 64
)

// fieldScanner finds the number at a path of a JSON document that comes in pieces, without keeping the
// document. The path's parts name object members; a number names an array's element. The last value found counts.
type fieldScanner struct {
	path []string

	value string // the text of the value that was found last; notNumber if it was none
	found bool

	state   fieldState
	stack   []byte // '{' or '[' for each open container
	onPath  int    // how many of the open containers lie on the path, from the outermost on
	index   []int  // of the current element, for each of those
	wantKey bool   // in an object, a member's name is due
	hit     bool   // the value that comes next is the path's next part
	text    []byte // of the key or scalar that is being read, as far as it matters
	escape  bool   // the last byte in a string was a backslash
	broken  bool   // nested too deeply: the rest is ignored
}

type fieldState uint8

const (
	fieldBetween fieldState = iota // outside of strings and scalars
	fieldString                    // in a string
	fieldScalar                    // in a number, true, false or null
)

func newFieldScanner(path string) *fieldScanner {
	return &fieldScanner{path: strings.Split(path, ".")}
}

// reset makes the scanner ready for another document. What was found stays.
func (s *fieldScanner) reset() {
	s.state, s.stack, s.onPath, s.index = fieldBetween, s.stack[:0], 0, s.index[:0]
	s.wantKey, s.hit, s.escape, s.broken = false, false, false, false
	s.text = s.text[:0]
}

func (s *fieldScanner) write(p []byte) {
	for i := 0; i < len(p); i++ {
		if s.broken {
			return
		}
		if s.state == fieldString && !s.escape && !s.matters() {
			i += plainPrefix(p[i:])
			if i == len(p) {
				return
			}
		}
		b := p[i]
		switch {
		case s.state == fieldString:
			s.inString(b)
		case s.state == fieldScalar && !endsScalar(b):
			s.keep(b)
		default:
			if s.state == fieldScalar {
				s.endScalar()
			}
			s.between(b)
		}
	}
}

// between handles a byte outside of strings and scalars.
func (s *fieldScanner) between(b byte) {
	switch b {
	case ' ', '\t', '\n', '\r':
	case '{', '[':
		s.open(b)
	case '}', ']':
		s.close()
	case ':':
		s.wantKey = false
	case ',':
		s.nextMember()
	case '"':
		s.state, s.text = fieldString, s.text[:0]
	default:
		s.state, s.text = fieldScalar, append(s.text[:0], b)
	}
}

func (s *fieldScanner) open(b byte) {
	if len(s.stack) >= maxJSONDepth {
		s.broken = true
		return
	}
	// The document itself is on the path; below it, what the path's next part names.
	enters := len(s.stack) == 0 || (s.hit && s.onPath == len(s.stack))
	s.stack = append(s.stack, b)
	s.hit, s.wantKey = false, b == '{'
	if enters && s.onPath == len(s.stack)-1 && s.onPath < len(s.path) {
		s.onPath++
		s.index = append(s.index, 0)
		s.hit = b == '[' && s.elementHit()
	}
}

func (s *fieldScanner) close() {
	if len(s.stack) == 0 {
		return
	}
	s.stack = s.stack[:len(s.stack)-1]
	if s.onPath > len(s.stack) {
		s.onPath = len(s.stack)
		s.index = s.index[:s.onPath]
	}
	s.hit, s.wantKey = false, false
}

func (s *fieldScanner) nextMember() {
	s.hit = false
	n := len(s.stack)
	if n == 0 {
		return
	}
	if s.stack[n-1] == '{' {
		s.wantKey = true
		return
	}
	if s.onPath == n {
		s.index[n-1]++
		s.hit = s.elementHit()
	}
}

// elementHit reports whether the path's next part names the innermost array's current element.
func (s *fieldScanner) elementHit() bool {
	n := len(s.stack)
	return s.path[n-1] == strconv.Itoa(s.index[n-1])
}

func (s *fieldScanner) inString(b byte) {
	switch {
	case s.escape:
		s.escape = false
		s.keep(b)
	case b == '\\':
		s.escape = true
		s.keep(b) // a name with an escape in it is not the one that is looked for
	case b == '"':
		s.state = fieldBetween
		s.endString()
	default:
		s.keep(b)
	}
}

// matters reports whether the string that is being read is a name on the path. Of a value that is a string it is enough
// to know that it is one.
func (s *fieldScanner) matters() bool {
	return s.wantKey && s.onPath > 0 && s.onPath == len(s.stack)
}

// plainPrefix is the number of bytes that come before a quotation mark or backslash.
func plainPrefix(p []byte) int {
	for i, b := range p {
		if b == '"' || b == '\\' {
			return i
		}
	}
	return len(p)
}

// keep keeps a byte of a name or scalar, up to one more than could matter.
func (s *fieldScanner) keep(b byte) {
	most := maxNumberText
	if s.state == fieldString {
		if !s.matters() {
			return
		}
		most = len(s.path[s.onPath-1])
	}
	if len(s.text) <= most {
		s.text = append(s.text, b)
	}
}

func (s *fieldScanner) endString() {
	if s.wantKey {
		s.hit = s.matters() && string(s.text) == s.path[s.onPath-1]
		return
	}
	s.take(notNumber)
}

func (s *fieldScanner) endScalar() {
	s.state = fieldBetween
	switch {
	case !s.hit:
	case len(s.text) > maxNumberText:
		s.take(notNumber)
	default:
		s.take(string(s.text))
	}
}

// notNumber stands for a value that is no number, or a number of absurd length.
const notNumber = "not a number"

// take notes the value of the whole path. A null is as good as absent.
func (s *fieldScanner) take(value string) {
	if s.hit && s.onPath == len(s.stack) && s.onPath == len(s.path) && value != "null" {
		s.value, s.found = value, true
	}
	s.hit = false
}

func endsScalar(b byte) bool {
	switch b {
	case ',', '}', ']', ':', ' ', '\t', '\n', '\r', '{', '[', '"':
		return true
	}
	return false
}

// amount is the number that was found; not finite if what was found is no number.
func (s *fieldScanner) amount() (amount float64, found bool) {
	if !s.found {
		return 0, false
	}
	amount, err := strconv.ParseFloat(s.value, 64)
	if err != nil || strings.Trim(s.value, "0123456789+-.eE") != "" {
		return math.NaN(), true
	}
	return amount, true
}
