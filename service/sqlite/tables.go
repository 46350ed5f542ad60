package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"
)

// schema is usageflow.db, step by step; steps are only ever added. Amounts are millionths, times are
// Unix ms, states, flags and windows are the numbers of package service.
var schema = []string{`
CREATE TABLE meta (
	folded INTEGER NOT NULL, -- the last journal row that these tables contain
	age    INTEGER NOT NULL, -- the clock's age then, in ns
	wall   INTEGER NOT NULL  -- and its wall time
);
INSERT INTO meta VALUES (0, 0, 0);
CREATE TABLE ledgers (
	num     INTEGER PRIMARY KEY,
	app     TEXT NOT NULL,
	alias   TEXT NOT NULL,
	limited INTEGER NOT NULL,
	max     INTEGER NOT NULL, -- the limit
	policy  TEXT NOT NULL,
	win     INTEGER NOT NULL,
	start   INTEGER NOT NULL, -- of the window
	epoch   INTEGER NOT NULL,
	used    INTEGER NOT NULL,
	held    INTEGER NOT NULL,
	total   INTEGER NOT NULL, -- charged since the ledger exists
	touched INTEGER NOT NULL
);
CREATE TABLE allocations (
	seq         INTEGER PRIMARY KEY, -- in the order of reservation
	key         BLOB NOT NULL,
	ledger      INTEGER NOT NULL,    -- ledgers.num
	id          TEXT NOT NULL,
	reserved    INTEGER NOT NULL,
	limited     INTEGER NOT NULL,
	max         INTEGER NOT NULL,
	remaining   INTEGER NOT NULL,
	win         INTEGER NOT NULL,
	start       INTEGER NOT NULL,
	epoch       INTEGER NOT NULL,
	reserved_at INTEGER NOT NULL,
	age         INTEGER NOT NULL,
	state       INTEGER NOT NULL,
	flags       INTEGER NOT NULL,
	charged     INTEGER NOT NULL,
	ended_at    INTEGER NOT NULL,
	meta        TEXT                 -- JSON
);
CREATE INDEX held ON allocations (seq) WHERE state = 0;
CREATE TABLE allocation_keys (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
`,
	`CREATE TABLE document (version INTEGER NOT NULL, data BLOB NOT NULL)`, // one row, or none
}

const (
	ledgerColumns     = "num, app, alias, limited, max, policy, win, start, epoch, used, held, total, touched"
	allocationColumns = "seq, key, ledger, id, reserved, limited, max, remaining, win, start, epoch, reserved_at, age, state, flags, charged, ended_at, meta"
	// rowsPerStatement is how many rows one INSERT carries, and how many keys one lookup asks for.
	rowsPerStatement = 32
)

// tables is usageflow.db: what was folded out of the journal. The folder writes, the committer looks
// allocations up; SQLite's WAL lets both go on at once.
type tables struct {
	db                    *sql.DB
	lookupStmt            *sql.Stmt
	ledgers, allocs, keys inserter
	folded                uint64 // read at open
	age                   time.Duration
	wall                  int64
	hasAllocs             bool // set at open and by the committer after a fold
	lookupArgs            []any
}

func openTables(ctx context.Context, path string) (*tables, error) {
	db, err := openDB(path, "busy_timeout(5000)", "journal_mode(wal)", "synchronous(full)", "cache_size(-32768)", "temp_store(memory)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(4) // the folder's, the committer's, a backup's and the configuration's
	db.SetMaxIdleConns(2)
	t := &tables{db: db}
	if err := t.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), db.Close())
	}
	return t, nil
}

