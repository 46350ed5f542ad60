package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// size returns about how many ledgers there are, and how many allocations are held.
func (t *tables) size(ctx context.Context) (ledgers, held int, err error) {
	err = t.db.QueryRowContext(ctx, `SELECT (SELECT coalesce(max(num), 0) FROM ledgers), (SELECT count(*) FROM allocations WHERE state = 0)`).Scan(&ledgers, &held)
	return ledgers, held, err
}

// load calls ledger for each account, then allocation for each held or recent allocation: those that are held first,
// the oldest of them before all.
func (t *tables) load(ctx context.Context, ledger func(*book.Account), allocation func(*book.Coded) error) error {
	if err := t.loadLedgers(ctx, ledger); err != nil {
		return err
	}
	// Two statements, because each has an index of its own: with an OR between them SQLite reads the whole table.
	for _, where := range []string{
		`state = 0`,
		`state <> 0 AND seq > (SELECT coalesce(max(seq), 0) FROM allocations) - ` + fmt.Sprint(ringSize),
	} {
		rows, err := t.db.QueryContext(ctx, `SELECT `+allocationColumns+` FROM allocations WHERE `+where+` ORDER BY seq`)
		if err != nil {
			return err
		}
		if err := scanAllocations(rows, allocation); err != nil {
			return err
		}
	}
	return nil
}

func (t *tables) loadLedgers(ctx context.Context, ledger func(*book.Account)) error {
	rows, err := t.db.QueryContext(ctx, `SELECT `+ledgerColumns+` FROM ledgers`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	var (
		num, held, total, touched, epochs, last int64
		app, alias                              string
		counters                                sql.RawBytes
	)
	columns := []any{&num, &app, &alias, &held, &total, &touched, &epochs, &last, &counters}
	seen := map[string]string{} // one copy of the texts that many ledgers share
	for rows.Next() {
		if err := rows.Scan(columns...); err != nil {
			return err
		}
		d := book.NewDecoder(counters)
		a := &book.Account{Num: uint32(num), Name: book.Name{App: book.Share(seen, app), Alias: alias}, Counters: d.Counters(seen)}
		if !d.Done() {
			return fmt.Errorf("ledger %d: its counters are damaged", num)
		}
		a.Sums = book.Sums{Held: service.Micros(held), Total: service.Micros(total), Touched: touched, Epochs: uint32(epochs), Last: uint64(last)}
		a.Named = true
		ledger(a)
	}
	return rows.Err()
}

// scanAllocations reads and closes rows. What found gets is read over by the next, but for the allocation itself.
func scanAllocations(rows *sql.Rows, found func(*book.Coded) error) error {
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	var s allocationScanner
	for rows.Next() {
		al, err := s.scan(rows)
		if err != nil {
			return err
		}
		if err := found(al); err != nil {
			return err
		}
	}
	return rows.Err()
}

// allocationScanner reads rows of allocationColumns, with those that come before them into before.
type allocationScanner struct {
	before []any

	columns                                                                   []any
	seq, num, reserved, reservedAt, age, prev, state, flags, charged, endedAt int64
	id                                                                        string
	key, detail, meta                                                         sql.RawBytes
	coded                                                                     book.Coded
	policies                                                                  map[string]string
}

// scan reads one row. What it returns is valid until the next, but for the allocation itself.
func (s *allocationScanner) scan(rows *sql.Rows) (*book.Coded, error) {
	if s.columns == nil {
		s.columns = append(s.before, &s.seq, &s.key, &s.num, &s.id, &s.reserved, &s.reservedAt, &s.age, &s.prev, &s.detail,
			&s.state, &s.flags, &s.charged, &s.endedAt, &s.meta)
		s.policies = map[string]string{}
	}
	if err := rows.Scan(s.columns...); err != nil {
		return nil, err
	}
	al := &book.Allocation{
		Seq: uint64(s.seq), ID: s.id, Reserved: service.Micros(s.reserved), ReservedAt: s.reservedAt, Age: time.Duration(s.age), Prev: uint64(s.prev), InTables: true,
		Progress: book.Progress{
			State: service.State(s.state), Flags: service.Flag(s.flags), Charged: service.Micros(s.charged), EndedAt: s.endedAt, Meta: string(s.meta),
		},
	}
	s.coded = book.Coded{Allocation: al, Num: uint32(s.num), Holds: s.coded.Holds[:0]}
	d := book.NewDecoder(s.detail)
	d.Detail(&s.coded, s.policies)
	if copy(al.Key[:], s.key) != len(al.Key) || len(s.key) != len(al.Key) || !d.Done() {
		return nil, fmt.Errorf("allocation %d is damaged", al.Seq)
	}
	return &s.coded, nil
}
