package natsmesh

import (
	"encoding/binary"
	"errors"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/mesh"
)

// kind says what a message is.
type kind byte

const (
	kindDial   kind = iota + 1 // wants a tunnel: the channel, and whose it is
	kindAccept                 // there is one: the acceptor, and its load
	kindData                   // bytes
	kindAck                    // bytes were read
	kindClose                  // the tunnel has ended
)

// header begins every message to a broker.
type header struct {
	kind   kind
	tunnel uint64
	seq    uint64 // of a DATA: counts from 1
	ack    uint64 // how many bytes of data the sender has read
}

const headerSize = 1 + 3*8

var errMalformed = errors.New("natsmesh: malformed message")

func (h header) append(b []byte) []byte {
	b = append(b, byte(h.kind))
	b = binary.BigEndian.AppendUint64(b, h.tunnel)
	b = binary.BigEndian.AppendUint64(b, h.seq)
	return binary.BigEndian.AppendUint64(b, h.ack)
}

func parseHeader(b []byte) (h header, rest []byte, err error) {
	if len(b) < headerSize {
		return h, nil, errMalformed
	}
	h = header{kind(b[0]), binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:]), binary.BigEndian.Uint64(b[17:])}
	return h, b[headerSize:], nil
}

// appendIDs appends the payload of a DIAL.
func appendIDs(b []byte, channel, broker uuid.UUID) []byte {
	return append(append(b, channel[:]...), broker[:]...)
}

func parseIDs(b []byte) (channel, broker uuid.UUID, err error) {
	if len(b) != 32 {
		return channel, broker, errMalformed
	}
	return uuid.UUID(b[:16]), uuid.UUID(b[16:]), nil
}

// A load is a channel, and how many providers and running requests there are: 24 bytes.
const loadSize = 16 + 2*4

func appendLoad(b []byte, l mesh.Load) []byte {
	b = append(b, l.Channel[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(l.Providers))
	return binary.BigEndian.AppendUint32(b, uint32(l.Running))
}

func parseLoad(b []byte) mesh.Load {
	return mesh.Load{Channel: uuid.UUID(b[:16]), Providers: int(binary.BigEndian.Uint32(b[16:])), Running: int(binary.BigEndian.Uint32(b[20:]))}
}

// parseAccept reads the payload of an ACCEPT.
func parseAccept(b []byte) (broker uuid.UUID, l mesh.Load, err error) {
	if len(b) != 16+loadSize {
		return broker, l, errMalformed
	}
	return uuid.UUID(b[:16]), parseLoad(b[16:]), nil
}

// beatLoads is how many loads one beat has at most.
const beatLoads = 2000

// parseBeat reads a beat: the broker and some of its loads.
func parseBeat(b []byte) (broker uuid.UUID, loads []mesh.Load, err error) {
	if len(b) < 16 || (len(b)-16)%loadSize != 0 {
		return broker, nil, errMalformed
	}
	broker, b = uuid.UUID(b[:16]), b[16:]
	for ; len(b) > 0; b = b[loadSize:] {
		loads = append(loads, parseLoad(b))
	}
	return broker, loads, nil
}
