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

// A journal row holds the records that one batch left behind, whole: replaying rows in order
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
	allocs   []*book.Coded
}

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
	buf = book.AppendBool(buf, !a.Named)
	if !a.Named {
		buf = book.AppendString(buf, a.Name.App)
		buf = book.AppendString(buf, a.Name.Alias)
	}
	buf = appendSums(buf, &a.Sums)
	return book.AppendCounters(buf, a.Counters)
}

func appendSums(buf []byte, s *book.Sums) []byte {
	buf = binary.AppendVarint(buf, int64(s.Held))
	buf = binary.AppendVarint(buf, int64(s.Total))
	buf = binary.AppendVarint(buf, s.Touched)
	buf = binary.AppendUvarint(buf, uint64(s.Epochs))
	return binary.AppendUvarint(buf, s.Last)
}

func appendAllocation(buf []byte, al *book.Allocation) []byte {
	buf = binary.AppendUvarint(buf, al.Seq)
	buf = append(buf, al.Key[:]...)
	buf = binary.AppendUvarint(buf, uint64(al.Account.Num))
	buf = book.AppendString(buf, al.ID)
	buf = binary.AppendVarint(buf, int64(al.Reserved))
	buf = binary.AppendVarint(buf, al.ReservedAt)
	buf = binary.AppendVarint(buf, int64(al.Age))
	buf = binary.AppendUvarint(buf, al.Prev)
	buf = book.AppendDetail(buf, al)
	buf = append(buf, byte(al.State), byte(al.Flags))
	buf = binary.AppendVarint(buf, int64(al.Charged))
	buf = binary.AppendVarint(buf, al.EndedAt)
	return book.AppendString(buf, al.Meta)
}

// decodeRow reads what appendRow wrote; anything else is an error, never a panic.
func decodeRow(data []byte) (*row, error) {
	if len(data) < rowHeader || data[0] != rowVersion {
		return nil, fmt.Errorf("%w: not a row of version %d", errBadRow, rowVersion)
	}
	if crc32.ChecksumIEEE(data[rowHeader:]) != binary.LittleEndian.Uint32(data[1:]) {
		return nil, fmt.Errorf("%w: its checksum is wrong", errBadRow)
	}
	d := book.NewDecoder(data[rowHeader:])
	r := &row{age: time.Duration(d.Int()), wall: d.Int()}
	for n := d.Uint(); n > 0 && !d.Bad(); n-- {
		r.accounts = append(r.accounts, decodeAccount(d))
	}
	for n := d.Uint(); n > 0 && !d.Bad(); n-- {
		r.allocs = append(r.allocs, decodeAllocation(d))
	}
	if !d.Done() {
		return nil, fmt.Errorf("%w: its length is wrong", errBadRow)
	}
	return r, nil
}

func decodeAccount(d *book.Decoder) *book.Account {
	a := &book.Account{Num: uint32(d.Uint())}
	if a.Named = d.Byte() != 0; a.Named {
		a.Name = book.Name{App: string(d.Bytes()), Alias: string(d.Bytes())}
	}
	a.Sums = book.Sums{
		Held: service.Micros(d.Int()), Total: service.Micros(d.Int()), Touched: d.Int(), Epochs: uint32(d.Uint()), Last: d.Uint(),
	}
	a.Counters = d.Counters(nil)
	return a
}

func decodeAllocation(d *book.Decoder) *book.Coded {
	al := book.NewCoded()
	al.Seq = d.Uint()
	copy(al.Key[:], d.Take(uint64(len(al.Key))))
	al.Num = uint32(d.Uint())
	al.ID = string(d.Bytes())
	al.Reserved, al.ReservedAt, al.Age, al.Prev = service.Micros(d.Int()), d.Int(), time.Duration(d.Int()), d.Uint()
	d.Detail(al, nil)
	al.State, al.Flags = service.State(d.Byte()), service.Flag(d.Byte())
	al.Charged, al.EndedAt = service.Micros(d.Int()), d.Int()
	al.Meta = string(d.Bytes())
	return al
}
