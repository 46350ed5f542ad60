package core

import (
	"sync"
	"sync/atomic"
	"time"
)

// maxDenials bounds the memory of denials.
const maxDenials = 10_000

// denials remembers refusals by alias, so that a caller who is over the limit costs no round trip.
// Approvals are never remembered.
type denials struct {
	table atomic.Pointer[denialTable]
}

type denialTable struct {
	refusals sync.Map // alias -> *refusal
	size     atomic.Int64
}

// clear forgets all. A refresh does so: limits may have changed.
func (d *denials) clear() { d.table.Store(&denialTable{}) }

// get returns the refusal that holds for an amount on a ledger, nil if there is none: what was too much says nothing of less.
func (d *denials) get(alias string, amount float64, now time.Time) *refusal {
	t := d.table.Load()
	if t.size.Load() == 0 {
		return nil
	}
	v, ok := t.refusals.Load(alias)
	if !ok {
		return nil
	}
	r := v.(*refusal)
	if now.Before(r.until) {
		if amount < r.amount {
			return nil
		}
		return r
	}
	if t.refusals.CompareAndDelete(alias, v) {
		t.size.Add(-1)
	}
	return nil
}

func (d *denials) put(alias string, r *refusal) {
	t := d.table.Load()
	if t.size.Load() >= maxDenials {
		d.clear()
		t = d.table.Load()
	}
	if _, had := t.refusals.Swap(alias, r); !had {
		t.size.Add(1)
	}
}

func (d *denials) forget(alias string) {
	t := d.table.Load()
	if t.size.Load() == 0 {
		return
	}
	if _, had := t.refusals.LoadAndDelete(alias); had {
		t.size.Add(-1)
	}
}
