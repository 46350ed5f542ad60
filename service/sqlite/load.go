package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// extent is the numbers that a table's rows have.
type extent struct{ first, last int64 }

// extents returns those of the ledgers and of the allocations that are held, and how many the latter are.
func (t *tables) extents(ctx context.Context) (ledgers, held extent, n int, err error) {
	err = t.db.QueryRowContext(ctx, `SELECT coalesce(min(num), 0), coalesce(max(num), 0) FROM ledgers`).Scan(&ledgers.first, &ledgers.last)
	if err != nil {
		return ledgers, held, 0, err
	}
	err = t.db.QueryRowContext(ctx, `SELECT coalesce(min(seq), 0), coalesce(max(seq), 0), count(*) FROM allocations WHERE state = 0`).Scan(&held.first, &held.last, &n)
	return ledgers, held, n, err
}

// loaders is how many connections read at the start, each a part of the table.
const loaders = 4

// inParts calls read with each of the parts of e, all at the same time.
func (e extent) inParts(read func(part int, e extent) error) error {
	var errs [loaders]error
	var wg sync.WaitGroup
	size := (e.last-e.first)/loaders + 1
	for part := range loaders {
		first := e.first + int64(part)*size
		wg.Go(func() { errs[part] = read(part, extent{first, first + size - 1}) })
	}
	wg.Wait()
	return errors.Join(errs[:]...)
}

// load reads the tables into s.state: all accounts, the allocations that are held and the most recent ones.
func (s *Store) load(ctx context.Context) error {
	ledgers, held, n, err := s.tables.extents(ctx)
	if err != nil {
		return err
	}
	s.state = newState(min(int(ledgers.last), s.opts.MaxLedgers), n, &s.opts)
	if err := s.loadAccounts(ctx, ledgers); err != nil {
		return err
	}
	if err := s.loadAllocations(ctx, held); err != nil {
		return err
	}
	return s.tables.loadRecent(ctx, s.restoreAllocation)
}

func (s *Store) loadAccounts(ctx context.Context, all extent) error {
	var mu sync.Mutex // guards s.state
	return all.inParts(func(_ int, e extent) error {
		return s.tables.loadLedgers(ctx, e, func(a *book.Account) {
			mu.Lock()
			defer mu.Unlock()
			s.restoreAccount(a)
		})
	})
}

// loadAllocations reads those that are held. The accounts do not change meanwhile.
func (s *Store) loadAllocations(ctx context.Context, all extent) error {
	var mu sync.Mutex // guards the book's allocations
	var parts [loaders][]*book.Allocation
	if err := all.inParts(func(part int, e extent) error {
		return s.tables.loadHeld(ctx, e, func(coded *book.Coded) error {
			al, err := coded.Link(s.state.account)
			if err != nil {
				return err
			}
			parts[part] = append(parts[part], al)
			mu.Lock()
			defer mu.Unlock()
			s.state.AddAllocation(al)
			return nil
		})
	}); err != nil {
		return err
	}
	for _, part := range parts { // the oldest first
		for _, al := range part {
			s.restorePlace(al)
		}
	}
	return nil
}

// loadLedgers calls ledger with each account of e.
func (t *tables) loadLedgers(ctx context.Context, e extent, ledger func(*book.Account)) error {
	rows, err := t.others.QueryContext(ctx, `SELECT `+ledgerColumns+` FROM ledgers WHERE num BETWEEN ? AND ?`, e.first, e.last)
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

// loadHeld calls found with each allocation of e that is held, the oldest first.
func (t *tables) loadHeld(ctx context.Context, e extent, found func(*book.Coded) error) error {
	columns := strings.Replace(allocationColumns, endColumns+", ", "", 1) // as many are 0, and each takes its time
	rows, err := t.others.QueryContext(ctx, `SELECT `+columns+` FROM allocations WHERE state = 0 AND seq BETWEEN ? AND ? ORDER BY seq`, e.first, e.last)
	if err != nil {
		return err
	}
	return scanAllocations(rows, newScanner(true), found)
}

// loadRecent calls found with the newest allocations that are over. It is a statement of its own because those that
// are held have an index: with an OR between them SQLite reads the whole table.
func (t *tables) loadRecent(ctx context.Context, found func(*book.Coded) error) error {
	rows, err := t.others.QueryContext(ctx, `SELECT `+allocationColumns+` FROM allocations
		WHERE state <> 0 AND seq > (SELECT coalesce(max(seq), 0) FROM allocations) - ? ORDER BY seq`, ringSize)
	if err != nil {
		return err
	}
	return scanAllocations(rows, newScanner(false), found)
}

// scanAllocations reads and closes rows. What found gets is valid until it returns, but for the allocation itself.
func scanAllocations(rows *sql.Rows, s *allocationScanner, found func(*book.Coded) error) error {
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
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

// endColumns are those of allocationColumns that are 0 while an allocation is held.
const endColumns = "state, flags, charged, ended_at"

// allocationScanner reads rows of allocations, each over the one before.
type allocationScanner struct {
	columns []any // what a row is read into

	seq, num, reserved, reservedAt, age, prev, state, flags, charged, endedAt int64

	id                string
	key, detail, meta sql.RawBytes
	coded             book.Coded
	policies          map[string]string // one copy of each
}

// newScanner returns a scanner of allocationColumns, without endColumns where held is set, that come after before.
func newScanner(held bool, before ...any) *allocationScanner {
	s := &allocationScanner{columns: before, policies: map[string]string{}}
	s.columns = append(s.columns, &s.seq, &s.key, &s.num, &s.id, &s.reserved, &s.reservedAt, &s.age, &s.prev, &s.detail)
	if !held {
		s.columns = append(s.columns, &s.state, &s.flags, &s.charged, &s.endedAt)
	}
	s.columns = append(s.columns, &s.meta)
	return s
}

// scan reads one row. What it returns is valid until the next, but for the allocation itself.
func (s *allocationScanner) scan(rows *sql.Rows) (*book.Coded, error) {
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
	if len(s.key) != len(al.Key) || !d.Done() {
		return nil, fmt.Errorf("allocation %d is damaged", al.Seq)
	}
	copy(al.Key[:], s.key)
	return &s.coded, nil
}
