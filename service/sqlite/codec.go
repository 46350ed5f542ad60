package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// A journal row holds the records that one transaction left behind, whole: replaying rows in order
// needs no rule of the ledger, and replaying one twice changes nothing.
//
//	row     = version byte, crc32 of the rest (4 bytes, little endian), age, wall, count, account…, count, allocation…
//	numbers = varints (encoding/binary); bytes = length, then the bytes
//
// codec_test.go holds golden bytes.
const rowVersion = 2

const rowHeader = 5

var errBadRow = errors.New("the journal row is damaged")

// row is a decoded journal row. The accounts' and allocations' fields are set as far as they are recorded.
type row struct {
	age      time.Duration
	wall     int64 // the latest wall time that age has counted, Unix ms
	accounts []*book.Account
	allocs   []*codedAllocation
}

// codedAllocation is an allocation whose accounts are known by their numbers only.
type codedAllocation struct {
	book.Allocation
	num   uint32
	holds []codedHold
}

type codedHold struct{ num, epoch uint32 }

// appendRow encodes what b changed at c.
func appendRow(buf []byte, b *book.Batch, c *book.Clock) []byte {
	buf = append(buf, rowVersion, 0, 0, 0, 0)
	buf = binary.AppendVarint(buf, int64(c.Age))
	buf = binary.AppendVarint(buf, c.Last.UnixMilli())
	buf = binary.AppendUvarint(buf, uint64(len(b.Accounts)))
	for i := range b.Accounts {
		buf = appendAccount(buf, b.Accounts[i].Account)
	}
	buf = binary.AppendUvarint(buf, uint64(len(b.Allocations)))
	for i := range b.Allocations {
		buf = appendAllocation(buf, b.Allocations[i].Allocation)
	}
	binary.LittleEndian.PutUint32(buf[1:], crc32.ChecksumIEEE(buf[rowHeader:]))
	return buf
}

// appendAccount leaves out the name where it has been written before.
func appendAccount(buf []byte, a *book.Account) []byte {
	buf = binary.AppendUvarint(buf, uint64(a.Num))
	buf = appendBool(buf, !a.Named)
	if !a.Named {
		buf = appendString(buf, a.Name.App)
		buf = appendString(buf, a.Name.Alias)
	}
	buf = appendSums(buf, &a.Sums)
	return appendCounters(buf, a.Counters)
}

func appendSums(buf []byte, s *book.Sums) []byte {
	buf = binary.AppendVarint(buf, int64(s.Held))
	buf = binary.AppendVarint(buf, int64(s.Total))
	buf = binary.AppendVarint(buf, s.Touched)
	buf = binary.AppendUvarint(buf, uint64(s.Epochs))
	return binary.AppendUvarint(buf, s.Last)
}

// The bits of a counter's first byte; the rest of it is the window.
const (
	bitBucket = 1 << (5 + iota)
	bitLimited
	bitSoft
)

func appendCounters(buf []byte, counters []book.Counter) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(counters)))
	for i := range counters {
		c := &counters[i]
		kind := byte(c.Window)
		if c.Bucket {
			kind |= bitBucket
		}
		if c.Limited {
			kind |= bitLimited
		}
		if c.Soft {
			kind |= bitSoft
		}
		buf = append(buf, kind)
		buf = binary.AppendVarint(buf, int64(c.Limit))
		buf = binary.AppendVarint(buf, int64(c.Rate))
		buf = appendString(buf, c.Policy)
		buf = binary.AppendVarint(buf, c.Start)
		buf = binary.AppendVarint(buf, int64(c.Age))
		buf = binary.AppendVarint(buf, c.Frac)
		buf = binary.AppendUvarint(buf, uint64(c.Epoch))
		buf = binary.AppendVarint(buf, int64(c.Used))
		buf = binary.AppendVarint(buf, int64(c.Held))
	}
	return buf
}

func appendAllocation(buf []byte, al *book.Allocation) []byte {
	buf = binary.AppendUvarint(buf, al.Seq)
	buf = append(buf, al.Key[:]...)
	buf = binary.AppendUvarint(buf, uint64(al.Account.Num))
	buf = appendString(buf, al.ID)
	buf = binary.AppendVarint(buf, int64(al.Reserved))
	buf = binary.AppendVarint(buf, al.ReservedAt)
	buf = binary.AppendVarint(buf, int64(al.Age))
	buf = binary.AppendUvarint(buf, al.Prev)
	buf = appendDetail(buf, al)
	buf = append(buf, byte(al.State), byte(al.Flags))
	buf = binary.AppendVarint(buf, int64(al.Charged))
	buf = binary.AppendVarint(buf, al.EndedAt)
	return appendString(buf, al.Meta)
}

