package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// Sweep implements service.Ledger.
func (s *Store) Sweep(ctx context.Context) (int, error) {
	type answer struct {
		n   int
		err error
	}
	answers := make(chan answer, 1)
	if err := s.submit(&operation{sweepDone: func(n int, err error) { answers <- answer{n, err} }}); err != nil {
		return 0, err
	}
	select {
	case a := <-answers:
		return a.n, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// Ledgers implements service.Ledger. It takes time in proportion to the answer; with Contains or
// Offset, to the number of ledgers.
func (s *Store) Ledgers(ctx context.Context, q service.LedgerQuery) ([]service.LedgerState, error) {
	limit := service.QueryLimit(q.Limit)
	found := make([]service.LedgerState, 0, min(limit, service.DefaultQueryLimit))
	wall := s.opts.Now().UTC()
	s.mu.RLock()
	defer s.mu.RUnlock()
	skip := q.Offset
	for e := s.state.recent.Front(); e != nil && len(found) < limit; e = e.Next() {
		a := e.Value.(*account)
		switch {
		case q.Contains != "" && !strings.Contains(a.name.alias, q.Contains):
		case skip > 0:
			skip--
		default:
			view := account{name: a.name, counters: a.counters}
			view.roll(&batch{wall: wall}, a.window)
			found = append(found, view.ledgerState())
		}
	}
	return found, ctx.Err()
}

func (a *account) ledgerState() service.LedgerState {
	l := service.LedgerState{
		Application: a.name.app, Alias: a.name.alias, Used: a.used, Held: a.held,
		Limited: a.limited, Limit: a.limit, Policy: a.policy, Window: a.window, LastUsed: millis(a.touched),
	}
	if a.limited {
		l.ResetAt = a.window.End(millis(a.start))
	} else {
		l.Used = a.total
	}
	return l
}

// Allocations implements service.Ledger.
func (s *Store) Allocations(ctx context.Context, q service.AllocationQuery) ([]service.Allocation, error) {
	limit := service.QueryLimit(q.Limit)
	s.mu.RLock()
	defer s.mu.RUnlock()
	newest := slices.DeleteFunc(slices.Clone(s.state.ring), func(al *allocation) bool { return al == nil })
	slices.SortFunc(newest, func(a, b *allocation) int { return cmp.Compare(b.seq, a.seq) })
	found := make([]service.Allocation, 0, min(limit, len(newest)))
	for _, al := range newest[:min(limit, len(newest))] {
		v := service.Allocation{
			ID: al.id, Application: al.account.name.app, Alias: al.account.name.alias,
			Reserved: al.reserved, Charged: al.charged, State: al.state, Flags: al.flags,
			ReservedAt: millis(al.reservedAt), EndedAt: millis(al.endedAt),
		}
		if len(al.meta) > 0 {
			if err := json.Unmarshal(al.meta, &v.Metadata); err != nil {
				return nil, err
			}
		}
		found = append(found, v)
	}
	return found, ctx.Err()
}

// Counters implements service.Ledger.
func (s *Store) Counters() service.Counters {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.counted
	c.Queued, c.Held, c.Ledgers = len(s.queue), s.state.held.Len(), len(s.state.accounts)
	return c
}
