package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// schema is usageflow.db, step by step; steps are only ever added. Amounts are millionths, times are
// Unix ms, states and flags are the numbers of package service; counters and detail are as in the journal.
var schema = []string{`
CREATE TABLE meta (
	folded INTEGER NOT NULL, -- the last journal row that these tables contain
	age    INTEGER NOT NULL, -- the clock's age then, in ns
	wall   INTEGER NOT NULL  -- and its wall time
);
INSERT INTO meta VALUES (0, 0, 0);
CREATE TABLE ledgers (
	num      INTEGER PRIMARY KEY,
	app      TEXT NOT NULL,
	alias    TEXT NOT NULL,
	held     INTEGER NOT NULL,
	total    INTEGER NOT NULL, -- charged since the ledger exists
	touched  INTEGER NOT NULL,
	epochs   INTEGER NOT NULL,
	last     INTEGER NOT NULL, -- allocations.seq of the newest
	counters BLOB NOT NULL
);
CREATE TABLE allocations (
	seq         INTEGER PRIMARY KEY, -- in the order of reservation
	key         BLOB NOT NULL,
	ledger      INTEGER NOT NULL,    -- ledgers.num
	id          TEXT NOT NULL,
	reserved    INTEGER NOT NULL,
	reserved_at INTEGER NOT NULL,
	age         INTEGER NOT NULL,
	prev        INTEGER NOT NULL,    -- seq of the ledger's allocation before
	detail      BLOB NOT NULL,       -- the first answer, and where the amount is held
	state       INTEGER NOT NULL,
	flags       INTEGER NOT NULL,
	charged     INTEGER NOT NULL,
	ended_at    INTEGER NOT NULL,
	meta        TEXT                 -- JSON
);
CREATE INDEX held ON allocations (seq) WHERE state = 0;
CREATE TABLE allocation_keys (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE usage (
	at       INTEGER NOT NULL, -- the beginning of the hour, later on of the day
	ledger   INTEGER NOT NULL,
	amount   INTEGER NOT NULL,
	requests INTEGER NOT NULL, -- settled, with an amount
	voided   INTEGER NOT NULL,
	expired  INTEGER NOT NULL,
	flagged  INTEGER NOT NULL, -- those of requests that were late or unreserved
	PRIMARY KEY (at, ledger)
) WITHOUT ROWID;
CREATE TABLE outbox (n INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL); -- settlements that exports have to see
CREATE TABLE exports (name TEXT PRIMARY KEY, delivered INTEGER NOT NULL) WITHOUT ROWID; -- outbox.n of the last one seen
CREATE TABLE document (version INTEGER NOT NULL, data BLOB NOT NULL); -- one row, or none
`}

const (
	ledgerColumns     = "num, app, alias, held, total, touched, epochs, last, counters"
	allocationColumns = "seq, key, ledger, id, reserved, reserved_at, age, prev, detail, state, flags, charged, ended_at, meta"
	usageColumns      = "at, ledger, amount, requests, voided, expired, flagged"
	addUsage          = ` ON CONFLICT (at, ledger) DO UPDATE SET
		amount = CASE WHEN amount > 9223372036854775807 - excluded.amount THEN 9223372036854775807 ELSE amount + excluded.amount END,
		requests = requests + excluded.requests, voided = voided + excluded.voided, expired = expired + excluded.expired, flagged = flagged + excluded.flagged`
	// rowsPerStatement is how many rows one INSERT carries, and how many keys one lookup asks for.
	rowsPerStatement = 32
)

// tables is usageflow.db: what was folded out of the journal. The folder writes, the committer looks
// allocations up; SQLite's WAL lets both go on at once.
type tables struct {
	db                           *sql.DB // the committer's and the folder's, so that nobody takes their connections
	others                       *sql.DB // for queries, backups, exports and the configuration
	lookupStmt                   *sql.Stmt
	ledgers, allocs, keys, usage inserter
	outbox                       inserter
	folded                       uint64 // read at open
	age                          time.Duration
	wall                         int64
	hasAllocs                    bool  // set at open and by the committer after a fold
	retired                      int64 // the retention has come to that allocation; the folder's
	merged                       int64 // usage before is by the day already, Unix ms; the folder's
	lookupArgs                   []any
}

func openTables(ctx context.Context, path string) (*tables, error) {
	db, err := openDB(path, "busy_timeout(5000)", "journal_mode(wal)", "synchronous(full)", "cache_size(-32768)", "temp_store(memory)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(2)
	others, err := openDB(path, "busy_timeout(5000)", "synchronous(full)", "temp_store(memory)")
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	others.SetMaxOpenConns(6)
	t := &tables{db: db, others: others}
	if err := t.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close(), others.Close())
	}
	return t, nil
}

