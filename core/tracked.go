package core

import (
	"slices"
	"strings"
)

// tracked is what the policies of a route look for in its responses: one or more fields, of which the first that is found
// counts. It does not change.
type tracked struct {
	fields   []string // as the policies have them
	document amounts  // in a body that is one document
	stream   amounts  // in one that is many: events, or lines
}

// amounts says where numbers stand, and which of them make an amount.
type amounts struct {
	paths [][]string
	list  []sum // the first of which a number is found counts
}

// sum is an amount that is the sum of numbers, as far as they are found. Of a number's places, given by their index in
// paths, the one that was written last counts.
type sum [][]int

// newTracked reads the policies' fields; nil if there are none.
func newTracked(fields []string) *tracked {
	if len(fields) == 0 {
		return nil
	}
	t := &tracked{fields: fields}
	for _, field := range fields {
		var terms [][]string
		for term := range strings.SplitSeq(field, "+") {
			terms = append(terms, splitPath(strings.TrimSpace(term)))
		}
		t.add(terms...)
		// Where no total is told, its parts may be: Anthropic's API has these names. What its cache saved is in other fields.
		if last := len(terms[0]) - 1; len(terms) == 1 && terms[0][last] == "total_tokens" {
			t.add(append(terms[0][:last:last], "input_tokens"), append(terms[0][:last:last], "output_tokens"))
		}
	}
	return t
}

func (t *tracked) add(terms ...[]string) {
	var document, stream sum
	for _, term := range terms {
		document = append(document, []int{t.document.place(term)})
		places := []int{t.stream.place(term)}
		// Some events hold the object with the usage: Anthropic's message_start, OpenAI's response.completed.
		if term[0] == "usage" {
			places = append(places, t.stream.place(append([]string{"message"}, term...)), t.stream.place(append([]string{"response"}, term...)))
		}
		stream = append(stream, places)
	}
	t.document.list = append(t.document.list, document)
	t.stream.list = append(t.stream.list, stream)
}

// place is the index of a path, which is added if it is new.
func (a *amounts) place(path []string) int {
	i := slices.IndexFunc(a.paths, func(p []string) bool { return slices.Equal(p, path) })
	if i < 0 {
		i = len(a.paths)
		a.paths = append(a.paths, path)
	}
	return i
}

// in is the amount in what a scanner has found; not valid if what counts is no number.
func (a *amounts) in(s *fieldScanner) (amount float64, found bool) {
	for _, sum := range a.list {
		for _, places := range sum {
			number, ok := s.latest(places...)
			if ok && number < 0 {
				return number, true // it must not hide in a sum
			}
			amount += number
			found = found || ok
		}
		if found {
			return amount, true
		}
	}
	return 0, false
}
