package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// upgradeAtOnce is how many rows are in memory at a time.
const upgradeAtOnce = 4096

// upgradeJournal brings journal.db from version 1. Its rows have another form now; there are none after a clean stop.
func upgradeJournal(ctx context.Context, tx *sql.Tx) error {
	var rows int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM journal`).Scan(&rows); err != nil {
		return err
	}
	if rows > 0 {
		return fmt.Errorf("it was written by an earlier version, which did not stop cleanly: start and stop that version once, then this one")
	}
	return nil
}

// upgradeTables brings usageflow.db from version 1, in which a ledger had one limit. What was held has expired: it is charged
// when it is settled, as late.
func upgradeTables(ctx context.Context, tx *sql.Tx) error {
	for _, statement := range []string{
		`DROP INDEX held`,
		`ALTER TABLE meta RENAME TO meta_1`,
		`ALTER TABLE ledgers RENAME TO ledgers_1`,
		`ALTER TABLE allocations RENAME TO allocations_1`,
		`ALTER TABLE allocation_keys RENAME TO allocation_keys_1`,
		schema[0],
		`UPDATE meta SET (folded, age, wall) = (SELECT folded, age, wall FROM meta_1)`,
		`INSERT INTO allocation_keys SELECT key, seq FROM allocation_keys_1`,
		`UPDATE allocations_1 SET state = 3, ended_at = (SELECT wall FROM meta_1) WHERE state = 0`,
		`INSERT INTO usage SELECT ended_at - ended_at % 3600000 AS at, ledger, sum(charged), sum(state = 1), sum(state = 2), sum(state = 3), sum(state = 1 AND flags <> 0)
			FROM allocations_1 GROUP BY at, ledger`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	u := &upgrade{tx: tx, policies: map[uint32]string{}}
	if err := tx.QueryRowContext(ctx, `SELECT age FROM meta`).Scan(&u.age); err != nil {
		return err
	}
	if err := u.ledgers(ctx); err != nil {
		return err
	}
	if err := u.allocations(ctx); err != nil {
		return err
	}
	for _, table := range []string{"meta_1", "ledgers_1", "allocations_1", "allocation_keys_1"} {
		if _, err := tx.ExecContext(ctx, `DROP TABLE `+table); err != nil {
			return err
		}
	}
	return nil
}

type upgrade struct {
	tx       *sql.Tx
	age      time.Duration
	policies map[uint32]string // of each ledger, which its allocations did not have
}

func (u *upgrade) ledgers(ctx context.Context) error {
	out := inserter{into: "INSERT INTO ledgers", columns: ledgerColumns}
	for last, more := uint32(0), true; more; {
		rows, err := u.tx.QueryContext(ctx, `SELECT num, app, alias, limited, max, policy, win, start, epoch, used, total, touched,
				(SELECT coalesce(max(seq), 0) FROM allocations_1 WHERE ledger = num)
			FROM ledgers_1 WHERE num > ? ORDER BY num LIMIT ?`, last, upgradeAtOnce)
		if err != nil {
			return err
		}
		var found []*book.Account
		err = each(rows, func() error {
			a := &book.Account{}
			var c book.Counter
			if err := rows.Scan(&a.Num, &a.Name.App, &a.Name.Alias, &c.Limited, &c.Limit, &c.Policy, &c.Window, &c.Start, &c.Epoch, &c.Used, &a.Total, &a.Touched, &a.Last); err != nil {
				return err
			}
			a.Epochs, c.Rate, c.Age = c.Epoch, c.Limit, u.age
			if c.Window != service.WindowNone {
				a.Counters = []book.Counter{c}
			}
			u.policies[a.Num], last = c.Policy, a.Num
			found = append(found, a)
			return nil
		})
		if err != nil {
			return err
		}
		more = len(found) > 0
		err = out.all(ctx, u.tx, len(found), func(args []any, i int) []any {
			a := found[i]
			return append(args, a.Num, a.Name.App, a.Name.Alias, 0, int64(a.Total), a.Touched, a.Epochs, int64(a.Last), book.AppendCounters(nil, a.Counters))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *upgrade) allocations(ctx context.Context) error {
	if _, err := u.tx.ExecContext(ctx, `CREATE TEMP TABLE chain AS SELECT seq, coalesce(lag(seq) OVER (PARTITION BY ledger ORDER BY seq), 0) AS prev FROM allocations_1;
		CREATE UNIQUE INDEX chain_seq ON chain (seq)`); err != nil {
		return err
	}
	out := inserter{into: "INSERT INTO allocations", columns: allocationColumns}
	for last, more := uint64(0), true; more; {
		rows, err := u.tx.QueryContext(ctx, `SELECT a.seq, key, ledger, id, reserved, limited, max, remaining, win, start, reserved_at, age, state, flags, charged, ended_at, meta, prev
			FROM allocations_1 a JOIN chain c ON c.seq = a.seq WHERE a.seq > ? ORDER BY a.seq LIMIT ?`, int64(last), upgradeAtOnce)
		if err != nil {
			return err
		}
		var found []*book.Allocation
		err = each(rows, func() error {
			al := &book.Allocation{Account: &book.Account{}, Terms: &book.Terms{}}
			answer, key := &al.Terms.Answer, []byte(nil)
			var window service.Window
			var start int64
			var meta sql.NullString
			if err := rows.Scan(&al.Seq, &key, &al.Account.Num, &al.ID, &al.Reserved, &answer.Limited, &answer.Limit, &answer.Remaining, &window, &start,
				&al.ReservedAt, &al.Age, &al.State, &al.Flags, &al.Charged, &al.EndedAt, &meta, &al.Prev); err != nil {
				return err
			}
			if answer.Limited {
				from := time.UnixMilli(start)
				answer.ResetAt, answer.WindowSeconds, answer.Policy = window.End(from).UnixMilli(), window.Seconds(from), u.policies[al.Account.Num]
			}
			al.Key, al.Meta, last = book.Key(key), meta.String, al.Seq
			found = append(found, al)
			return nil
		})
		if err != nil {
			return err
		}
		more = len(found) > 0
		err = out.all(ctx, u.tx, len(found), func(args []any, i int) []any { return appendAllocationArgs(args, found[i], &found[i].Progress) })
		if err != nil {
			return err
		}
	}
	_, err := u.tx.ExecContext(ctx, `DROP TABLE chain`)
	return err
}

// each calls f for each row, and closes rows.
func each(rows *sql.Rows, f func() error) error {
	defer func() { _ = rows.Close() }() // rows.Err says what went wrong
	for rows.Next() {
		if err := f(); err != nil {
			return err
		}
	}
	return rows.Err()
}
