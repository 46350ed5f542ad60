package frame

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

const (
	// magic begins a HELLO, so that a client of another protocol is told apart at once.
	magic = "UFBP"
	// MaxToken is the size of the longest token in bytes.
	MaxToken = 4 << 10
	// MaxMetadata is the size of the largest encoded metadata in bytes.
	MaxMetadata = 8 << 10
	// MaxReason is the size of the longest reason of a RESET or GOAWAY in bytes.
	MaxReason = 256
	// helloSize and openSize are the sizes of the fixed parts.
	helloSize   = 4 + 4 + 16 + 2
	welcomeSize = 4 + 4 + 4
	openSize    = 16 + 4 + 2
)

// Role says what a client is.
type Role uint8

// The roles of clients.
const (
	Consumer Role = 1 + iota // opens requests
	Provider                 // answers them
)

// HelloPayload is what a client says of itself.
type HelloPayload struct {
	MinVersion, MaxVersion uint8
	Role                   Role
	Channel                uuid.UUID
	Token                  string
}

// Append appends the payload: magic, lowest and highest version, role, 0, channel, length of the token, token.
func (p HelloPayload) Append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, p.MinVersion, p.MaxVersion, byte(p.Role), 0)
	b = append(b, p.Channel[:]...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Token)))
	return append(b, p.Token...)
}

// ParseHello reads the payload of a HELLO.
func ParseHello(b []byte) (p HelloPayload, err error) {
	if len(b) < helloSize || string(b[:4]) != magic {
		return p, fmt.Errorf("%w: HELLO", ErrInvalid)
	}
	p = HelloPayload{MinVersion: b[4], MaxVersion: b[5], Role: Role(b[6])}
	copy(p.Channel[:], b[8:])
	n := int(binary.BigEndian.Uint16(b[24:]))
	if p.MinVersion > p.MaxVersion || p.Role != Consumer && p.Role != Provider || b[7] != 0 || n > MaxToken || len(b) != helloSize+n {
		return p, fmt.Errorf("%w: HELLO", ErrInvalid)
	}
	p.Token = string(b[helloSize:])
	return p, nil
}

// WelcomePayload is what a client is told when it is let in.
type WelcomePayload struct {
	Version uint8
	// Streams is how many may be open at once on this connection.
	Streams uint32
	// Window is the most bytes that may be on their way in one direction of a stream.
	Window uint32
}

// Append appends the payload: version, three bytes of 0, streams, window.
func (p WelcomePayload) Append(b []byte) []byte {
	b = append(b, p.Version, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, p.Streams)
	return binary.BigEndian.AppendUint32(b, p.Window)
}

// ParseWelcome reads the payload of a WELCOME.
func ParseWelcome(b []byte) (p WelcomePayload, err error) {
	if len(b) != welcomeSize || b[1] != 0 || b[2] != 0 || b[3] != 0 {
		return p, fmt.Errorf("%w: WELCOME", ErrInvalid)
	}
	p = WelcomePayload{Version: b[0], Streams: binary.BigEndian.Uint32(b[4:]), Window: binary.BigEndian.Uint32(b[8:])}
	if p.Streams == 0 || p.Window < InitialWindow {
		return p, fmt.Errorf("%w: WELCOME", ErrInvalid)
	}
	return p, nil
}

// OpenPayload begins a request. Data is the first of its body, and counts against the credit.
type OpenPayload struct {
	RequestID uuid.UUID
	// Timeout is what is left of the request's time, in whole milliseconds, 1 or more.
	Timeout time.Duration
	// Metadata is encoded: see AppendMetadata.
	Metadata []byte
	Data     []byte
}

// AppendPrefix appends what stands before the data: request id, milliseconds, length of the metadata, metadata.
func (p OpenPayload) AppendPrefix(b []byte) []byte {
	b = append(b, p.RequestID[:]...)
	b = binary.BigEndian.AppendUint32(b, Milliseconds(p.Timeout))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.Metadata)))
	return append(b, p.Metadata...)
}

// PrefixSize is the size of what AppendPrefix appends.
func (p OpenPayload) PrefixSize() int { return openSize + len(p.Metadata) }

