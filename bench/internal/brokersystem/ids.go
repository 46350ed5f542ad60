package brokersystem

import (
	"bufio"
	"encoding/binary"
	"fmt"
)

// A frame of the system ids has a header of 16 bytes, little-endian, and a payload:
//
//	0  length of the payload, 4 bytes
//	4  type
//	5  flags
//	6  reserved, 2 bytes
//	8  stream, 8 bytes
const (
	headerSize = 16
	typeData   = 1
	flagEnd    = 1 // the last frame of its request or answer
	streamAt   = 8
)

type header struct {
	length uint32
	flags  uint8
	stream uint64
}

func (h header) end() bool { return h.flags&flagEnd != 0 }

func (h header) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, h.length)
	b = append(b, typeData, h.flags, 0, 0)
	return binary.LittleEndian.AppendUint64(b, h.stream)
}

func setStream(frame []byte, stream uint64) { binary.LittleEndian.PutUint64(frame[streamAt:], stream) }

// peekFrame returns the next frame, header and all, which is still in the reader. It has to fit there.
func peekFrame(in *bufio.Reader) (header, []byte, error) {
	b, err := in.Peek(headerSize)
	if err != nil {
		return header{}, nil, err
	}
	if b[4] != typeData {
		return header{}, nil, fmt.Errorf("a frame of type %d", b[4])
	}
	h := header{
		length: binary.LittleEndian.Uint32(b), flags: b[5], stream: binary.LittleEndian.Uint64(b[streamAt:]),
	}
	frame, err := in.Peek(headerSize + int(h.length))
	return h, frame, err
}

// writeFrame leaves the frame in out's buffer, if there is room.
func writeFrame(out *bufio.Writer, h header, payload []byte) error {
	h.length = uint32(len(payload))
	if _, err := out.Write(h.append(out.AvailableBuffer())); err != nil {
		return err
	}
	_, err := out.Write(payload)
	return err
}
