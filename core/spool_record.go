package core

import (
	"encoding/binary"
	"math"
)

// spoolVersion is the first byte of a settlement on disk.
const spoolVersion = 1

// append appends the settlement as it stands on disk: the version; 1 if the service has answered its reservation; how many requests it settles with an
// amount, and without one; its ledger, id and reservation, with their lengths; what was reserved, and what is charged; the payload.
func (e *settlement) append(dst []byte) []byte {
	known := byte(0)
	if e.known.Load() {
		known = 1
	}
	dst = append(dst, spoolVersion, known)
	dst = binary.AppendUvarint(dst, uint64(e.settles))
	dst = binary.AppendUvarint(dst, uint64(e.voids))
	for _, text := range [...]string{e.alias, e.id, e.reserveID} {
		dst = binary.AppendUvarint(dst, uint64(len(text)))
		dst = append(dst, text...)
	}
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(e.reserved))
	dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(e.amount))
	if e.accruing {
		return append(dst, e.lease.payload(e)...)
	}
	return append(dst, e.payload...)
}

// decodeSettlement reads what append has written, nil if it is nothing of the kind. It keeps data.
func decodeSettlement(f *Flow, data []byte) *settlement {
	if len(data) < 2 || data[0] != spoolVersion {
		return nil
	}
	e := &settlement{flow: f}
	e.known.Store(data[1] == 1)
	data = data[2:]
	number := func() uint64 {
		n, size := binary.Uvarint(data)
		if size <= 0 {
			data = nil
			return math.MaxUint64
		}
		data = data[size:]
		return n
	}
	text := func() string {
		n := number()
		if n > uint64(len(data)) {
			data = nil
			return ""
		}
		s := string(data[:n])
		data = data[n:]
		return s
	}
	e.settles, e.voids = int64(number()), int64(number())
	e.alias, e.id, e.reserveID = text(), text(), text()
	if len(data) < 16 || len(e.reserveID) <= uuidLen || e.settles < 0 || e.voids < 0 {
		return nil
	}
	e.reserved = math.Float64frombits(binary.LittleEndian.Uint64(data))
	e.amount = math.Float64frombits(binary.LittleEndian.Uint64(data[8:]))
	e.payload = append([]byte(nil), data[16:]...) // data is part of a whole file
	return e
}
