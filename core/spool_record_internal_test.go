package core

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

// spooledSettlement is a settlement with every field set.
func spooledSettlement() *settlement {
	e := &settlement{
		settles: 3, voids: 1, alias: "GET /x acme", id: "granted", reserveID: strings.Repeat("0", uuidLen) + "r",
		reserved: 16, amount: 2.5, payload: []byte(`{"amount":2.5}`),
	}
	e.known.Store(true)
	return e
}

// The form of a settlement on disk: other versions of this package read it.
func TestSettlementOnDisk(t *testing.T) {
	const want = "0101" + "03" + "01" + // version, known, settles, voids
		"0b474554202f782061636d65" + "076772616e746564" + // alias, id
		"25303030303030303030303030303030303030303030303030303030303030303030303030" + "72" + // reservation
		"0000000000003040" + "0000000000000440" + // reserved, amount
		"7b22616d6f756e74223a322e357d" // payload
	if got := hex.EncodeToString(spooledSettlement().append(nil)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	data, err := hex.DecodeString(want)
	if err != nil {
		t.Fatal(err)
	}
	e := decodeSettlement(nil, data)
	if e == nil || !bytes.Equal(e.append(nil), data) || e.weight() != 4 || e.alias != "GET /x acme" || e.amount != 2.5 {
		t.Errorf("read %+v", e)
	}
}

// What is no settlement is nil, whatever it is; what is one is written as it was read.
func FuzzDecodeSettlement(f *testing.F) {
	whole := spooledSettlement().append(nil)
	f.Add(whole)
	for i := range whole {
		f.Add(whole[:i])
	}
	f.Add([]byte{spoolVersion, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Add([]byte{spoolVersion + 1, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		e := decodeSettlement(nil, bytes.Clone(data))
		if e == nil {
			return
		}
		if e.settles < 0 || e.voids < 0 {
			t.Errorf("weights %d and %d", e.settles, e.voids)
		}
		if again := decodeSettlement(nil, e.append(nil)); again == nil || !bytes.Equal(again.append(nil), e.append(nil)) {
			t.Error("it is another one after it was written")
		}
	})
}
