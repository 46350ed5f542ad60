package frame_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// said is what a frame says, as the specification's vectors have it.
type said struct {
	Type            string
	End, Error, Ack bool
	Stream          uint64

	Min, Max, Role  uint8 // HELLO
	Channel         uuid.UUID
	Token           string
	Version         uint8 // WELCOME
	Streams, Window uint32
	ID              uuid.UUID // OPEN
	Timeout         uint32
	Metadata        map[string]string
	Data            string // and HEAD and DATA
	Credit          uint32
	Code            uint16 // RESET and GOAWAY
	Reason          string
	Value           string // PING
}

type vector struct {
	name string
	b    []byte
	says said
}

type refusal struct {
	name, at, why string
	b             []byte
}

func TestVectors(t *testing.T) {
	seen := map[string]bool{}
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			seen[v.says.Type] = true
			got, at, err := read(v.b)
			if err != nil {
				t.Fatalf("the %s is refused: %v", at, err)
			}
			if !reflect.DeepEqual(got, v.says) {
				t.Errorf("it says\n%+v, want\n%+v", got, v.says)
			}
			b, err := encode(v.says)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b, v.b) {
				t.Errorf("encoded as\n%s, want\n%s", clip(b), clip(v.b))
			}
		})
	}
	for ft := frame.Hello; ft <= frame.GoAway; ft++ {
		if !seen[ft.String()] {
			t.Errorf("no vector of %v", ft)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, v := range refusals(t) {
		t.Run(v.name, func(t *testing.T) {
			says, at, err := read(v.b)
			if err == nil {
				t.Fatalf("accepted as %+v, though: %s", says, v.why)
			}
			if at != v.at {
				t.Errorf("the %s is refused (%v), want the %s: %s", at, err, v.at, v.why)
			}
			large := at == "header" && strings.Contains(v.why, "bytes of payload")
			if errors.Is(err, frame.ErrTooLarge) != large || errors.Is(err, frame.ErrInvalid) == large {
				t.Errorf("got %v, want it too large: %v", err, large)
			}
		})
	}
}

// A payload that ends early is refused, unless what is left says the same of a shorter text.
func TestTruncatedPayloads(t *testing.T) {
	for _, v := range vectors(t) {
		if len(v.b) > 1000 {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			payload := v.b[frame.HeaderSize:]
			for n := range payload {
				b := bytes.Clone(v.b[:frame.HeaderSize+n])
				binary.BigEndian.PutUint32(b, uint32(n))
				want := v.says
				text := map[string]*string{"OPEN": &want.Data, "HEAD": &want.Data, "DATA": &want.Data, "RESET": &want.Reason, "GOAWAY": &want.Reason}[want.Type]
				left := -1
				if text != nil {
					left = len(*text) - (len(payload) - n)
				}
				if left >= 0 {
					*text = (*text)[:left]
				}
				got, at, err := read(b)
				if left < 0 && (err == nil || at != "payload") {
					t.Fatalf("%d bytes of %d are accepted, or the %s is refused: %v", n, len(payload), at, err)
				}
				if left >= 0 && (err != nil || !reflect.DeepEqual(got, want)) {
					t.Fatalf("%d bytes of %d: got\n%+v, %v, want\n%+v", n, len(payload), got, err, want)
				}
			}
		})
	}
}

func TestCodes(t *testing.T) {
	known := map[int]bool{}
	for _, row := range table(t, "code", "name", "meaning", "in", "dispatched", "retryable") {
		n, err := strconv.Atoi(row[0])
		if err != nil || n < 1 || n > math.MaxUint16 || known[n] {
			t.Errorf("%q is no code, or comes twice", row[0])
			continue
		}
		known[n] = true
		c := frame.Code(n)
		if c.String() != row[1] {
			t.Errorf("code %d is %q, the table says %q", n, c, row[1])
		}
		if c.Dispatched() != yes(t, row[4]) || c.Retryable() != yes(t, row[5]) {
			t.Errorf("%v: dispatched %v, retryable %v, the table says %s, %s", c, c.Dispatched(), c.Retryable(), row[4], row[5])
		}
		if c.Dispatched() && c.Retryable() {
			t.Errorf("%v may do harm when it is retried", c)
		}
	}
	for n := range math.MaxUint16 + 1 {
		c := frame.Code(n)
		if known[n] {
			continue
		}
		if want := fmt.Sprintf("code %d", n); c.String() != want {
			t.Errorf("%v is not in the table", c)
		}
		if !c.Dispatched() || c.Retryable() {
			t.Errorf("%v: dispatched %v, retryable %v: an unknown code promises nothing", c, c.Dispatched(), c.Retryable())
		}
	}
}