func (t *tables) prepare(ctx context.Context) error {
	if err := migrate(ctx, t.db, schema); err != nil {
		return err
	}
	if err := t.db.QueryRowContext(ctx, `SELECT folded, age, wall FROM meta`).Scan(&t.folded, &t.age, &t.wall); err != nil {
		return err
	}
	if err := t.db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM allocations)`).Scan(&t.hasAllocs); err != nil {
		return err
	}
	var err error
	t.lookupStmt, err = t.db.PrepareContext(ctx, `SELECT a.seq, a.key, a.ledger, a.id, a.reserved, a.limited, a.max, a.remaining, a.win, a.start, a.epoch,
		a.reserved_at, a.age, a.state, a.flags, a.charged, a.ended_at, a.meta
		FROM allocation_keys k JOIN allocations a ON a.seq = k.seq WHERE k.key IN (?`+strings.Repeat(", ?", rowsPerStatement-1)+`)`)
	t.ledgers = inserter{table: "ledgers", columns: ledgerColumns}
	t.allocs = inserter{table: "allocations", columns: allocationColumns}
	t.keys = inserter{table: "allocation_keys", columns: "key, seq"}
	return err
}

// size returns about how many ledgers there are.
func (t *tables) size(ctx context.Context) (n int, err error) {
	err = t.db.QueryRowContext(ctx, `SELECT coalesce(max(num), 0) FROM ledgers`).Scan(&n)
	return n, err
}

// load calls ledger for each account and allocation for each held or recent allocation, the oldest
// first; num is the allocation's account.
func (t *tables) load(ctx context.Context, ledger func(*account), allocation func(al *allocation, num uint32) error) error {
	rows, err := t.db.QueryContext(ctx, `SELECT `+ledgerColumns+` FROM ledgers`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	seen := map[string]string{}         // one copy of the texts that many ledgers share
	for rows.Next() {
		a := &account{named: true}
		c := &a.counters
		if err := rows.Scan(&a.num, &a.name.app, &a.name.alias, &c.limited, &c.limit, &c.policy, &c.window, &c.start, &c.epoch, &c.used, &c.held, &c.total, &c.touched); err != nil {
			return err
		}
		a.name.app, c.policy = share(seen, a.name.app), share(seen, c.policy)
		ledger(a)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	found, err := t.db.QueryContext(ctx, `SELECT `+allocationColumns+` FROM allocations
		WHERE state = 0 OR seq > (SELECT coalesce(max(seq), 0) FROM allocations) - ? ORDER BY seq`, ringSize)
	if err != nil {
		return err
	}
	return scanAllocations(found, allocation)
}

func share(seen map[string]string, text string) string {
	if known, ok := seen[text]; ok {
		return known
	}
	seen[text] = text
	return text
}

// lookup reads the allocations of keys, as many of them as there are.
func (t *tables) lookup(ctx context.Context, keys []allocKey, found func(al *allocation, num uint32) error) error {
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
		if err := scanAllocations(rows, found); err != nil {
			return err
		}
		keys = keys[min(rowsPerStatement, len(keys)):]
	}
	return nil
}

// scanAllocations reads and closes rows.
func scanAllocations(rows *sql.Rows, found func(al *allocation, num uint32) error) error {
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	for rows.Next() {
		al := &allocation{}
		var num uint32
		var key []byte
		if err := rows.Scan(&al.seq, &key, &num, &al.id, &al.reserved, &al.limited, &al.limit, &al.remaining, &al.window, &al.start, &al.epoch,
			&al.reservedAt, &al.age, &al.state, &al.flags, &al.charged, &al.endedAt, &al.meta); err != nil {
			return err
		}
		if len(key) != len(al.key) {
			return fmt.Errorf("allocation %d: its key has %d bytes", al.seq, len(key))
		}
		copy(al.key[:], key)
		if err := found(al, num); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (t *tables) close() error { return errors.Join(t.lookupStmt.Close(), t.db.Close()) }

// inserter writes rows of one table, many to a statement, replacing rows of the same primary key.
type inserter struct {
	table, columns string
	args           []any
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
		stmt, err := tx.PrepareContext(ctx, "INSERT OR REPLACE INTO "+in.table+" ("+in.columns+") VALUES "+strings.Repeat(tuple, size)[2:])
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

// millis turns Unix ms into a time; 0 is the zero time.
func millis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// fold writes j in one transaction.
func (t *tables) fold(ctx context.Context, j *foldJob) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	if err := t.ledgers.all(ctx, tx, len(j.accounts), func(args []any, i int) []any {
		a, c := j.accounts[i].account, &j.accounts[i].now
		return append(args, a.num, a.name.app, a.name.alias, c.limited, int64(c.limit), c.policy, int64(c.window), c.start, c.epoch,
			int64(c.used), int64(c.held), int64(c.total), c.touched)
	}); err != nil {
		return err
	}
	if err := t.allocs.all(ctx, tx, len(j.allocs), func(args []any, i int) []any {
		al, p := j.allocs[i].allocation, &j.allocs[i].now
		var meta any
		if len(p.meta) > 0 {
			meta = string(p.meta)
		}
		return append(args, int64(al.seq), al.key[:], al.account.num, al.id, int64(al.reserved), al.limited, int64(al.limit), int64(al.remaining),
			int64(al.window), al.start, al.epoch, al.reservedAt, int64(al.age), int64(p.state), int64(p.flags), int64(p.charged), p.endedAt, meta)
	}); err != nil {
		return err
	}
	fresh := j.freshByKey()
	if err := t.keys.all(ctx, tx, len(fresh), func(args []any, i int) []any {
		return append(args, fresh[i].key[:], int64(fresh[i].seq))
	}); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE meta SET folded = ?, age = ?, wall = ?`, int64(j.seq), int64(j.age), j.wall); err != nil {
		return err
	}
	return tx.Commit()
}
