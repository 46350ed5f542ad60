package core

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// found is what a scanner finds in a document that comes in pieces cut at the given places. It looks for other paths too.
func found(path, document string, cuts ...int) (amount float64, ok bool) {
	s := newFieldScanner(splitPath("a"), splitPath(path), splitPath("a.b"), splitPath("usage.total_tokens.x"))
	from := 0
	for _, cut := range append(cuts, len(document)) {
		s.write([]byte(document[from:cut]))
		from = cut
	}
	return s.latest(1)
}

func same(a, b float64) bool { return a == b || (math.IsNaN(a) && math.IsNaN(b)) }

// Wherever a document is cut, the same amount is found.
func TestFieldAtEverySplit(t *testing.T) {
	for _, tc := range []struct {
		path, document string
		want           float64
	}{
		{"usage.total_tokens", `{"id":"x\"{","choices":[{"usage":{"total_tokens":1}}],"usage":{"a":[1,2,{"total_tokens":3}],"total_tokens":42 }}`, 42},
		{"a.1.b", `{"a":[{"b":1},{"b":2.5e1},{"b":3}]}`, 25},
		{"a", ` [ ] {"b":{"a":1},"a" : -7 }`, -7},
		{"a", `{"a":"text \\\" end"}`, math.NaN()},
		{"0.0", `[[1,2],[3]]`, 1},
		{"ключ", `{"ключ":9}`, 9},
	} {
		for i := range len(tc.document) + 1 {
			for _, cuts := range [][]int{{i}, {i, min(i+1, len(tc.document))}, {0, i, i}} {
				if got, ok := found(tc.path, tc.document, cuts...); !ok || !same(got, tc.want) {
					t.Fatalf("%s in %s cut at %v: got %v, %v, want %v", tc.path, tc.document, cuts, got, ok, tc.want)
				}
			}
		}
	}
}

func TestFieldInDeepDocuments(t *testing.T) {
	deep := strings.Repeat(`{"a":`, maxJSONDepth) + "1" + strings.Repeat("}", maxJSONDepth)
	if got, ok := found(strings.TrimSuffix(strings.Repeat("a.", maxJSONDepth), "."), deep); !ok || got != 1 {
		t.Errorf("got %v, %v", got, ok)
	}
	s := newFieldScanner(splitPath("b"))
	for range 1000 {
		s.write([]byte(strings.Repeat("[", 1000)))
	}
	if len(s.stack) > maxJSONDepth || cap(s.text) > 1<<10 {
		t.Errorf("the scanner keeps %d and %d bytes", len(s.stack), cap(s.text))
	}
	long := newFieldScanner(splitPath("b"))
	for range 1000 {
		long.write([]byte(`{"` + strings.Repeat("k", 1000)))
	}
	if cap(long.text) > 1<<10 {
		t.Errorf("the scanner keeps %d bytes of a name", cap(long.text))
	}
}

// lookUp is what encoding/json finds at a path: the number, or NaN for what is no number.
func lookUp(path, document string) (amount float64, ok bool) {
	dec := json.NewDecoder(strings.NewReader(document))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return 0, false
	}
	for part := range strings.SplitSeq(path, ".") {
		switch container := v.(type) {
		case map[string]any:
			if v, ok = container[part]; !ok {
				return 0, false
			}
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(container) || strconv.Itoa(i) != part {
				return 0, false
			}
			v = container[i]
		default:
			return 0, false
		}
	}
	switch v := v.(type) {
	case json.Number:
		if len(v) > maxNumberText {
			return math.NaN(), true
		}
		if f, err := strconv.ParseFloat(string(v), 64); err == nil {
			return f, true
		}
		return math.NaN(), true
	case string, bool:
		return math.NaN(), true
	}
	return 0, false
}

