package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// A journal row holds the records that one transaction left behind, whole: replaying rows in order
// needs no rule of the ledger, and replaying one twice changes nothing.
//
//	row     = version byte, crc32 of the rest (4 bytes, little endian), age, wall, count, account…, count, allocation…
//	numbers = varints (encoding/binary); bytes = length, then the bytes
//
// codec_test.go holds golden bytes.
const rowVersion = 1

const rowHeader = 5

var errBadRow = errors.New("the journal row is damaged")

// row is a decoded journal row. The accounts' and allocations' fields are set as far as they are recorded.
type row struct {
	age      time.Duration
	wall     int64 // the latest wall time that age has counted, Unix ms
	accounts []*account
	allocs   []*allocation
	nums     []uint32 // of allocs[i]'s account
}

// appendRow encodes what b changed at c.
func appendRow(buf []byte, b *batch, c *clock) []byte {
	buf = append(buf, rowVersion, 0, 0, 0, 0)
	buf = binary.AppendVarint(buf, int64(c.age))
	buf = binary.AppendVarint(buf, c.last.UnixMilli())
	buf = binary.AppendUvarint(buf, uint64(len(b.accounts)))
	for _, saved := range b.accounts {
		buf = appendAccount(buf, saved.account)
	}
	buf = binary.AppendUvarint(buf, uint64(len(b.allocs)))
	for _, saved := range b.allocs {
		buf = appendAllocation(buf, saved.allocation)
	}
	binary.LittleEndian.PutUint32(buf[1:], crc32.ChecksumIEEE(buf[rowHeader:]))
	return buf
}

// appendAccount leaves out the name where it has been written before.
func appendAccount(buf []byte, a *account) []byte {
	buf = binary.AppendUvarint(buf, uint64(a.num))
	buf = appendBool(buf, !a.named)
	if !a.named {
		buf = appendString(buf, a.name.app)
		buf = appendString(buf, a.name.alias)
	}
	buf = appendBool(buf, a.limited)
	buf = binary.AppendVarint(buf, int64(a.limit))
	buf = appendString(buf, a.policy)
	buf = append(buf, byte(a.window))
	buf = binary.AppendVarint(buf, a.start)
	buf = binary.AppendUvarint(buf, uint64(a.epoch))
	buf = binary.AppendVarint(buf, int64(a.used))
	buf = binary.AppendVarint(buf, int64(a.held))
	buf = binary.AppendVarint(buf, int64(a.total))
	return binary.AppendVarint(buf, a.touched)
}

func appendAllocation(buf []byte, al *allocation) []byte {
	buf = binary.AppendUvarint(buf, al.seq)
	buf = append(buf, al.key[:]...)
	buf = binary.AppendUvarint(buf, uint64(al.account.num))
	buf = appendString(buf, al.id)
	buf = binary.AppendVarint(buf, int64(al.reserved))
	buf = appendBool(buf, al.limited)
	buf = binary.AppendVarint(buf, int64(al.limit))
	buf = binary.AppendVarint(buf, int64(al.remaining))
	buf = append(buf, byte(al.window))
	buf = binary.AppendVarint(buf, al.start)
	buf = binary.AppendUvarint(buf, uint64(al.epoch))
	buf = binary.AppendVarint(buf, al.reservedAt)
	buf = binary.AppendVarint(buf, int64(al.age))
	buf = append(buf, byte(al.state), byte(al.flags))
	buf = binary.AppendVarint(buf, int64(al.charged))
	buf = binary.AppendVarint(buf, al.endedAt)
	return appendString(buf, al.meta)
}

func appendBool(buf []byte, v bool) []byte {
	if v {
		return append(buf, 1)
	}
	return append(buf, 0)
}

func appendString[T string | []byte](buf []byte, s T) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(s)))
	return append(buf, s...)
}

// decodeRow reads what appendRow wrote; anything else is an error, never a panic.
func decodeRow(data []byte) (*row, error) {
	if len(data) < rowHeader || data[0] != rowVersion {
		return nil, fmt.Errorf("%w: not a row of version %d", errBadRow, rowVersion)
	}
	if crc32.ChecksumIEEE(data[rowHeader:]) != binary.LittleEndian.Uint32(data[1:]) {
		return nil, fmt.Errorf("%w: its checksum is wrong", errBadRow)
	}
	d := &decoder{rest: data[rowHeader:]}
	r := &row{age: time.Duration(d.int()), wall: d.int()}
	for n := d.uint(); n > 0 && !d.bad; n-- {
		r.accounts = append(r.accounts, d.account())
	}
	for n := d.uint(); n > 0 && !d.bad; n-- {
		al, num := d.allocation()
		r.allocs, r.nums = append(r.allocs, al), append(r.nums, num)
	}
	if d.bad || len(d.rest) != 0 {
		return nil, fmt.Errorf("%w: its length is wrong", errBadRow)
	}
	return r, nil
}

// decoder reads from rest; once something is missing it is bad and reads zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) account() *account {
	a := &account{num: uint32(d.uint())}
	if a.named = d.byte() != 0; a.named {
		a.name = accountName{string(d.bytes()), string(d.bytes())}
	}
	a.limited = d.byte() != 0
	a.limit = service.Micros(d.int())
	a.policy = string(d.bytes())
	a.window = service.Window(d.byte())
	a.start = d.int()
	a.epoch = uint32(d.uint())
	a.used = service.Micros(d.int())
	a.held = service.Micros(d.int())
	a.total = service.Micros(d.int())
	a.touched = d.int()
	return a
}

func (d *decoder) allocation() (*allocation, uint32) {
	al := &allocation{seq: d.uint()}
	copy(al.key[:], d.take(uint64(len(al.key))))
	num := uint32(d.uint())
	al.id = string(d.bytes())
	al.reserved = service.Micros(d.int())
	al.limited = d.byte() != 0
	al.limit = service.Micros(d.int())
	al.remaining = service.Micros(d.int())
	al.window = service.Window(d.byte())
	al.start = d.int()
	al.epoch = uint32(d.uint())
	al.reservedAt = d.int()
	al.age = time.Duration(d.int())
	al.state = service.State(d.byte())
	al.flags = service.Flag(d.byte())
	al.charged = service.Micros(d.int())
	al.endedAt = d.int()
	if meta := d.bytes(); len(meta) > 0 {
		al.meta = append([]byte(nil), meta...)
	}
	return al, num
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.rest)
	d.skip(n)
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.skip(n)
	return v
}

// skip moves past a varint of n bytes; n <= 0 says that there was none.
func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad, d.rest = true, nil
		return
	}
	d.rest = d.rest[n:]
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) bytes() []byte { return d.take(d.uint()) }

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}
