// Package frame is the broker's wire format: what the bytes between a consumer or provider and the
// broker mean. docs/protocol.md specifies it; a test reads the vectors there. The package holds no
// state and does no I/O; everything in it is safe for concurrent use.
package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ProtocolVersion is what this package speaks; it speaks no other.
const ProtocolVersion = 1

const (
	// HeaderSize is the size of a frame's header in bytes:
	//
	//	0       4      5       6          8                16
	//	| length | type | flags | reserved |     stream     |
	//
	// all of it big-endian. length is that of the payload, which follows; reserved is 0.
	HeaderSize = 16
	// MaxPayload is the size of the largest payload in bytes.
	MaxPayload = 64 << 10
	// InitialWindow is the credit, in bytes, that each direction of a stream starts with.
	InitialWindow = 64 << 10
)

// Type says what a frame is.
type Type uint8

// The types of frames.
const (
	Hello   Type = iota + 1 // client to broker, first: who it is
	Welcome                 // broker to client, first: it is let in
	Open                    // begins a request
	Head                    // begins an answer, or with FlagError the message of its failure
	Data                    // goes on with either
	Credit                  // lets the peer send more on a stream
	Reset                   // ends a stream at once, in both directions
	Ping                    // asks whether the peer is there; with FlagAck, that it is
	GoAway                  // no new requests on this connection
)

var typeNames = [...]string{Hello: "HELLO", Welcome: "WELCOME", Open: "OPEN", Head: "HEAD", Data: "DATA", Credit: "CREDIT", Reset: "RESET", Ping: "PING", GoAway: "GOAWAY"}

// String returns the name that docs/protocol.md uses.
func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Flags are bits that change what a frame says.
type Flags uint8

const (
	// FlagEnd ends the sender's direction of the stream (OPEN, HEAD, DATA).
	FlagEnd Flags = 1 << iota
	// FlagError makes what follows in this direction the message of a failure (HEAD).
	FlagError
	// FlagAck answers a PING.
	FlagAck
)

// allowed says which flags a type may carry, and whether it belongs to a stream.
var allowed = [...]struct {
	flags  Flags
	stream bool
}{
	Hello: {}, Welcome: {}, Open: {FlagEnd, true}, Head: {FlagEnd | FlagError, true}, Data: {FlagEnd, true},
	Credit: {0, true}, Reset: {0, true}, Ping: {FlagAck, false}, GoAway: {},
}

// Header is what precedes each payload.
type Header struct {
	Length uint32
	Type   Type
	Flags  Flags
	Stream uint64
}

// Errors of headers and payloads that no peer that keeps to the protocol sends.
var (
	ErrTooLarge = errors.New("frame: payload is too large")
	ErrInvalid  = errors.New("frame: invalid")
)

// Append appends the header to b.
func (h Header) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, h.Length)
	b = append(b, byte(h.Type), byte(h.Flags), 0, 0)
	return binary.BigEndian.AppendUint64(b, h.Stream)
}

// Put writes the header over the first HeaderSize bytes of b.
func (h Header) Put(b []byte) { h.Append(b[:0]) }

// ParseHeader reads the header at the start of b, which holds HeaderSize bytes or more.
func ParseHeader(b []byte) (Header, error) {
	h := Header{
		Length: binary.BigEndian.Uint32(b),
		Type:   Type(b[4]),
		Flags:  Flags(b[5]),
		Stream: binary.BigEndian.Uint64(b[8:]),
	}
	switch {
	case h.Type < Hello || h.Type > GoAway:
		return h, fmt.Errorf("%w: %v", ErrInvalid, h.Type)
	case h.Length > MaxPayload:
		return h, fmt.Errorf("%w: %v of %d bytes", ErrTooLarge, h.Type, h.Length)
	case b[6] != 0 || b[7] != 0:
		return h, fmt.Errorf("%w: %v: reserved bits are set", ErrInvalid, h.Type)
	case h.Flags&^allowed[h.Type].flags != 0:
		return h, fmt.Errorf("%w: %v: flags %#x", ErrInvalid, h.Type, uint8(h.Flags))
	case allowed[h.Type].stream != (h.Stream != 0):
		return h, fmt.Errorf("%w: %v on stream %d", ErrInvalid, h.Type, h.Stream)
	}
	return h, nil
}

// SetStream rewrites the stream of the frame at the start of b.
func SetStream(b []byte, stream uint64) { binary.BigEndian.PutUint64(b[8:], stream) }
