package postgres

import (
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

type pgCommandTag = pgconn.CommandTag

// column is an array that a statement takes.
func column[T, R any](rows []R, value func(R) T) []T {
	values := make([]T, len(rows))
	for i, row := range rows {
		values[i] = value(row)
	}
	return values
}

func ledgerArrays(b *book.Batch) []any {
	rows := column(b.Accounts, func(saved book.SavedAccount) *book.Account { return saved.Account })
	type sorted struct {
		used, held, resets int64
		share              float64
	}
	now := column(rows, func(a *book.Account) sorted {
		l := a.View(&b.Moment)
		s := sorted{used: int64(l.Used), held: int64(l.Held), share: l.Share()}
		if l.Limited {
			s.resets = l.ResetAt.UnixMilli()
		}
		return s
	})
	return []any{
		column(rows, func(a *book.Account) int64 { return int64(a.Num) }),
		column(rows, func(a *book.Account) [16]byte { return a.Name.Key() }),
		column(rows, func(a *book.Account) string { return a.Name.App }),
		column(rows, func(a *book.Account) string { return a.Name.Alias }),
		column(rows, func(a *book.Account) int64 { return int64(a.Held) }),
		column(rows, func(a *book.Account) int64 { return int64(a.Total) }),
		column(rows, func(a *book.Account) int64 { return a.Touched }),
		column(rows, func(a *book.Account) int64 { return int64(a.Epochs) }),
		column(rows, func(a *book.Account) int64 { return int64(a.Last) }),
		column(rows, func(a *book.Account) []byte { return book.AppendCounters(nil, a.Counters) }),
		column(now, func(s sorted) int64 { return s.used }),
		column(now, func(s sorted) int64 { return s.held }),
		column(now, func(s sorted) float64 { return s.share }),
		column(now, func(s sorted) int64 { return s.resets }),
	}
}

// allocationArrays are the columns of what is new and of what has changed.
func allocationArrays(b *book.Batch) (fresh, old []any) {
	var added, changed []*book.Allocation
	for i := range b.Allocations {
		if b.Allocations[i].IsNew {
			added = append(added, b.Allocations[i].Allocation)
		} else {
			changed = append(changed, b.Allocations[i].Allocation)
		}
	}
	seq := func(al *book.Allocation) int64 { return int64(al.Seq) }
	progress := func(rows []*book.Allocation) []any {
		return []any{
			column(rows, func(al *book.Allocation) int16 { return int16(al.State) }),
			column(rows, func(al *book.Allocation) int16 { return int16(al.Flags) }),
			column(rows, func(al *book.Allocation) int64 { return int64(al.Charged) }),
			column(rows, func(al *book.Allocation) int64 { return al.EndedAt }),
			column(rows, func(al *book.Allocation) string { return al.Meta }),
		}
	}
	if len(added) > 0 {
		fresh = append([]any{
			column(added, seq),
			column(added, func(al *book.Allocation) [16]byte { return al.Key }),
			column(added, func(al *book.Allocation) int64 { return int64(al.Account.Num) }),
			column(added, func(al *book.Allocation) string { return al.ID }),
			column(added, func(al *book.Allocation) int64 { return int64(al.Reserved) }),
			column(added, func(al *book.Allocation) int64 { return al.ReservedAt }),
			column(added, func(al *book.Allocation) int64 { return al.Age.Microseconds() }),
			column(added, func(al *book.Allocation) int64 { return int64(al.Prev) }),
			column(added, func(al *book.Allocation) []byte { return book.AppendDetail(nil, al) }),
			column(added, heldIn),
		}, progress(added)...)
	}
	if len(changed) > 0 {
		old = append([]any{column(changed, seq)}, progress(changed)...)
	}
	return fresh, old
}

// heldIn is the numbers of the other ledgers in which al is held.
func heldIn(al *book.Allocation) string {
	var text []byte
	for _, h := range al.Holds() {
		if h.Account != al.Account {
			if len(text) > 0 {
				text = append(text, ' ')
			}
			text = strconv.AppendUint(text, uint64(h.Account.Num), 10)
		}
	}
	return string(text)
}

func usageArrays(hours []book.HourUsage) []any {
	return []any{
		column(hours, func(h book.HourUsage) int64 { return h.Hour }),
		column(hours, func(h book.HourUsage) int64 { return int64(h.Account.Num) }),
		column(hours, func(h book.HourUsage) int64 { return int64(h.Amount) }),
		column(hours, func(h book.HourUsage) int64 { return int64(h.Requests) }),
		column(hours, func(h book.HourUsage) int64 { return int64(h.Voided) }),
		column(hours, func(h book.HourUsage) int64 { return int64(h.Expired) }),
		column(hours, func(h book.HourUsage) int64 { return int64(h.Flagged) }),
	}
}
