package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrDamaged is returned by Open for a log that has lost a record which may have been durable.
var ErrDamaged = errors.New("the log is damaged")

const (
	magic         = "UFWAL 1\n"
	segmentHeader = 32
	recordHeader  = 24
	align         = 8
)

// MaxRecord is the most bytes that a record can have.
const MaxRecord = 1 << 30

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the beginning of a segment.
type header struct {
	first uint64 // the number of its first record
	salt  uint64
}

func (h header) encode() []byte {
	buf := make([]byte, segmentHeader)
	copy(buf, magic)
	binary.LittleEndian.PutUint64(buf[8:], h.first)
	binary.LittleEndian.PutUint64(buf[16:], h.salt)
	binary.LittleEndian.PutUint32(buf[24:], crc32.Checksum(buf[:24], castagnoli))
	return buf
}

func decodeHeader(data []byte) (h header, ok bool) {
	if len(data) < segmentHeader || string(data[:8]) != magic || crc32.Checksum(data[:24], castagnoli) != binary.LittleEndian.Uint32(data[24:]) {
		return h, false
	}
	return header{binary.LittleEndian.Uint64(data[8:]), binary.LittleEndian.Uint64(data[16:])}, true
}

// seed is what the checksums of the segment's records begin with.
func (h header) seed() uint32 {
	return crc32.Checksum(binary.LittleEndian.AppendUint64(nil, h.salt), castagnoli)
}

// recordSize is how many bytes a record of n bytes takes.
func recordSize(n int) int { return (recordHeader + n + align - 1) / align * align }

func appendRecord(buf []byte, seed uint32, number, durable uint64, data []byte) []byte {
	from := len(buf)
	buf = append(buf, make([]byte, recordHeader)...)
	buf = append(buf, data...)
	buf = append(buf, make([]byte, recordSize(len(data))-recordHeader-len(data))...)
	r := buf[from:]
	binary.LittleEndian.PutUint32(r[4:], uint32(len(data)))
	binary.LittleEndian.PutUint64(r[8:], number)
	binary.LittleEndian.PutUint64(r[16:], durable)
	binary.LittleEndian.PutUint32(r, crc32.Update(seed, castagnoli, r[4:recordHeader+len(data)]))
	return buf
}

// record is one that has been read; data is part of the segment's bytes.
type record struct {
	number, durable uint64
	data            []byte
}

// readRecord reads the record at the beginning of buf.
func readRecord(buf []byte, seed uint32) (r record, ok bool) {
	if len(buf) < recordHeader {
		return r, false
	}
	n := int(binary.LittleEndian.Uint32(buf[4:]))
	if n > len(buf)-recordHeader {
		return r, false
	}
	if crc32.Update(seed, castagnoli, buf[4:recordHeader+n]) != binary.LittleEndian.Uint32(buf) {
		return r, false
	}
	return record{binary.LittleEndian.Uint64(buf[8:]), binary.LittleEndian.Uint64(buf[16:]), buf[recordHeader : recordHeader+n]}, true
}

// scan calls each with the records of a segment, whose bytes are data, from number next on. It returns the number after the last
// one, and where it ends.
func scan(data []byte, h header, each func(number uint64, data []byte) error) (next uint64, end int, err error) {
	next, end = h.first, segmentHeader
	for {
		r, ok := readRecord(data[end:], h.seed())
		if !ok || r.number != next {
			return next, end, notDamaged(data[end:], h.seed(), next)
		}
		if err := each(r.number, r.data); err != nil {
			return next, end, fmt.Errorf("record %d: %w", r.number, err)
		}
		next, end = next+1, end+recordSize(len(r.data))
	}
}

// notDamaged looks for a record in data which says that the record of the number, which can't be read, was durable.
func notDamaged(data []byte, seed uint32, number uint64) error {
	for ; len(data) >= recordHeader; data = data[align:] {
		if binary.LittleEndian.Uint64(data[16:]) < number || binary.LittleEndian.Uint64(data[8:]) <= number {
			continue // the cheap look: mostly, these are zeros
		}
		if r, ok := readRecord(data, seed); ok {
			return fmt.Errorf("%w: record %d can't be read, but record %d can", ErrDamaged, number, r.number)
		}
	}
	return nil
}