// Each type with each set of flags, of a stream and of none.
func TestTypes(t *testing.T) {
	rules := typeRules(t)
	if len(rules) != int(frame.GoAway) {
		t.Errorf("the table has %d types, want %d", len(rules), frame.GoAway)
	}
	for n := range 256 {
		ft := frame.Type(n)
		rule, known := rules[ft]
		if want := fmt.Sprintf("type %d", n); !known && ft.String() != want {
			t.Errorf("%v is not in the table", ft)
		}
		if known && ft.String() != rule.name {
			t.Errorf("type %d is %v, the table says %s", n, ft, rule.name)
		}
		for flags := range 256 {
			for _, stream := range []uint64{0, 1, math.MaxUint64} {
				h := frame.Header{Type: ft, Flags: frame.Flags(flags), Stream: stream}
				got, err := frame.ParseHeader(h.Append(nil))
				if want := rules.allow(h.Append(nil)); (err == nil) != want {
					t.Errorf("%+v: %v, want it accepted: %v", h, err, want)
				}
				if err == nil && got != h {
					t.Errorf("got %+v, want %+v", got, h)
				}
			}
		}
	}
}

func TestHeaderLength(t *testing.T) {
	for length, want := range map[uint32]error{
		0: nil, 1: nil, frame.MaxPayload - 1: nil, frame.MaxPayload: nil,
		frame.MaxPayload + 1: frame.ErrTooLarge, 1 << 24: frame.ErrTooLarge, math.MaxUint32: frame.ErrTooLarge,
	} {
		h := frame.Header{Length: length, Type: frame.Data, Stream: 7}
		got, err := frame.ParseHeader(h.Append(nil))
		if !errors.Is(err, want) || err == nil && got != h {
			t.Errorf("%d bytes: got %+v, %v, want %v", length, got, err, want)
		}
	}
}

// What is written over a frame's header leaves its payload alone.
func TestHeaderInPlace(t *testing.T) {
	b := append(frame.Header{Length: 2, Type: frame.Data, Flags: frame.FlagEnd, Stream: 1}.Append(nil), "ab"...)
	frame.SetStream(b, 1<<63+5)
	want := frame.Header{Length: 2, Type: frame.Data, Flags: frame.FlagEnd, Stream: 1<<63 + 5}
	if h, err := frame.ParseHeader(b); err != nil || h != want || string(b[frame.HeaderSize:]) != "ab" {
		t.Errorf("SetStream: got %+v, %q, %v", h, b[frame.HeaderSize:], err)
	}
	want = frame.Header{Length: 1, Type: frame.Head, Stream: 9}
	want.Put(b)
	if h, err := frame.ParseHeader(b); err != nil || h != want || string(b[frame.HeaderSize:]) != "ab" {
		t.Errorf("Put: got %+v, %q, %v", h, b[frame.HeaderSize:], err)
	}
}

func TestLimits(t *testing.T) {
	want := map[string]int{
		"header of a frame": frame.HeaderSize, "payload of a frame": frame.MaxPayload, "credit at the start, and lowest window": frame.InitialWindow,
		"token": frame.MaxToken, "metadata, encoded": frame.MaxMetadata, "reason": frame.MaxReason, "payload of a PING": frame.PingSize,
	}
	got := map[string]int{}
	for _, row := range table(t, "what", "limit") {
		n, err := strconv.Atoi(strings.ReplaceAll(row[1], ",", ""))
		if err != nil {
			t.Error(err)
		}
		got[row[0]] = n
	}
	if !maps.Equal(got, want) {
		t.Errorf("the table says %v, want %v", got, want)
	}
}

