package postgres

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/internal/intake"
)

// expireAtOnce bounds the allocations that one transaction expires.
const expireAtOnce = 4096

// neverSwept is less than any age.
const neverSwept = -1

const (
	ledgerColumns     = "num, app, alias, held, total, touched, epochs, last, counters"
	allocationColumns = "seq, key, ledger, id, reserved, reserved_at, age, prev, detail, state, flags, charged, ended_at, meta"
)

// pages are what one transaction has read: the book of the ledgers and allocations that it needs.
type pages struct {
	book      *book.Book
	byNum     map[uint32]*book.Account
	held      int64 // how many allocations are held, in the book or not
	swept     int64 // no allocation of that age or less will be held, µs
	exporting bool  // there are exports, which want to see settlements
}

// nowParam is the time for the database, NULL where it has its own.
func (s *Store) nowParam() *int64 {
	if s.opts.Now == nil {
		return nil
	}
	now := s.opts.Now().UnixMicro()
	return &now
}

// The database's clock in Unix µs, or the one that is given as $1.
const nowSQL = `coalesce($1::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)`

// beganSQL is the same at the beginning of the transaction.
const beganSQL = `coalesce($1::bigint, (extract(epoch FROM transaction_timestamp()) * 1000000)::bigint)`

const (
	lockSQL  = `SELECT 1 FROM usageflow.clock FOR UPDATE`
	clockSQL = `SELECT age, wall, next_seq, next_ledger, ledgers, held, ` + nowSQL + `, EXISTS (SELECT 1 FROM usageflow.exports) FROM usageflow.clock`
	// Plans are made once, perhaps of tables that are empty, and must do for large ones: every row is found by an index, what
	// is joined is hashed, and no process or compiler is started, which takes longer than the statements do.
	// A statement that nobody waits for any more ends, and lets go of the lock.
	plansSQL = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
		set_config('enable_nestloop', 'off', true), set_config('enable_mergejoin', 'off', true),
		set_config('max_parallel_workers_per_gather', '0', true), set_config('jit', 'off', true),
		set_config('plan_cache_mode', 'force_generic_plan', true), set_config('statement_timeout', $1, true)`
	// The $3 oldest of the allocations that have been held for the time $2 when the transaction began: for both statements the same. Where the sweep
	// has been, the index is full of entries of what is held no more, until a vacuum.
	expiredSQL = `FROM usageflow.allocations WHERE state = 0 AND age > (SELECT swept FROM usageflow.clock) AND age <= (SELECT age + greatest(0, ` + beganSQL + ` - wall) FROM usageflow.clock) - $2
		ORDER BY age, seq LIMIT $3`
	// A ledger comes twice that is both named and held in. The array keeps this from being a join, of which the planner may begin with all ledgers.
	ledgersSQL = `SELECT ` + ledgerColumns + ` FROM usageflow.ledgers WHERE name = ANY ($5)
		UNION ALL SELECT ` + ledgerColumns + ` FROM usageflow.ledgers WHERE num = ANY (ARRAY(
			SELECT unnest(ledger || held_in) FROM usageflow.allocations WHERE key = ANY ($4)
			UNION SELECT unnest(ledger || held_in) FROM (SELECT ledger, held_in ` + expiredSQL + `) AS expired))`
	// An allocation comes twice that is both named and expired.
	allocationsSQL = `SELECT ` + allocationColumns + ` FROM usageflow.allocations WHERE key = ANY ($4)
		UNION ALL (SELECT ` + allocationColumns + ` ` + expiredSQL + `)`
)

// read begins the transaction, in which it takes the lock, and reads what ops need.
func (s *Store) read(ctx context.Context, conn *pgxpool.Conn, ops []*intake.Operation) (*pages, error) {
	names, keys := [][16]byte{}, [][16]byte{} // not nil, which is NULL
	seen := make(map[book.Name]bool, len(ops))
	for _, op := range ops {
		op.Names(func(n book.Name) {
			if !seen[n] {
				seen[n] = true
				names = append(names, n.Key())
			}
		})
		if !op.IsSweep() {
			keys = append(keys, op.Key)
		}
	}
	p := &pages{book: book.New(len(names), len(keys)), byNum: make(map[uint32]*book.Account, len(names))}
	p.book.HoldTime, p.book.MaxAccounts = s.opts.HoldTime, s.opts.MaxLedgers
	hold := s.opts.HoldTime.Microseconds()
	var batch pgx.Batch
	batch.Queue(`BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`) // each statement sees what was committed before the lock was had
	batch.Queue(plansSQL, strconv.FormatInt(s.opts.Timeout.Milliseconds(), 10))
	batch.Queue(lockSQL)
	now := s.nowParam()
	batch.Queue(clockSQL, now).QueryRow(p.readClock)
	batch.Queue(ledgersSQL, now, hold, expireAtOnce, keys, names).Query(func(rows pgx.Rows) error { return p.readLedgers(rows) })
	batch.Queue(allocationsSQL, now, hold, expireAtOnce, keys).Query(func(rows pgx.Rows) error { return p.readAllocations(rows) })
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *pages) readClock(row pgx.Row) error {
	var age, wall, nextSeq, nextLedger, ledgers, now int64
	if err := row.Scan(&age, &wall, &nextSeq, &nextLedger, &ledgers, &p.held, &now, &p.exporting); err != nil {
		return err
	}
	p.book.Clock = book.Clock{Now: func() time.Time { return time.UnixMicro(now) }, Age: time.Duration(age) * time.Microsecond}
	if wall > 0 {
		p.book.Clock.Last = time.UnixMicro(wall)
	}
	p.book.NextSeq, p.book.NextNum, p.book.Size = uint64(nextSeq), uint32(nextLedger), int(ledgers)
	p.swept = age - p.book.HoldTime.Microseconds() - 1 // what is read reaches that far, wherever the wall clock is by then
	return nil
}

func (p *pages) readLedgers(rows pgx.Rows) error {
	for rows.Next() {
		a, err := scanLedger(rows)
		if err != nil {
			return err
		}
		if p.byNum[a.Num] == nil {
			p.book.AddAccount(a)
			p.byNum[a.Num] = a
		}
	}
	return rows.Err()
}

func scanLedger(row pgx.Row) (*book.Account, error) {
	a := &book.Account{}
	var counters []byte
	if err := row.Scan(&a.Num, &a.Name.App, &a.Name.Alias, &a.Held, &a.Total, &a.Touched, &a.Epochs, &a.Last, &counters); err != nil {
		return nil, err
	}
	d := book.NewDecoder(counters)
	if a.Counters = d.Counters(nil); !d.Done() {
		return nil, fmt.Errorf("ledger %d: its counters are damaged", a.Num)
	}
	return a, nil
}

func (p *pages) readAllocations(rows pgx.Rows) error {
	var held []*book.Allocation
	n := 0
	for ; rows.Next(); n++ {
		coded, err := scanAllocation(rows)
		if err != nil {
			return err
		}
		if p.book.Allocation(coded.Key) != nil {
			continue
		}
		al, err := coded.Link(func(num uint32) *book.Account { return p.byNum[num] })
		if err != nil {
			return err
		}
		p.book.AddAllocation(al)
		if al.State == service.StateHeld {
			held = append(held, al)
		}
	}
	if n >= expireAtOnce { // there may be more
		p.swept = neverSwept
	}
	// The oldest first: what expires is looked for from there.
	slices.SortFunc(held, func(a, b *book.Allocation) int { return cmp.Or(cmp.Compare(a.Age, b.Age), cmp.Compare(a.Seq, b.Seq)) })
	for _, al := range held {
		p.book.Place(al, al.State)
	}
	return rows.Err()
}

func scanAllocation(row pgx.Row) (*book.Coded, error) {
	al := book.NewCoded()
	var detail []byte
	var age int64
	var key [16]byte
	var meta *string
	if err := row.Scan(&al.Seq, &key, &al.Num, &al.ID, &al.Reserved, &al.ReservedAt, &age, &al.Prev, &detail,
		&al.State, &al.Flags, &al.Charged, &al.EndedAt, &meta); err != nil {
		return nil, err
	}
	al.Key, al.Age = key, time.Duration(age)*time.Microsecond
	if meta != nil {
		al.Meta = *meta
	}
	d := book.NewDecoder(detail)
	if d.Detail(al, nil); !d.Done() {
		return nil, fmt.Errorf("allocation %d is damaged", al.Seq)
	}
	return al, nil
}

const (
	writeLedgersSQL = `INSERT INTO usageflow.ledgers AS l
		SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[],
			$11::bigint[], $12::bigint[], $13::double precision[], $14::bigint[])
		ON CONFLICT (num) DO UPDATE SET held = excluded.held, total = excluded.total, touched = excluded.touched, epochs = excluded.epochs, last = excluded.last,
			counters = excluded.counters, used_now = excluded.used_now, held_now = excluded.held_now, share_now = excluded.share_now, resets_at = excluded.resets_at`
	newAllocationsSQL = `INSERT INTO usageflow.allocations
		SELECT seq, key, ledger, id, reserved, reserved_at, age, prev, detail, CASE WHEN held_in = '' THEN NULL ELSE string_to_array(held_in, ' ')::bigint[] END,
			state, flags, charged, ended_at, nullif(meta, '')
		FROM unnest($1::bigint[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[],
			$10::text[], $11::smallint[], $12::smallint[], $13::bigint[], $14::bigint[], $15::text[])
			AS new (seq, key, ledger, id, reserved, reserved_at, age, prev, detail, held_in, state, flags, charged, ended_at, meta)`
	oldAllocationsSQL = `UPDATE usageflow.allocations AS a SET state = new.state, flags = new.flags, charged = new.charged, ended_at = new.ended_at, meta = nullif(new.meta, '')
		FROM unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::bigint[], $5::bigint[], $6::text[]) AS new (seq, state, flags, charged, ended_at, meta)
		WHERE a.seq = ANY ($1) AND a.seq = new.seq`
	usageSQL = `INSERT INTO usageflow.usage AS u SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])` + addUsageSQL
	// addUsageSQL adds a row to the one that is there; a sum goes up to what a bigint can be.
	addUsageSQL = ` ON CONFLICT (at, ledger) DO UPDATE SET amount = least(9223372036854775807, u.amount::numeric + excluded.amount)::bigint,
		requests = u.requests + excluded.requests, voided = u.voided + excluded.voided, expired = u.expired + excluded.expired, flagged = u.flagged + excluded.flagged`
	outboxSQL   = `INSERT INTO usageflow.outbox (seq) SELECT seq FROM unnest($1::bigint[]) WITH ORDINALITY AS new (seq, n) ORDER BY n`
	setClockSQL = `UPDATE usageflow.clock SET age = $1, wall = $2, next_seq = $3, next_ledger = $4, ledgers = $5, held = $6, swept = greatest(swept, $7)`
)

// write writes what b has changed and commits.
func (p *pages) write(ctx context.Context, conn *pgxpool.Conn, b *book.Batch) error {
	var batch pgx.Batch
	if len(b.Accounts) > 0 {
		batch.Queue(writeLedgersSQL, ledgerArrays(b)...)
	}
	fresh, old := allocationArrays(b)
	if fresh != nil {
		batch.Queue(newAllocationsSQL, fresh...)
	}
	if old != nil {
		batch.Queue(oldAllocationsSQL, old...)
	}
	hours, settled := b.Usage()
	if len(hours) > 0 {
		batch.Queue(usageSQL, usageArrays(hours)...)
	}
	if p.exporting && len(settled) > 0 {
		batch.Queue(outboxSQL, settled)
	}
	// Also where nothing else has changed: the time until now has passed.
	batch.Queue(setClockSQL, p.book.Clock.Age.Microseconds(), p.book.Clock.Last.UnixMicro(), int64(p.book.NextSeq), int64(p.book.NextNum), int64(p.book.Size), p.held, p.swept)
	var tag string
	batch.Queue(`COMMIT`).Exec(func(ct pgCommandTag) error {
		tag = ct.String()
		return nil
	})
	if err := conn.SendBatch(ctx, &batch).Close(); err != nil {
		return err
	}
	if tag != "COMMIT" { // a failed transaction's COMMIT is a ROLLBACK, and no error
		return errors.New("the transaction was rolled back")
	}
	return nil
}
