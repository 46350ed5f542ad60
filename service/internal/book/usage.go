package book

import (
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// HourlyFor is how long stores keep usage by the hour; then they keep it by the day, in the day's first hour, for ever.
const HourlyFor = 90 * 24 * time.Hour

// DayMillis is the length of a day in ms.
const DayMillis = 24 * 60 * 60 * 1000

// HourUsage is what ended on one account in one hour.
type HourUsage struct {
	Hour    int64 // its beginning, Unix ms
	Account *Account
	service.Usage
}

// Hours adds up what has ended by account and hour. The zero value is empty.
type Hours struct {
	List []HourUsage
	// Settled are the Seq of the settlements with an amount, in the order in which they were added.
	Settled []uint64

	index map[hourKey]int
}

type hourKey struct {
	hour    int64
	account *Account
}

// Add counts an allocation that ended as p says; one that is held counts nothing.
func (h *Hours) Add(al *Allocation, p *Progress) {
	if p.State == service.StateHeld {
		return
	}
	key := hourKey{service.WindowHour.Start(time.UnixMilli(p.EndedAt)).UnixMilli(), al.Account}
	i, ok := h.index[key]
	if !ok {
		if h.index == nil {
			h.index = map[hourKey]int{}
		}
		i = len(h.List)
		h.index[key] = i
		h.List = append(h.List, HourUsage{Hour: key.hour, Account: al.Account})
	}
	u := &h.List[i].Usage
	switch p.State {
	case service.StateExpired:
		u.Expired++
	case service.StateVoided:
		u.Voided++
	default:
		u.Amount = u.Amount.Add(p.Charged)
		u.Requests++
		if p.Flags != 0 {
			u.Flagged++
		}
		h.Settled = append(h.Settled, al.Seq)
	}
}

// Usage is what has ended in the batch, and the Seq of its settlements.
func (b *Batch) Usage() (hours []HourUsage, settled []int64) {
	var h Hours
	for i := range b.Allocations {
		h.Add(b.Allocations[i].Allocation, &b.Allocations[i].Progress)
	}
	for _, seq := range h.Settled {
		settled = append(settled, int64(seq))
	}
	return h.List, settled
}

// HeldDelta is by how much the batch has changed the number of allocations that are held.
func (b *Batch) HeldDelta() (n int64) {
	for i := range b.Allocations {
		saved := &b.Allocations[i]
		if saved.State == service.StateHeld {
			n++
		}
		if !saved.IsNew && saved.old.State == service.StateHeld {
			n--
		}
	}
	return n
}
