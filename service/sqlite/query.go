package sqlite

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// Find implements service.Ledger.
func (s *Store) Find(ctx context.Context, application, alias string) (service.LedgerState, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.state.Account(book.Name{App: application, Alias: alias})
	if a == nil || !a.Named {
		return service.LedgerState{}, false, ctx.Err()
	}
	return a.View(s.moment()), true, ctx.Err()
}

// moment is now; the caller holds mu.
func (s *Store) moment() *book.Moment { return book.MomentOf(s.state.Clock.Peek()) }

// Ledgers implements service.Ledger. The most recently used of all ledgers take time in proportion to the answer;
// everything else to the number of ledgers, of which it looks at a few thousand at a time.
func (s *Store) Ledgers(ctx context.Context, q service.LedgerQuery) (service.LedgerPage, error) {
	if q.Sort == service.SortRecent && q.Application == "" && q.Contains == "" {
		return s.recentLedgers(ctx, q)
	}
	found, err := s.findLedgers(ctx, q)
	if err != nil {
		return service.LedgerPage{}, err
	}
	slices.SortFunc(found, func(a, b foundLedger) int { return a.compare(&b, q.Sort) })
	page := service.LedgerPage{Total: len(found)}
	from := min(max(q.Offset, 0), len(found))
	for _, f := range found[from:min(from+service.QueryLimit(q.Limit), len(found))] {
		l, _, err := s.Find(ctx, f.account.Name.App, f.account.Name.Alias)
		if err != nil {
			return service.LedgerPage{}, err
		}
		page.Ledgers = append(page.Ledgers, l)
	}
	return page, nil
}

func (s *Store) recentLedgers(ctx context.Context, q service.LedgerQuery) (service.LedgerPage, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	page, skip, limit := service.LedgerPage{Total: s.state.Size}, q.Offset, service.QueryLimit(q.Limit)
	now := s.moment()
	for a := s.state.newest; a != nil && len(page.Ledgers) < limit; a = a.Older {
		if skip--; skip < 0 {
			page.Ledgers = append(page.Ledgers, a.View(now))
		}
	}
	return page, ctx.Err()
}

// foundLedger is an account with what it is sorted by.
type foundLedger struct {
	account *book.Account
	touched int64
	by      float64
}

func (f *foundLedger) compare(other *foundLedger, order service.LedgerSort) int {
	if order == service.SortAlias {
		return cmp.Or(strings.Compare(f.account.Name.Alias, other.account.Name.Alias), strings.Compare(f.account.Name.App, other.account.Name.App))
	}
	return cmp.Or(cmp.Compare(other.by, f.by), cmp.Compare(other.touched, f.touched), cmp.Compare(other.account.Num, f.account.Num))
}

// ledgersAtOnce is how many ledgers a query looks at before it lets the committer have the lock.
const ledgersAtOnce = 4096

// findLedgers returns the accounts that q selects, in no order.
func (s *Store) findLedgers(ctx context.Context, q service.LedgerQuery) (found []foundLedger, err error) {
	for from, more := 0, true; more && err == nil; from += ledgersAtOnce {
		s.mu.RLock()
		to := min(from+ledgersAtOnce, len(s.state.byNum))
		more = to < len(s.state.byNum)
		now := s.moment()
		for _, a := range s.state.byNum[min(from, to):to] {
			if a == nil || q.Application != "" && a.Name.App != q.Application || !strings.Contains(a.Name.Alias, q.Contains) {
				continue
			}
			found = append(found, foundLedger{a, a.Touched, sortKey(a, now, q.Sort)})
		}
		s.mu.RUnlock()
		err = ctx.Err()
	}
	return found, err
}

func sortKey(a *book.Account, now *book.Moment, order service.LedgerSort) float64 {
	switch order {
	case service.SortUsed, service.SortHeld, service.SortShare:
	default:
		return 0
	}
	l := a.View(now)
	switch order {
	case service.SortUsed:
		return float64(l.Used)
	case service.SortHeld:
		return float64(l.Held)
	default:
		return l.Share()
	}
}