func TestToken(t *testing.T) {
	for _, n := range []int{0, 1, frame.MaxToken - 1, frame.MaxToken, frame.MaxToken + 1, math.MaxUint16} {
		want := frame.HelloPayload{MinVersion: 1, MaxVersion: 1, Role: frame.Provider, Channel: uuid.New(), Token: strings.Repeat("\xff", n)}
		got, err := frame.ParseHello(want.Append(nil))
		if fits := n <= frame.MaxToken; (err == nil) != fits || fits && got != want {
			t.Errorf("a token of %d bytes: %v, of %d", n, err, len(got.Token))
		}
	}
}

func TestReason(t *testing.T) {
	for _, n := range []int{0, 1, frame.MaxReason - 1, frame.MaxReason, frame.MaxReason + 1, 100_000} {
		reason := strings.Repeat("r", n)
		want := reason[:min(n, frame.MaxReason)]
		if code, got, err := frame.ParseEnd(frame.AppendEnd(nil, frame.Busy, reason)); err != nil || code != frame.Busy || got != want {
			t.Errorf("a reason of %d bytes: got %v, %d bytes, %v", n, code, len(got), err)
		}
		code, got, err := frame.ParseEnd(append([]byte{0, byte(frame.Busy)}, reason...))
		if fits := n <= frame.MaxReason; (err == nil) != fits || fits && (code != frame.Busy || got != reason) {
			t.Errorf("a reason of %d bytes that was not cut: got %v, %d bytes, %v", n, code, len(got), err)
		}
	}
}

func TestMilliseconds(t *testing.T) {
	const ms = time.Millisecond
	for d, want := range map[time.Duration]uint32{
		math.MinInt64: 1, -time.Hour: 1, -ms: 1, -1: 1, 0: 1,
		1: 1, ms - 1: 1, ms: 1, ms + 1: 2, 2*ms - 1: 2, 2 * ms: 2, 1999*ms + 1: 2000, 30 * time.Second: 30_000,
		math.MaxUint32*ms - ms:     math.MaxUint32 - 1,
		math.MaxUint32*ms - ms + 1: math.MaxUint32,
		math.MaxUint32 * ms:        math.MaxUint32,
		math.MaxUint32*ms + 1:      math.MaxUint32,
		(1<<32 + 1) * ms:           math.MaxUint32, // not what is left of it in 32 bits
		math.MaxInt64 - ms:         math.MaxUint32,
	} {
		if got := frame.Milliseconds(d); got != want {
			t.Errorf("Milliseconds(%v) = %d, want %d", d, got, want)
		}
	}
}

func TestMetadata(t *testing.T) {
	long := strings.Repeat("x", frame.MaxMetadata-5)
	for name, test := range map[string]struct {
		m    map[string]string
		want string
	}{
		"nil":                {nil, ""},
		"empty":              {map[string]string{}, ""},
		"one":                {map[string]string{"k": "v"}, "\x00\x01k\x00\x01v"},
		"empty key":          {map[string]string{"": "v"}, "\x00\x00\x00\x01v"},
		"empty value":        {map[string]string{"k": ""}, "\x00\x01k\x00\x00"},
		"empty key, value":   {map[string]string{"": ""}, "\x00\x00\x00\x00"},
		"sorted":             {map[string]string{"b": "1", "": "2", "a": "3", "ab": "4"}, "\x00\x00\x00\x012" + "\x00\x01a\x00\x013" + "\x00\x02ab\x00\x014" + "\x00\x01b\x00\x011"},
		"sorted by its byte": {map[string]string{"é": "1", "z": "2", "\xff": "3"}, "\x00\x01z\x00\x012" + "\x00\x02é\x00\x011" + "\x00\x01\xff\x00\x013"},
		"not text":           {map[string]string{"\x00": "\xfe\x00"}, "\x00\x01\x00\x00\x02\xfe\x00"},
		"as large as it may": {map[string]string{"k": long}, "\x00\x01k\x1f\xfb" + long},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := frame.AppendMetadata([]byte("before"), test.m)
			if err != nil || string(b) != "before"+test.want {
				t.Fatalf("got %s, %v, want %s", clip(b), err, clip([]byte("before"+test.want)))
			}
			got, err := frame.ParseMetadata([]byte(test.want))
			if err != nil || !maps.Equal(got, test.m) {
				t.Errorf("read as %v, %v", got, err)
			}
			if len(test.m) == 0 && got != nil {
				t.Error("what is empty is read as a map")
			}
			open, err := frame.ParseOpen(frame.OpenPayload{Timeout: time.Second, Metadata: []byte(test.want)}.AppendPrefix(nil))
			if err != nil || string(open.Metadata) != test.want || len(open.Data) != 0 {
				t.Errorf("in an OPEN: %s, %d bytes of data, %v", clip(open.Metadata), len(open.Data), err)
			}
		})
	}
}