// simple reports whether both agree on what a document means: one value, no name twice in an object, no escape in a name.
func simple(document string) bool {
	if !json.Valid([]byte(document)) || strings.Contains(document, `\`) || strings.ToValidUTF8(document, "") != document {
		return false
	}
	type level struct {
		names map[string]bool
		key   bool
	}
	dec := json.NewDecoder(strings.NewReader(document))
	var stack []level
	for {
		tok, err := dec.Token()
		if err != nil {
			return true
		}
		top := len(stack) - 1
		if d, ok := tok.(json.Delim); ok {
			switch d {
			case '{', '[':
				if top >= 0 && stack[top].names != nil {
					stack[top].key = true
				}
				l := level{}
				if d == '{' {
					l = level{make(map[string]bool), true}
				}
				if stack = append(stack, l); len(stack) > maxJSONDepth {
					return false
				}
			default:
				stack = stack[:top]
			}
			continue
		}
		if top < 0 || stack[top].names == nil {
			continue
		}
		if !stack[top].key {
			stack[top].key = true
			continue
		}
		name, _ := tok.(string)
		if stack[top].names[name] {
			return false
		}
		stack[top].names[name], stack[top].key = true, false
	}
}

// Of what encoding/json can read, the scanner finds the same, wherever it is cut; of the rest, it does not panic.
func FuzzFieldScanner(f *testing.F) {
	for _, document := range []string{
		`{"a":{"b":1}}`, `{"a":[1,{"b":2}]}`, `[{"a":1}]`, `{"a":"x","b":{"a":{"b":3}}}`, `{"a":{"b":{}}}`, `{"a":{"b":[]}}`,
		`{"a":1e5}`, `{"a.b":1}`, `{"":{"":1}}`, `{"a":tru`, `}{`, `[[[`, `{"a":1}{"a":2}`, `"a"`, `{"a":{"b":"c"},"a":{"b":null}}`, "{\"a\"\n:\t{\"b\" : 12 } }",
	} {
		for _, path := range []string{"a", "a.b", "a.1.b", "0.a", "", "."} {
			f.Add(path, document, uint16(3))
		}
	}
	f.Fuzz(func(t *testing.T, path, document string, seed uint16) {
		got, ok := found(path, document)
		if len(document) > 0 {
			r := rand.New(rand.NewPCG(uint64(seed), 0))
			a, b := r.IntN(len(document)), r.IntN(len(document))
			if cut, okCut := found(path, document, min(a, b), max(a, b)); ok != okCut || !same(got, cut) {
				t.Fatalf("whole: %v, %v; cut at %d and %d: %v, %v", got, ok, a, b, cut, okCut)
			}
		}
		if !simple(document) {
			return
		}
		if want, okWant := lookUp(path, document); ok != okWant || (ok && !same(got, want)) {
			t.Fatalf("%q in %q: got %v, %v, want %v, %v", path, document, got, ok, want, okWant)
		}
	})
}

// However a stream of events is cut, and whatever ends its lines, the same is found.
func TestEventsAtEverySplit(t *testing.T) {
	for _, end := range []string{"\n", "\r\n", "\r"} {
		stream := strings.ReplaceAll("event: a\ndata: {\"u\":{\"n\":1}}\n\n: comment\n\nid: 7\ndata:{\"u\":\ndata:  {\"n\":23}}\n\ndata: [DONE]\n\n", "\n", end)
		for i := range len(stream) + 1 {
			for j := i; j <= len(stream); j += 7 {
				s := newResponseScanner(newTracked([]string{"u.n"}))
				header := http.Header{"Content-Type": {"text/event-stream"}}
				for _, piece := range []string{stream[:i], stream[i:j], stream[j:]} {
					s.write(header, []byte(piece))
				}
				if got, ok := s.amount(); !ok || got != 23 {
					t.Fatalf("end %q, cut at %d and %d: got %v, %v", end, i, j, got, ok)
				}
			}
		}
	}
}

// FuzzEventScanner checks that each event's JSON is read as if it stood alone: the last one that holds a number counts.
func FuzzEventScanner(f *testing.F) {
	f.Add("data: {\"n\":1}\n\n", uint16(1))
	f.Add("data: {\"n\":1}\r\ndata: x\r\n\r\ndata:{\"n\":2}", uint16(5))
	f.Add("data\ndata:\n:\n\ndata: {\ndata: \"n\":3}\n\n", uint16(5))
	f.Fuzz(func(t *testing.T, stream string, seed uint16) {
		scan := func(pieces ...string) (float64, bool) {
			s := newResponseScanner(newTracked([]string{"n"}))
			for _, p := range pieces {
				s.write(http.Header{"Content-Type": {"text/event-stream"}}, []byte(p))
			}
			return s.amount()
		}
		got, ok := scan(stream)
		if len(stream) > 0 {
			at := int(seed) % len(stream)
			if cut, okCut := scan(stream[:at], stream[at:]); ok != okCut || !same(got, cut) {
				t.Fatalf("whole: %v, %v; cut at %d: %v, %v", got, ok, at, cut, okCut)
			}
		}
		want, okWant := 0.0, false
		var data []string
		flush := func() {
			if n, found := found("n", strings.Join(data, "\n")+"\n"); found {
				want, okWant = n, true
			}
			data = nil
		}
		for line := range strings.SplitSeq(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(stream), "\n") {
			if line == "" {
				flush()
			} else if text, isData := strings.CutPrefix(line, "data:"); isData {
				data = append(data, strings.TrimPrefix(text, " "))
			}
		}
		flush()
		if strings.HasSuffix(stream, "\n") || strings.HasSuffix(stream, "\r") { // else a figure at the end is open
			if ok != okWant || (ok && !same(got, want)) {
				t.Fatalf("%q: got %v, %v, want %v, %v", stream, got, ok, want, okWant)
			}
		}
	})
}

// FuzzEncodedResponse checks that a body of any encoding, cut anywhere, tells what it tells in one piece, and harms nothing.
func FuzzEncodedResponse(f *testing.F) {
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	_, _ = zw.Write([]byte(`{"n":5}`))
	_ = zw.Close()
	for _, encoding := range []string{"gzip", "deflate", "br", "gzip, deflate", ""} {
		f.Add(encoding, "application/json", zipped.Bytes(), uint16(3))
		f.Add(encoding, "text/event-stream", []byte("data: {\"n\":5}\n\n"), uint16(9))
		f.Add(encoding, "application/x-ndjson", []byte("{\"n\":5}\n{\"n\""), uint16(1))
		f.Add(encoding, "application/json-seq", []byte("x\x9c\x00\x01"), uint16(1))
	}
	f.Fuzz(func(t *testing.T, encoding, contentType string, body []byte, seed uint16) {
		header := http.Header{"Content-Encoding": {encoding}, "Content-Type": {contentType}}
		scan := func(pieces ...[]byte) (float64, bool, bool) {
			s := newResponseScanner(newTracked([]string{"n", "usage.total_tokens"}))
			for _, p := range pieces {
				if len(p) > 0 {
					s.write(header, p)
				}
			}
			problem := s.close()
			amount, found := s.amount()
			return amount, found, problem != ""
		}
		amount, found, problem := scan(body)
		if len(body) == 0 {
			return
		}
		at := int(seed) % len(body)
		if cutAmount, cutFound, cutProblem := scan(body[:at], body[at:]); found != cutFound || problem != cutProblem || (found && !same(amount, cutAmount)) {
			t.Fatalf("whole: %v, %v, %v; cut at %d: %v, %v, %v", amount, found, problem, at, cutAmount, cutFound, cutProblem)
		}
	})
}

// A few bytes that stand for very many are not decoded for ever.
func TestDecodingIsBounded(t *testing.T) {
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	for range 64 {
		_, _ = zw.Write(bytes.Repeat([]byte{' '}, 1<<16))
	}
	_ = zw.Close()
	for most, want := range map[int64]string{1 << 20: "too long to be decoded", 4 << 20: ""} {
		n := int64(0)
		d := newDecoder([]string{"gzip"}, func(p []byte) { n += int64(len(p)) })
		d.most = most
		for _, b := range bomb.Bytes() {
			d.write([]byte{b})
		}
		if problem := d.close(); n > most+1 || (want == "") != (problem == "") || !strings.Contains(problem, want) {
			t.Errorf("%d bytes of at most %d, %q", n, most, problem)
		}
	}
}

// The scanner keeps nothing of what it reads, and does not slow down in it.
func BenchmarkFieldScanner(b *testing.B) {
	text := []byte(`{"choices":[{"text":"` + strings.Repeat(`lorem ipsum \n `, 5_000) + `"}],` + `"usage":{"total_tokens":7}}`)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		s := newFieldScanner(splitPath("usage.total_tokens"))
		s.write(text)
		if n, _ := s.latest(0); n != 7 {
			b.Fatal(n)
		}
	}
}

func ExampleStats() {
	s := Stats{Admitted: 7, Settled: 3, Voided: 1, Pending: 2, Dropped: 1}
	fmt.Println(s.Admitted == s.Settled+s.Voided+s.Pending+s.Spooled+s.Dropped)
	// Output: true
}
