package sqlite

import (
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func exampleBatch() (*batch, *clock) {
	a := &account{num: 300, name: accountName{"acme", "GET /x"}}
	a.counters = counters{limited: true, limit: 5e6, policy: "p", window: service.WindowMinute, start: 1e12, epoch: 2, used: 1, held: 2, total: 3, touched: 4}
	al := &allocation{
		seq: 7, key: keyOf("acme", "id"), account: a, id: "id", reserved: 1e6, limited: true, limit: 5e6, remaining: 4e6,
		window: service.WindowMinute, start: 1e12, epoch: 2, reservedAt: 1e12 + 1, age: time.Second,
	}
	al.progress = progress{state: service.StateSettled, flags: service.FlagLate, charged: 2e6, endedAt: 1e12 + 2, meta: []byte(`{}`)}
	return &batch{
		accounts: []savedAccount{{account: a}},
		allocs:   []savedAllocation{{allocation: al}},
	}, &clock{age: time.Minute, last: time.UnixMilli(1e12)}
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
	want := b.accounts[0].account
	want.named = true // the row holds the name
	if got := r.accounts[0]; !reflect.DeepEqual(got, want) {
		t.Errorf("account %+v, want %+v", got, want)
	}
	al := b.allocs[0].allocation
	al.account = nil
	if got := r.allocs[0]; !reflect.DeepEqual(got, al) || r.nums[0] != 300 {
		t.Errorf("allocation %+v of %d, want %+v", got, r.nums[0], al)
	}
	if r.age != c.age || r.wall != 1e12 {
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
			d := &decoder{rest: data[rowHeader:]} // past the checksum, which random bytes rarely have
			d.account()
			d.allocation()
		}
	})
}

// goldenRow is exampleBatch as version 1 writes it; it never changes.
const goldenRow = "01b783bc8280e0ba84bf0380c0a8ca9a3a01ac02010461636d6506474554202f780180ade20401700280c0a8ca9a3a020204060801074e89f570ad20646df095650bf832de97ac0202696480897a0180ade20480a4e8030280c0a8ca9a3a0282c0a8ca9a3a80a8d6b90701028092f40184c0a8ca9a3a027b7d"