func TestMetadataTooLarge(t *testing.T) {
	for name, m := range map[string]map[string]string{
		"by a byte":      {"k": strings.Repeat("x", frame.MaxMetadata-4)},
		"by a key":       {strings.Repeat("k", frame.MaxMetadata+1): ""},
		"by a pair":      {"a": strings.Repeat("x", frame.MaxMetadata-5), "b": ""},
		"for its length": {"k": strings.Repeat("x", 1<<16)}, // which would be written as 0
		"for the key's":  {strings.Repeat("k", 1<<16): "v"},
	} {
		b, err := frame.AppendMetadata([]byte("before"), m)
		if !errors.Is(err, frame.ErrTooLarge) || string(b) != "before" {
			t.Errorf("%s: got %s, %v, want ErrTooLarge and what was there before", name, clip(b), err)
		}
	}
}

// What other clients may send: any order, and keys that come twice.
func TestMetadataOfOthers(t *testing.T) {
	for in, want := range map[string]map[string]string{
		"\x00\x01k\x00\x01a\x00\x01k\x00\x01b":                            {"k": "b"},
		"\x00\x00\x00\x01a\x00\x00\x00\x00":                               {"": ""},
		"\x00\x01b\x00\x012\x00\x01a\x00\x011":                            {"a": "1", "b": "2"},
		"\x00\x01k\x00\x01a\x00\x01j\x00\x01c\x00\x01k\x00\x02bb":         {"j": "c", "k": "bb"},
		"\x00\x01\x00\x00\x01\x00\x00\x02\x00\x00\x00\x02\x00\x00":        {"\x00": "\x00", "\x00\x00": "\x00\x00"},
		"\x00\x03\x00\x01k\x00\x03\x00\x01v\x00\x01k\x00\x03\x00\x00\x01": {"\x00\x01k": "\x00\x01v", "k": "\x00\x00\x01"},
	} {
		if got, err := frame.ParseMetadata([]byte(in)); err != nil || !maps.Equal(got, want) {
			t.Errorf("%q is read as %q, %v, want %q", in, got, err, want)
		}
	}
}