// appendDetail encodes the first answer and the holds.
func appendDetail(buf []byte, al *book.Allocation) []byte {
	buf = appendBool(buf, al.Answer.Limited)
	if al.Answer.Limited {
		buf = binary.AppendVarint(buf, int64(al.Answer.Limit))
		buf = binary.AppendVarint(buf, int64(al.Answer.Remaining))
		buf = binary.AppendVarint(buf, al.Answer.ResetAt)
		buf = binary.AppendVarint(buf, al.Answer.WindowSeconds)
		buf = appendString(buf, al.Answer.Policy)
	}
	buf = binary.AppendUvarint(buf, uint64(len(al.Holds)))
	for _, h := range al.Holds {
		buf = binary.AppendUvarint(buf, uint64(h.Account.Num))
		buf = binary.AppendUvarint(buf, uint64(h.Epoch))
	}
	return buf
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
		r.allocs = append(r.allocs, d.allocation())
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

func (d *decoder) account() *book.Account {
	a := &book.Account{Num: uint32(d.uint())}
	if a.Named = d.byte() != 0; a.Named {
		a.Name = book.Name{App: string(d.bytes()), Alias: string(d.bytes())}
	}
	a.Sums = book.Sums{
		Held: service.Micros(d.int()), Total: service.Micros(d.int()), Touched: d.int(), Epochs: uint32(d.uint()), Last: d.uint(),
	}
	a.Counters = d.counters(nil)
	return a
}

// counters decodes counters; texts holds one copy of those that many share, where it is not nil.
func (d *decoder) counters(texts map[string]string) []book.Counter {
	n := d.uint()
	if n == 0 || d.bad || n > uint64(len(d.rest)) {
		d.bad = d.bad || n > 0
		return nil
	}
	counters := make([]book.Counter, n)
	for i := range counters {
		c := &counters[i]
		kind := d.byte()
		c.Window, c.Bucket, c.Limited, c.Soft = service.Window(kind&(bitBucket-1)), kind&bitBucket != 0, kind&bitLimited != 0, kind&bitSoft != 0
		if c.Window < service.WindowSecond || c.Window > service.WindowMonth {
			d.bad, d.rest = true, nil
			return nil
		}
		c.Limit, c.Rate = service.Micros(d.int()), service.Micros(d.int())
		c.Policy = share(texts, string(d.bytes()))
		c.Start, c.Age, c.Frac = d.int(), time.Duration(d.int()), d.int()
		c.Epoch, c.Used, c.Held = uint32(d.uint()), service.Micros(d.int()), service.Micros(d.int())
	}
	return counters
}

func (d *decoder) allocation() *codedAllocation {
	al := &codedAllocation{}
	al.Seq = d.uint()
	copy(al.Key[:], d.take(uint64(len(al.Key))))
	al.num = uint32(d.uint())
	al.ID = string(d.bytes())
	al.Reserved, al.ReservedAt, al.Age, al.Prev = service.Micros(d.int()), d.int(), time.Duration(d.int()), d.uint()
	d.detail(al)
	al.State, al.Flags = service.State(d.byte()), service.Flag(d.byte())
	al.Charged, al.EndedAt = service.Micros(d.int()), d.int()
	if meta := d.bytes(); len(meta) > 0 {
		al.Meta = append([]byte(nil), meta...)
	}
	return al
}

func (d *decoder) detail(al *codedAllocation) {
	if al.Answer.Limited = d.byte() != 0; al.Answer.Limited {
		al.Answer.Limit, al.Answer.Remaining = service.Micros(d.int()), service.Micros(d.int())
		al.Answer.ResetAt, al.Answer.WindowSeconds, al.Answer.Policy = d.int(), d.int(), string(d.bytes())
	}
	for n := d.uint(); n > 0 && !d.bad; n-- {
		al.holds = append(al.holds, codedHold{uint32(d.uint()), uint32(d.uint())})
	}
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
