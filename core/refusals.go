package core

import (
	"sync"
	"sync/atomic"
	"time"
)

// maxRefusals bounds the memory of refusals.
const maxRefusals = 10_000

// refusals remembers refusals by alias, so that a caller who is over the limit costs no round trip.
// Approvals are never remembered.
type refusals struct {
	most  int64 // static
	table atomic.Pointer[refusalTable]
}

type refusalTable struct {
	byAlias sync.Map // alias -> *refusal
	size    atomic.Int64
}

// clear forgets all. A refresh does so: limits may have changed.
func (rs *refusals) clear() { rs.table.Store(&refusalTable{}) }

// get returns the refusal that holds for an amount on a ledger, nil if there is none: what was too much says nothing of less.
func (rs *refusals) get(alias string, amount float64, now time.Time) *refusal {
	t := rs.table.Load()
	if t.size.Load() == 0 {
		return nil
	}
	v, ok := t.byAlias.Load(alias)
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
	if t.byAlias.CompareAndDelete(alias, v) {
		t.size.Add(-1)
	}
	return nil
}

func (rs *refusals) put(alias string, r *refusal) {
	t := rs.table.Load()
	if t.size.Load() >= rs.most {
		rs.clear()
		t = rs.table.Load()
	}
	if _, had := t.byAlias.Swap(alias, r); !had {
		t.size.Add(1)
	}
}

func (rs *refusals) forget(alias string) {
	t := rs.table.Load()
	if t.size.Load() == 0 {
		return
	}
	if _, had := t.byAlias.LoadAndDelete(alias); had {
		t.size.Add(-1)
	}
}