// Metadata that ends early is refused, unless it ends between two pairs.
func TestTruncatedMetadata(t *testing.T) {
	var b []byte
	ends := map[int]map[string]string{0: nil}
	m := map[string]string{}
	for _, pair := range [][2]string{{"", ""}, {"a", ""}, {"bb", "22"}, {"ccc", strings.Repeat("3", 300)}, {"d", "\x00\x00"}} {
		var err error
		if b, err = frame.AppendMetadata(b, map[string]string{pair[0]: pair[1]}); err != nil {
			t.Fatal(err)
		}
		m[pair[0]] = pair[1]
		ends[len(b)] = maps.Clone(m)
	}
	for n := range len(b) + 1 {
		want, whole := ends[n]
		got, err := frame.ParseMetadata(b[:n])
		if whole && (err != nil || !maps.Equal(got, want)) {
			t.Errorf("%d bytes: got %q, %v, want %q", n, got, err, want)
		}
		if !whole && (!errors.Is(err, frame.ErrInvalid) || got != nil) {
			t.Errorf("%d bytes: got %q, %v, want ErrInvalid", n, got, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.b[:frame.HeaderSize])
	}
	for _, v := range refusals(f) {
		f.Add(v.b[:frame.HeaderSize])
	}
	rules := typeRules(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < frame.HeaderSize {
			return // the caller's duty
		}
		b = b[:frame.HeaderSize]
		h, err := frame.ParseHeader(b)
		if want := rules.allow(b); (err == nil) != want {
			t.Fatalf("%x: %v, want it accepted: %v", b, err, want)
		}
		if err == nil && !bytes.Equal(h.Append(nil), b) {
			t.Fatalf("%x was encoded again as %x", b, h.Append(nil))
		}
	})
}

func FuzzPayloads(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.b[4], v.b[frame.HeaderSize:])
	}
	for _, v := range refusals(f) {
		f.Add(v.b[4], v.b[frame.HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, kind byte, payload []byte) {
		if len(payload) > frame.MaxPayload {
			return
		}
		h := frame.Header{Length: uint32(len(payload)), Type: frame.Type(kind), Stream: 1}
		if _, err := frame.ParseHeader(h.Append(nil)); err != nil {
			h.Stream = 0
		}
		b := append(h.Append(nil), payload...)
		says, _, err := read(b)
		if err != nil {
			return
		}
		again, err := encode(says)
		if err != nil {
			t.Fatalf("%x was read as %+v, which is refused: %v", b, says, err)
		}
		if bytes.Equal(again, b) {
			return
		}
		// Metadata alone has more than one form: encoded again it is in order, and no longer.
		if says.Type != "OPEN" || len(again) > len(b) {
			t.Fatalf("%x was encoded again as %x", b, again)
		}
		if twice, _, err := read(again); err != nil || !reflect.DeepEqual(twice, says) {
			t.Fatalf("%x was read as\n%+v, and encoded again as\n%+v, %v", b, says, twice, err)
		}
	})
}

// read reads a frame with this package's subject, and says at which part it was refused.
func read(b []byte) (s said, at string, err error) {
	h, err := frame.ParseHeader(b)
	if err != nil {
		return s, "header", err
	}
	s = said{
		Type: h.Type.String(), Stream: h.Stream,
		End: h.Flags&frame.FlagEnd != 0, Error: h.Flags&frame.FlagError != 0, Ack: h.Flags&frame.FlagAck != 0,
	}
	payload := b[frame.HeaderSize:]
	if int(h.Length) != len(payload) {
		return s, "length", fmt.Errorf("%d bytes of payload where %d are announced", len(payload), h.Length)
	}
	switch h.Type {
	case frame.Hello:
		var p frame.HelloPayload
		p, err = frame.ParseHello(payload)
		s.Min, s.Max, s.Role, s.Channel, s.Token = p.MinVersion, p.MaxVersion, uint8(p.Role), p.Channel, p.Token
	case frame.Welcome:
		var p frame.WelcomePayload
		p, err = frame.ParseWelcome(payload)
		s.Version, s.Streams, s.Window = p.Version, p.Streams, p.Window
	case frame.Open:
		var p frame.OpenPayload
		if p, err = frame.ParseOpen(payload); err == nil {
			s.Metadata, err = frame.ParseMetadata(p.Metadata)
		}
		s.ID, s.Timeout, s.Data = p.RequestID, uint32(p.Timeout/time.Millisecond), string(p.Data)
	case frame.Credit:
		s.Credit, err = frame.ParseCredit(payload)
	case frame.Reset, frame.GoAway:
		var code frame.Code
		code, s.Reason, err = frame.ParseEnd(payload)
		s.Code = uint16(code)
	case frame.Ping:
		if len(payload) != frame.PingSize {
			err = fmt.Errorf("%w: PING of %d bytes", frame.ErrInvalid, len(payload))
		}
		s.Value = hex.EncodeToString(payload)
	default:
		s.Data = string(payload)
	}
	return s, "payload", err
}