// Allocations implements service.Ledger.
func (s *Store) Allocations(ctx context.Context, q service.AllocationQuery) ([]service.Allocation, error) {
	if q.Alias != "" {
		return s.allocationsOf(ctx, q)
	}
	limit := service.QueryLimit(q.Limit)
	s.mu.RLock()
	defer s.mu.RUnlock()
	newest := slices.DeleteFunc(slices.Clone(s.state.ring), func(al *book.Allocation) bool {
		return al == nil || q.Application != "" && al.Account.Name.App != q.Application
	})
	slices.SortFunc(newest, func(a, b *book.Allocation) int { return cmp.Compare(b.Seq, a.Seq) })
	found := make([]service.Allocation, 0, min(limit, len(newest)))
	for _, al := range newest[:min(limit, len(newest))] {
		v, err := al.View()
		if err != nil {
			return nil, err
		}
		found = append(found, v)
	}
	return found, ctx.Err()
}

// allocationsOf walks from the newest allocation of a ledger to those before it.
func (s *Store) allocationsOf(ctx context.Context, q service.AllocationQuery) ([]service.Allocation, error) {
	if err := s.foldNow(ctx); err != nil {
		return nil, err
	}
	s.mu.RLock()
	a := s.state.Account(book.Name{App: q.Application, Alias: q.Alias})
	last := uint64(0)
	if a != nil {
		last = a.Last
	}
	s.mu.RUnlock()
	if last == 0 {
		return nil, nil
	}
	rows, err := s.tables.others.QueryContext(ctx, `WITH RECURSIVE chain (seq, depth) AS (
		SELECT (SELECT last FROM ledgers WHERE num = ?1), 1
		UNION ALL SELECT a.prev, depth + 1 FROM chain JOIN allocations a ON a.seq = chain.seq WHERE depth < ?2 AND a.prev > 0)
		SELECT `+allocationColumns+` FROM chain JOIN allocations USING (seq) ORDER BY seq DESC`, a.Num, service.QueryLimit(q.Limit))
	if err != nil {
		return nil, err
	}
	var found []service.Allocation
	err = scanAllocations(rows, newScanner(false), func(coded *book.Coded) error {
		coded.Account = a
		v, err := coded.View()
		found = append(found, v)
		return err
	})
	return found, err
}

// Usage implements service.Ledger.
func (s *Store) Usage(ctx context.Context, q service.UsageQuery, yield func(service.Usage) error) error {
	if err := s.foldNow(ctx); err != nil {
		return err
	}
	length := time.Hour.Milliseconds()
	if q.Bucket == service.WindowDay {
		length *= 24
	}
	rows, err := s.tables.others.QueryContext(ctx, `SELECT u.at - u.at % ?1 AS bucket, l.app, l.alias,
			u.amount, u.requests, u.voided, u.expired, u.flagged
		FROM usage u JOIN ledgers l ON l.num = u.ledger
		WHERE u.at >= ?2 AND u.at < ?3 AND (?4 = '' OR l.app = ?4) AND (?5 = '' OR l.alias = ?5)
		ORDER BY bucket, l.app, l.alias`,
		length, q.From.UnixMilli()/length*length, (q.To.UnixMilli()+length-1)/length*length, q.Application, q.Alias)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	var sum service.Usage               // of the rows of one ledger and bucket, added here because SQLite's sum can overflow
	for rows.Next() {
		var u service.Usage
		var at int64
		if err := rows.Scan(&at, &u.Application, &u.Alias, &u.Amount, &u.Requests, &u.Voided, &u.Expired, &u.Flagged); err != nil {
			return err
		}
		u.At = time.UnixMilli(at).UTC()
		if sum.At.Equal(u.At) && sum.Application == u.Application && sum.Alias == u.Alias {
			sum.Add(&u)
			continue
		}
		if !sum.At.IsZero() {
			if err := yield(sum); err != nil {
				return err
			}
		}
		sum = u
	}
	if err := rows.Err(); err != nil || sum.At.IsZero() {
		return err
	}
	return yield(sum)
}

// Counters implements service.Ledger.
func (s *Store) Counters() service.Counters {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.counted
	c.Queued, c.Held, c.Ledgers = s.queue.Queued(), s.state.HeldCount(), s.state.Size
	return c
}