// ParseOpen reads the payload of an OPEN. Metadata and Data are parts of b.
func ParseOpen(b []byte) (p OpenPayload, err error) {
	if len(b) < openSize {
		return p, fmt.Errorf("%w: OPEN", ErrInvalid)
	}
	copy(p.RequestID[:], b)
	ms, n := binary.BigEndian.Uint32(b[16:]), int(binary.BigEndian.Uint16(b[20:]))
	if ms == 0 || n > MaxMetadata || len(b) < openSize+n {
		return p, fmt.Errorf("%w: OPEN", ErrInvalid)
	}
	p.Timeout = time.Duration(ms) * time.Millisecond
	p.Metadata, p.Data = b[openSize:openSize+n], b[openSize+n:]
	return p, nil
}

// Milliseconds returns d as it stands in an OPEN: rounded up, 1 or more.
func Milliseconds(d time.Duration) uint32 {
	ms := d / time.Millisecond
	if d%time.Millisecond > 0 {
		ms++
	}
	return uint32(min(max(ms, 1), 1<<32-1))
}

// AppendMetadata appends m: for each key, in sorted order, its length, itself, the length of its value
// and the value. The error says that m is too large.
func AppendMetadata(b []byte, m map[string]string) ([]byte, error) {
	start := len(b)
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if len(k) > MaxMetadata || len(m[k]) > MaxMetadata {
			return b[:start], fmt.Errorf("%w: metadata", ErrTooLarge)
		}
		b = binary.BigEndian.AppendUint16(b, uint16(len(k)))
		b = append(b, k...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(m[k])))
		b = append(b, m[k]...)
		if len(b)-start > MaxMetadata {
			return b[:start], fmt.Errorf("%w: metadata", ErrTooLarge)
		}
	}
	return b, nil
}

// ParseMetadata reads what AppendMetadata wrote; nil for none.
func ParseMetadata(b []byte) (m map[string]string, err error) {
	for len(b) > 0 {
		var key, value []byte
		if key, value, b, err = nextPair(b); err != nil {
			return nil, err
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[string(key)] = string(value)
	}
	return m, nil
}

// CheckMetadata says whether ParseMetadata can read b, and copies nothing.
func CheckMetadata(b []byte) (err error) {
	for len(b) > 0 && err == nil {
		_, _, b, err = nextPair(b)
	}
	return err
}

// nextPair cuts the first key and its value off encoded metadata.
func nextPair(b []byte) (key, value, rest []byte, err error) {
	for _, part := range []*[]byte{&key, &value} {
		if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
			return nil, nil, nil, fmt.Errorf("%w: metadata", ErrInvalid)
		}
		n := 2 + int(binary.BigEndian.Uint16(b))
		*part, b = b[2:n], b[n:]
	}
	return key, value, b, nil
}

// AppendCredit appends the payload of a CREDIT: the bytes that the peer may send in addition.
func AppendCredit(b []byte, n uint32) []byte { return binary.BigEndian.AppendUint32(b, n) }

// ParseCredit reads the payload of a CREDIT, which is 1 or more.
func ParseCredit(b []byte) (uint32, error) {
	if len(b) != 4 || binary.BigEndian.Uint32(b) == 0 {
		return 0, fmt.Errorf("%w: CREDIT", ErrInvalid)
	}
	return binary.BigEndian.Uint32(b), nil
}

// AppendEnd appends the payload of a RESET or GOAWAY: the code, and a reason for people that is cut to MaxReason.
func AppendEnd(b []byte, code Code, reason string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason[:min(len(reason), MaxReason)]...)
}

// ParseEnd reads the payload of a RESET or GOAWAY.
func ParseEnd(b []byte) (Code, string, error) {
	if len(b) < 2 || len(b) > 2+MaxReason {
		return 0, "", fmt.Errorf("%w: RESET or GOAWAY", ErrInvalid)
	}
	return Code(binary.BigEndian.Uint16(b)), string(b[2:]), nil
}

// PingSize is the size of the payload of a PING, which its answer repeats.
const PingSize = 8