// encode is the reverse of read.
func encode(s said) ([]byte, error) {
	h := frame.Header{Stream: s.Stream}
	for h.Type = frame.Hello; h.Type.String() != s.Type; h.Type++ {
		if h.Type > frame.GoAway {
			return nil, fmt.Errorf("there is no type %q", s.Type)
		}
	}
	for flag, set := range map[frame.Flags]bool{frame.FlagEnd: s.End, frame.FlagError: s.Error, frame.FlagAck: s.Ack} {
		if set {
			h.Flags |= flag
		}
	}
	var p []byte
	var err error
	switch h.Type {
	case frame.Hello:
		p = frame.HelloPayload{MinVersion: s.Min, MaxVersion: s.Max, Role: frame.Role(s.Role), Channel: s.Channel, Token: s.Token}.Append(nil)
	case frame.Welcome:
		p = frame.WelcomePayload{Version: s.Version, Streams: s.Streams, Window: s.Window}.Append(nil)
	case frame.Open:
		open := frame.OpenPayload{RequestID: s.ID, Timeout: time.Duration(s.Timeout) * time.Millisecond}
		open.Metadata, err = frame.AppendMetadata(nil, s.Metadata)
		p = open.AppendPrefix(nil)
		if len(p) != open.PrefixSize() {
			err = errors.Join(err, fmt.Errorf("a prefix of %d bytes where %d are announced", len(p), open.PrefixSize()))
		}
		p = append(p, s.Data...)
	case frame.Credit:
		p = frame.AppendCredit(nil, s.Credit)
	case frame.Reset, frame.GoAway:
		p = frame.AppendEnd(nil, frame.Code(s.Code), s.Reason)
	case frame.Ping:
		p, err = hex.DecodeString(s.Value)
	default:
		p = []byte(s.Data)
	}
	h.Length = uint32(len(p))
	return append(h.Append(nil), p...), err
}

// rules are the specification's table of types.
type rules map[frame.Type]rule

type rule struct {
	name   string
	flags  byte
	stream bool
}

// allow says whether a header is allowed, bit for bit.
func (r rules) allow(b []byte) bool {
	rule, known := r[frame.Type(b[4])]
	length, reserved, stream := binary.BigEndian.Uint32(b), binary.BigEndian.Uint16(b[6:]), binary.BigEndian.Uint64(b[8:])
	return known && length <= frame.MaxPayload && b[5]&^rule.flags == 0 && reserved == 0 && rule.stream == (stream != 0)
}

func typeRules(t testing.TB) rules {
	t.Helper()
	flags := map[string]byte{"-": 0}
	for _, row := range table(t, "flag", "name", "") {
		flags[row[1]] = number(t, row[0])
	}
	all := rules{}
	for _, row := range table(t, "type", "name", "flags allowed", "stream", "sent by", "says") {
		r := rule{name: row[1], stream: yes(t, row[3])}
		for name := range strings.SplitSeq(row[2], ", ") {
			flag, known := flags[name]
			if !known {
				t.Fatalf("%s: there is no flag %q", r.name, name)
			}
			r.flags |= flag
		}
		all[frame.Type(number(t, row[0]))] = r
	}
	return all
}

func number(t testing.TB, s string) byte {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		t.Fatal(err)
	}
	return byte(n)
}

func yes(t testing.TB, s string) bool {
	t.Helper()
	if s != "yes" && s != "no" {
		t.Fatalf("%q is neither yes nor no", s)
	}
	return s == "yes"
}

