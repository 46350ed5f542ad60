package core

import (
	"bytes"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

const (
	maxJSONDepth  = 256
	maxNumberText = 64
	maxPaths      = 64 // the bits of a pathSet; a route's policies seldom track two fields
)

// fieldScanner finds the numbers at given paths of a JSON document that comes in pieces, without keeping the
// document. A path's parts name object members; a number names an array's element. The last value found at a path counts.
type fieldScanner struct {
	paths  [][]string
	values []fieldValue // at each path
	finds  int          // values found so far

	state   fieldState
	stack   []container // the open ones, from the outermost on
	wantKey bool        // in an object, a member's name is due
	hits    pathSet     // the paths of which the value that comes next is the next part
	text    []byte      // of the key or scalar that is being read, as far as it matters
	longest int         // bytes of a key that matter: one more than those of the longest part that it could be
	escape  bool        // the last byte in a string was a backslash
	deeper  int         // containers that are open beyond those of the stack, where no path leads
	opened  bool        // there was an object or array
}

// fieldValue is what was found last at a path.
type fieldValue struct {
	text  string // notNumber if it was none
	order int    // of all finds; 0: there was none
}

// container is an object or array that is open.
type container struct {
	kind  byte    // '{' or '['
	on    pathSet // the paths that lead into it
	index int     // of the current element
}

// pathSet is a set of paths, by their index.
type pathSet uint64

type fieldState uint8

const (
	fieldBetween fieldState = iota // outside of strings and scalars
	fieldString                    // in a string
	fieldScalar                    // in a number, true, false or null
)

// newFieldScanner makes a scanner for up to maxPaths paths; further ones are never found.
func newFieldScanner(paths ...[]string) *fieldScanner {
	paths = paths[:min(len(paths), maxPaths)]
	return &fieldScanner{paths: paths, values: make([]fieldValue, len(paths))}
}

// reset makes the scanner ready for another document. What was found stays.
func (s *fieldScanner) reset() {
	s.state, s.stack = fieldBetween, s.stack[:0]
	s.wantKey, s.hits, s.escape, s.deeper = false, 0, false, 0
	s.text = s.text[:0]
}

func (s *fieldScanner) write(p []byte) {
	for i := 0; i < len(p); i++ {
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

// writeSeparated writes documents that a byte separates: one that is broken does not spoil the next.
func (s *fieldScanner) writeSeparated(p []byte, separator byte) {
	for len(p) > 0 {
		end := bytes.IndexByte(p, separator)
		if end < 0 {
			s.write(p)
			return
		}
		s.write(p[:end])
		s.write([]byte{'\n'}) // ends a number
		s.reset()
		p = p[end+1:]
	}
}

// whole reports whether what was written is a document, or several, and none is open.
func (s *fieldScanner) whole() bool {
	return s.opened && len(s.stack) == 0 && s.state == fieldBetween
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
		if s.matters() {
			s.longest = s.longestPart()
		}
	default:
		s.state, s.text = fieldScalar, append(s.text[:0], b)
	}
}

func (s *fieldScanner) open(b byte) {
	if len(s.stack) >= maxJSONDepth {
		s.deeper++
		s.hits, s.wantKey = 0, false
		return
	}
	// The document itself is on every path; below it, what the paths' next parts name.
	on := s.hits
	if len(s.stack) == 0 {
		on = 1<<len(s.paths) - 1
	}
	for rest := on; rest != 0; rest &= rest - 1 {
		if i := bits.TrailingZeros64(uint64(rest)); len(s.paths[i]) <= len(s.stack) {
			on &^= 1 << i // it ends here, and what is here is no number
		}
	}
	s.stack, s.opened = append(s.stack, container{kind: b, on: on}), true
	s.hits, s.wantKey = 0, b == '{'
	if b == '[' {
		s.elementHits()
	}
}

func (s *fieldScanner) close() {
	s.hits, s.wantKey = 0, false
	switch {
	case s.deeper > 0:
		s.deeper--
	case len(s.stack) > 0:
		s.stack = s.stack[:len(s.stack)-1]
	}
}

func (s *fieldScanner) nextMember() {
	s.hits = 0
	c := s.top()
	if c == nil || s.deeper > 0 {
		return
	}
	if c.kind == '{' {
		s.wantKey = true
		return
	}
	c.index++
	s.elementHits()
}

func (s *fieldScanner) top() *container {
	if len(s.stack) == 0 {
		return nil
	}
	return &s.stack[len(s.stack)-1]
}

// elementHits looks which paths name the innermost array's current element.
func (s *fieldScanner) elementHits() {
	if c := s.top(); c.on != 0 {
		s.hitsOf(strconv.AppendInt(s.text[:0], int64(c.index), 10))
	}
}

// hitsOf looks which paths have the name as their next part.
func (s *fieldScanner) hitsOf(name []byte) {
	s.hits = 0
	for rest := s.top().on; rest != 0; rest &= rest - 1 {
		i := bits.TrailingZeros64(uint64(rest))
		if s.paths[i][len(s.stack)-1] == string(name) {
			s.hits |= 1 << i
		}
	}
}

// longestPart is the length of the longest name that is looked for in the innermost container.
func (s *fieldScanner) longestPart() int {
	longest := 0
	for rest := s.top().on; rest != 0; rest &= rest - 1 {
		longest = max(longest, len(s.paths[bits.TrailingZeros64(uint64(rest))][len(s.stack)-1]))
	}
	return longest
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

// matters reports whether the string that is being read is a name that may be on a path. Of a value that is a string
// it is enough to know that it is one.
func (s *fieldScanner) matters() bool {
	return s.wantKey && len(s.stack) > 0 && s.stack[len(s.stack)-1].on != 0
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
		most = s.longest
	}
	if len(s.text) <= most {
		s.text = append(s.text, b)
	}
}

func (s *fieldScanner) endString() {
	if !s.wantKey {
		s.take(notNumber)
		return
	}
	s.hits = 0
	if s.matters() {
		s.hitsOf(s.text)
	}
}

func (s *fieldScanner) endScalar() {
	s.state = fieldBetween
	switch {
	case s.hits == 0:
	case len(s.text) > maxNumberText:
		s.take(notNumber)
	default:
		s.take(string(s.text))
	}
}

// notNumber stands for a value that is no number, or a number of absurd length.
const notNumber = "not a number"

// take notes the value of the whole paths among the hits. A null is as good as absent.
func (s *fieldScanner) take(text string) {
	for rest := s.hits; rest != 0 && text != "null"; rest &= rest - 1 {
		if i := bits.TrailingZeros64(uint64(rest)); len(s.paths[i]) == len(s.stack) {
			s.finds++
			s.values[i] = fieldValue{text, s.finds}
		}
	}
	s.hits = 0
}

func endsScalar(b byte) bool {
	switch b {
	case ',', '}', ']', ':', ' ', '\t', '\n', '\r', '{', '[', '"':
		return true
	}
	return false
}

// latest is what was found last at any of the paths, which are given by their index. It is not finite if that is no number.
func (s *fieldScanner) latest(paths ...int) (amount float64, found bool) {
	var last fieldValue
	for _, i := range paths {
		if i < len(s.values) && s.values[i].order > last.order {
			last = s.values[i]
		}
	}
	if last.order == 0 {
		return 0, false
	}
	amount, err := strconv.ParseFloat(last.text, 64)
	if err != nil || strings.Trim(last.text, "0123456789+-.eE") != "" {
		return math.NaN(), true
	}
	return amount, true
}

// splitPath splits usage.total_tokens into its parts.
func splitPath(path string) []string { return slices.Clip(strings.Split(path, ".")) }
