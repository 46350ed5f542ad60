package book

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// The stores write counters, and what never changes of an allocation, in this form: numbers are varints
// (encoding/binary), bytes their length and then the bytes. The embedded store's codec_test.go holds golden bytes.

// The bits of a counter's first byte; the rest of it is the window.
const (
	bitBucket = 1 << (5 + iota)
	bitLimited
	bitSoft
)

// AppendCounters encodes counters.
func AppendCounters(buf []byte, counters []Counter) []byte {
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
		buf = AppendString(buf, c.Policy)
		buf = binary.AppendVarint(buf, c.Start)
		buf = binary.AppendVarint(buf, int64(c.Age))
		buf = binary.AppendVarint(buf, c.Frac)
		buf = binary.AppendUvarint(buf, uint64(c.Epoch))
		buf = binary.AppendVarint(buf, int64(c.Used))
		buf = binary.AppendVarint(buf, int64(c.Held))
	}
	return buf
}

// AppendDetail encodes the first answer and the holds.
func AppendDetail(buf []byte, al *Allocation) []byte {
	answer, holds := al.answer(), al.Holds()
	buf = AppendBool(buf, answer.Limited)
	if answer.Limited {
		buf = binary.AppendVarint(buf, int64(answer.Limit))
		buf = binary.AppendVarint(buf, int64(answer.Remaining))
		buf = binary.AppendVarint(buf, answer.ResetAt)
		buf = binary.AppendVarint(buf, answer.WindowSeconds)
		buf = AppendString(buf, answer.Policy)
	}
	buf = binary.AppendUvarint(buf, uint64(len(holds)))
	for _, h := range holds {
		buf = binary.AppendUvarint(buf, uint64(h.Account.Num))
		buf = binary.AppendUvarint(buf, uint64(h.Epoch))
	}
	return buf
}

// Coded is an allocation whose accounts are known by their numbers only.
type Coded struct {
	*Allocation
	Num    uint32
	Answer Answer
	Holds  []CodedHold
}

// NewCoded returns an allocation to decode into.
func NewCoded() *Coded { return &Coded{Allocation: &Allocation{}} }

// CodedHold is a Hold whose account is known by its number.
type CodedHold struct{ Num, Epoch uint32 }

// Link finds al's accounts; account returns nil where there is none of the number.
func (al *Coded) Link(account func(num uint32) *Account) (*Allocation, error) {
	if al.Account = account(al.Num); al.Account == nil {
		return nil, fmt.Errorf("allocation %d is of ledger %d, which does not exist", al.Seq, al.Num)
	}
	if !al.Answer.Limited && len(al.Holds) == 0 {
		return al.Allocation, nil
	}
	al.Terms = &Terms{al.Answer, make([]Hold, len(al.Holds))}
	for i, h := range al.Holds {
		a := account(h.Num)
		if a == nil {
			return nil, fmt.Errorf("allocation %d is held in ledger %d, which does not exist", al.Seq, h.Num)
		}
		al.Terms.Holds[i] = Hold{a, h.Epoch}
	}
	return al.Allocation, nil
}

// AppendBool encodes v in a byte.
func AppendBool(buf []byte, v bool) []byte {
	if v {
		return append(buf, 1)
	}
	return append(buf, 0)
}

// AppendString encodes a text.
func AppendString[T string | []byte](buf []byte, s T) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(s)))
	return append(buf, s...)
}

// Decoder reads from rest; once something is missing it is bad and reads zeros.
type Decoder struct {
	rest []byte
	bad  bool
}

// NewDecoder returns a decoder of data.
func NewDecoder(data []byte) *Decoder { return &Decoder{rest: data} }

// Bad reports whether something was missing or wrong.
func (d *Decoder) Bad() bool { return d.bad }

// Done reports whether everything has been read, and nothing was wrong.
func (d *Decoder) Done() bool { return !d.bad && len(d.rest) == 0 }

// Counters decodes counters; texts holds one copy of those that many share, where it is not nil.
func (d *Decoder) Counters(texts map[string]string) []Counter {
	n := d.Uint()
	if n == 0 || d.bad || n > uint64(len(d.rest)) {
		d.bad = d.bad || n > 0
		return nil
	}
	counters := make([]Counter, n)
	for i := range counters {
		c := &counters[i]
		kind := d.Byte()
		c.Window, c.Bucket, c.Limited, c.Soft = service.Window(kind&(bitBucket-1)), kind&bitBucket != 0, kind&bitLimited != 0, kind&bitSoft != 0
		if c.Window < service.WindowSecond || c.Window > service.WindowMonth {
			d.bad, d.rest = true, nil
			return nil
		}
		c.Limit, c.Rate = service.Micros(d.Int()), service.Micros(d.Int())
		c.Policy = Share(texts, d.Bytes())
		c.Start, c.Age, c.Frac = d.Int(), time.Duration(d.Int()), d.Int()
		c.Epoch, c.Used, c.Held = uint32(d.Uint()), service.Micros(d.Int()), service.Micros(d.Int())
	}
	return counters
}

// Detail decodes what AppendDetail has encoded; texts is as in Counters.
func (d *Decoder) Detail(al *Coded, texts map[string]string) {
	if al.Answer.Limited = d.Byte() != 0; al.Answer.Limited {
		al.Answer.Limit, al.Answer.Remaining = service.Micros(d.Int()), service.Micros(d.Int())
		al.Answer.ResetAt, al.Answer.WindowSeconds, al.Answer.Policy = d.Int(), d.Int(), Share(texts, d.Bytes())
	}
	for n := d.Uint(); n > 0 && !d.bad; n-- {
		al.Holds = append(al.Holds, CodedHold{uint32(d.Uint()), uint32(d.Uint())})
	}
}

// Int decodes a varint.
func (d *Decoder) Int() int64 {
	v, n := binary.Varint(d.rest)
	d.skip(n)
	return v
}

// Uint decodes an unsigned varint.
func (d *Decoder) Uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.skip(n)
	return v
}

// skip moves past a varint of n bytes; n <= 0 says that there was none.
func (d *Decoder) skip(n int) {
	if n <= 0 {
		d.bad, d.rest = true, nil
		return
	}
	d.rest = d.rest[n:]
}

// Byte reads a byte.
func (d *Decoder) Byte() byte {
	if b := d.Take(1); b != nil {
		return b[0]
	}
	return 0
}

// Bytes reads what AppendString has written; it is part of the data.
func (d *Decoder) Bytes() []byte { return d.Take(d.Uint()) }

// Take reads n bytes; they are part of the data.
func (d *Decoder) Take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.bad, d.rest = true, nil
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

// Share returns the copy of text that seen holds.
func Share[T string | []byte](seen map[string]string, text T) string {
	if known, ok := seen[string(text)]; ok {
		return known
	}
	copied := string(text)
	if seen != nil {
		seen[copied] = copied
	}
	return copied
}