// specification returns the lines of docs/protocol.md.
func specification(t testing.TB) []string {
	t.Helper()
	b, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// table returns the rows of the table with that head.
func table(t testing.TB, head ...string) (rows [][]string) {
	t.Helper()
	lines := specification(t)
	for i, line := range lines {
		if !slices.Equal(cells(line), head) {
			continue
		}
		for _, line := range lines[i+2:] {
			row := cells(line)
			if row == nil {
				break
			}
			if len(row) != len(head) {
				t.Fatalf("%q has %d cells, want %d", line, len(row), len(head))
			}
			rows = append(rows, row)
		}
		return rows
	}
	t.Fatalf("the specification has no table %q", head)
	return nil
}

func cells(line string) []string {
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") {
		return nil
	}
	row := strings.Split(line[1:len(line)-1], "|")
	for i := range row {
		row[i] = strings.TrimSpace(row[i])
	}
	return row
}

// fence returns the lines of the fenced block of that kind.
func fence(t testing.TB, kind string) []string {
	t.Helper()
	lines := specification(t)
	first := slices.Index(lines, "```"+kind) + 1
	last := slices.Index(lines[first:], "```")
	if first == 0 || last <= 0 {
		t.Fatalf("the specification has no block %q", kind)
	}
	return lines[first : first+last]
}

func vectors(t testing.TB) (list []vector) {
	t.Helper()
	names := map[string]bool{}
	for entry := range strings.SplitSeq(strings.Join(fence(t, "vectors"), "\n"), "\n\n") {
		lines := strings.Split(entry, "\n")
		last := len(lines) - 1
		if last < 2 || names[lines[0]] {
			t.Fatalf("no vector, or a name that comes twice: %q", entry)
		}
		names[lines[0]] = true
		v := vector{name: lines[0], b: unhex(t, lines[1:last])}
		d := json.NewDecoder(strings.NewReader(lines[last]))
		d.DisallowUnknownFields()
		if err := d.Decode(&v.says); err != nil || d.More() {
			t.Fatalf("%s: %v", v.name, err)
		}
		for _, s := range []*string{&v.says.Token, &v.says.Data, &v.says.Reason} {
			*s = repeated(t, *s)
		}
		for key, value := range v.says.Metadata {
			v.says.Metadata[key] = repeated(t, value)
		}
		list = append(list, v)
	}
	return list
}

func refusals(t testing.TB) (list []refusal) {
	t.Helper()
	names := map[string]bool{}
	for _, line := range fence(t, "refused") {
		name, rest, ok1 := strings.Cut(line, ": ")
		digits, rest, ok2 := strings.Cut(rest, " ! ")
		at, why, ok3 := strings.Cut(rest, ": ")
		if !ok1 || !ok2 || !ok3 || names[name] || at != "header" && at != "payload" {
			t.Fatalf("no refusal, or a name that comes twice: %q", line)
		}
		names[name] = true
		list = append(list, refusal{name: name, at: at, why: why, b: unhex(t, []string{digits})})
	}
	return list
}

// unhex reads hex with blanks, in which 61*3 is 61 three times.
func unhex(t testing.TB, lines []string) (b []byte) {
	t.Helper()
	for _, word := range strings.Fields(strings.Join(lines, " ")) {
		digits, times, _ := strings.Cut(word, "*")
		part, err := hex.DecodeString(digits)
		if err != nil {
			t.Fatalf("%q: %v", word, err)
		}
		b = append(b, bytes.Repeat(part, count(t, times))...)
	}
	if len(b) < frame.HeaderSize {
		t.Fatalf("%q is no frame", lines)
	}
	return b
}

// repeated returns aaa for a*3.
func repeated(t testing.TB, s string) string {
	t.Helper()
	text, times, _ := strings.Cut(s, "*")
	return strings.Repeat(text, count(t, times))
}

func count(t testing.TB, times string) int {
	t.Helper()
	if times == "" {
		return 1
	}
	n, err := strconv.Atoi(times)
	if err != nil || n < 0 || n > frame.MaxPayload+1 {
		t.Fatalf("%q is no count", times)
	}
	return n
}

// clip is b in hex, not too long to be printed.
func clip(b []byte) string {
	if len(b) > 200 {
		return fmt.Sprintf("%x... (%d bytes)", b[:200], len(b))
	}
	return fmt.Sprintf("%x", b)
}
