package sqlite

import (
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

func exampleBatch() (*book.Batch, *book.Clock) {
	a := &book.Account{Num: 300, Name: book.Name{App: "acme", Alias: "GET /x"}}
	a.Sums = book.Sums{Held: 2, Total: 3, Touched: 4, Epochs: 5, Last: 6}
	a.Counters = []book.Counter{
		{Window: service.WindowMinute, Limited: true, Limit: 5e6, Rate: 5e6, Policy: "p", Start: 1e12, Age: time.Second, Epoch: 2, Used: 1, Held: 2},
		{Window: service.WindowMonth, Bucket: true, Soft: true, Limit: 6e6, Rate: 7e6, Age: time.Hour, Frac: 9, Epoch: 3, Used: 4},
	}
	al := &book.Allocation{
		Seq: 7, Key: book.KeyOf("acme", "id"), Account: a, ID: "id", Reserved: 1e6, ReservedAt: 1e12 + 1, Age: time.Second, Prev: 3,
		Terms: &book.Terms{
			Answer: book.Answer{Limited: true, Limit: 5e6, Remaining: 4e6, ResetAt: 1e12 + 60_000, WindowSeconds: 60, Policy: "p"},
			Holds:  []book.Hold{{Account: a, Epoch: 2}, {Account: a, Epoch: 3}},
		},
	}
	al.Progress = book.Progress{State: service.StateSettled, Flags: service.FlagLate, Charged: 2e6, EndedAt: 1e12 + 2, Meta: `{}`}
	return &book.Batch{
		Accounts:    []book.SavedAccount{{Account: a}},
		Allocations: []book.SavedAllocation{{Allocation: al}},
	}, &book.Clock{Age: time.Minute, Last: time.UnixMilli(1e12)}
}

func TestRowBytes(t *testing.T) {
	b, c := exampleBatch()
	data := appendRow(nil, b, c)
	if got := hex.EncodeToString(data); got != goldenRow {
		t.Errorf("row %s\nwant %s", got, goldenRow)
	}
	r, err := decodeRow(data)
	if err != nil {
		t.Fatal(err)
	}
	want := b.Accounts[0].Account
	want.Named = true // the row holds the name
	if got := r.accounts[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("account %+v, want %+v", got, want)
	}
	al := b.Allocations[0].Allocation
	answer := al.Terms.Answer
	al.Account, al.Terms = nil, nil
	if got := r.allocs[0]; !reflect.DeepEqual(got.Allocation, al) || got.Num != 300 || got.Answer != answer || !reflect.DeepEqual(got.Holds, []book.CodedHold{{Num: 300, Epoch: 2}, {Num: 300, Epoch: 3}}) {
		t.Errorf("allocation %+v, want %+v", got, al)
	}
	if r.age != c.Age || r.wall != 1e12 {
		t.Errorf("age %v wall %d", r.age, r.wall)
	}
}

func FuzzDecodeRow(f *testing.F) {
	b, c := exampleBatch()
	f.Add(appendRow(nil, b, c))
	f.Add([]byte{rowVersion, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = decodeRow(data) // it must not panic
		if len(data) > rowHeader {
			d := book.NewDecoder(data[rowHeader:]) // past the checksum, which random bytes rarely have
			decodeAccount(d)
			decodeAllocation(d)
		}
	})
}

// goldenRow is exampleBatch as version 2 writes it; it never changes.
const goldenRow = "02a00b6fae80e0ba84bf0380c0a8ca9a3a01ac02010461636d6506474554202f780406080506024280ade20480ade204017080c0a8ca9a3a80a8d6b90700020204a580b6dc0580bfd60600008080c58bc6d1011203080001074e89f570ad20646df095650bf832de97ac0202696480897a82c0a8ca9a3a80a8d6b907030180ade20480a4e803c0e9afca9a3a78017002ac0202ac020301028092f40184c0a8ca9a3a027b7d"