func (t *tables) prepare(ctx context.Context) error {
	if err := migrate(ctx, t.db, schema, upgradeTables); err != nil {
		return err
	}
	if err := t.db.QueryRowContext(ctx, `SELECT folded, age, wall FROM meta`).Scan(&t.folded, &t.age, &t.wall); err != nil {
		return err
	}
	if err := t.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM allocations)`).Scan(&t.hasAllocs); err != nil {
		return err
	}
	var err error
	t.lookupStmt, err = t.db.PrepareContext(ctx, `SELECT a.`+strings.ReplaceAll(allocationColumns, ", ", ", a.")+`
		FROM allocation_keys k JOIN allocations a ON a.seq = k.seq WHERE k.key IN (?`+strings.Repeat(", ?", rowsPerStatement-1)+`)`)
	t.ledgers = inserter{into: "INSERT OR REPLACE INTO ledgers", columns: ledgerColumns}
	t.allocs = inserter{into: "INSERT OR REPLACE INTO allocations", columns: allocationColumns}
	t.keys = inserter{into: "INSERT OR REPLACE INTO allocation_keys", columns: "key, seq"}
	t.outbox = inserter{into: "INSERT INTO outbox", columns: "seq"}
	t.usage = inserter{into: "INSERT INTO usage", columns: usageColumns, conflict: addUsage}
	return err
}

// lookup reads the allocations of keys, as many of them as there are.
func (t *tables) lookup(ctx context.Context, keys []book.Key, found func(*book.Coded) error) error {
	for len(keys) > 0 {
		args := t.lookupArgs[:0]
		for i := range rowsPerStatement {
			args = append(args, keys[min(i, len(keys)-1)][:])
		}
		t.lookupArgs = args
		rows, err := t.lookupStmt.QueryContext(ctx, args...)
		if err != nil {
			return err
		}
		if err := scanAllocations(rows, newScanner(false), found); err != nil {
			return err
		}
		keys = keys[min(rowsPerStatement, len(keys)):]
	}
	return nil
}

func (t *tables) close() error {
	return errors.Join(t.lookupStmt.Close(), t.db.Close(), t.others.Close())
}

// inserter writes rows of one table, many to a statement.
type inserter struct {
	into, columns, conflict string
	args                    []any
}

// all writes n rows; row appends the values of the i-th.
func (in *inserter) all(ctx context.Context, tx *sql.Tx, n int, row func(args []any, i int) []any) error {
	width := strings.Count(in.columns, ",") + 1
	tuple := ", (?" + strings.Repeat(", ?", width-1) + ")"
	for from := 0; from < n; {
		size := 1
		if n-from >= rowsPerStatement {
			size = rowsPerStatement
		}
		stmt, err := tx.PrepareContext(ctx, in.into+" ("+in.columns+") VALUES "+strings.Repeat(tuple, size)[2:]+in.conflict)
		if err != nil {
			return err
		}
		for ; n-from >= size; from += size {
			args := in.args[:0]
			for i := from; i < from+size; i++ {
				args = row(args, i)
			}
			in.args = args
			if _, err := stmt.ExecContext(ctx, args...); err != nil {
				return errors.Join(err, stmt.Close())
			}
		}
		if err := stmt.Close(); err != nil {
			return err
		}
	}
	return nil
}

// fold writes j in one transaction.
func (t *tables) fold(ctx context.Context, j *foldJob) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	if err := t.ledgers.all(ctx, tx, len(j.accounts), func(args []any, i int) []any {
		a := &j.accounts[i]
		return append(args, a.Num, a.Name.App, a.Name.Alias, int64(a.sums.Held), int64(a.sums.Total), a.sums.Touched, a.sums.Epochs, int64(a.sums.Last), a.counters)
	}); err != nil {
		return err
	}
	if err := t.allocs.all(ctx, tx, len(j.allocs), func(args []any, i int) []any {
		return appendAllocationArgs(args, j.allocs[i].Allocation, &j.allocs[i].now)
	}); err != nil {
		return err
	}
	fresh := j.freshByKey()
	if err := t.keys.all(ctx, tx, len(fresh), func(args []any, i int) []any {
		return append(args, fresh[i].Key[:], int64(fresh[i].Seq))
	}); err != nil {
		return err
	}
	if err := t.foldUsage(ctx, tx, j); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE meta SET folded = ?, age = ?, wall = ?`, int64(j.seq), int64(j.age), j.wall); err != nil {
		return err
	}
	return tx.Commit()
}

// appendAllocationArgs appends the values of allocationColumns.
func appendAllocationArgs(args []any, al *book.Allocation, p *book.Progress) []any {
	var meta any
	if len(p.Meta) > 0 {
		meta = p.Meta
	}
	return append(args, int64(al.Seq), al.Key[:], al.Account.Num, al.ID, int64(al.Reserved), al.ReservedAt, int64(al.Age), int64(al.Prev), book.AppendDetail(nil, al),
		int64(p.State), int64(p.Flags), int64(p.Charged), p.EndedAt, meta)
}

// foldUsage adds what has ended to the hours in which it did, and to the outbox. A settlement is final, so it is
// in one job only that is committed.
func (t *tables) foldUsage(ctx context.Context, tx *sql.Tx, j *foldJob) error {
	var hours book.Hours
	for i := range j.allocs {
		hours.Add(j.allocs[i].Allocation, &j.allocs[i].now)
	}
	if err := t.usage.all(ctx, tx, len(hours.List), func(args []any, i int) []any {
		u := &hours.List[i]
		return append(args, u.Hour, u.Account.Num, int64(u.Amount), int64(u.Requests), int64(u.Voided), int64(u.Expired), int64(u.Flagged))
	}); err != nil {
		return err
	}
	var exporting bool
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM exports)`).Scan(&exporting); err != nil || !exporting {
		return err
	}
	return t.outbox.all(ctx, tx, len(hours.Settled), func(args []any, i int) []any { return append(args, int64(hours.Settled[i])) })
}
