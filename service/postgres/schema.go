package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// schema is the database, step by step; steps are only ever added. Amounts are millionths, times are Unix ms, states
// and flags are the numbers of package service; counters and detail are in the form of package book.
var schema = []string{`
CREATE TABLE usageflow.clock (
	-- one row, whose lock replicas hold while they decide
	age         bigint NOT NULL, -- how much time has passed, µs
	wall        bigint NOT NULL, -- the latest time that age has counted, Unix µs
	next_seq    bigint NOT NULL,
	next_ledger bigint NOT NULL,
	ledgers     bigint NOT NULL, -- how many there are
	held        bigint NOT NULL  -- how many allocations are held
) WITH (fillfactor = 10);
INSERT INTO usageflow.clock VALUES (0, 0, 1, 1, 0, 0);
CREATE TABLE usageflow.ledgers (
	num       bigint PRIMARY KEY,
	name      uuid NOT NULL,   -- a hash of app and alias, which may be longer than an index takes
	app       text NOT NULL,
	alias     text NOT NULL,
	held      bigint NOT NULL,
	total     bigint NOT NULL, -- charged since the ledger exists
	touched   bigint NOT NULL,
	epochs    bigint NOT NULL,
	last      bigint NOT NULL, -- allocations.seq of the newest
	counters  bytea NOT NULL,
	used_now  bigint NOT NULL, -- of the limit of which most is taken, to sort by until resets_at
	held_now  bigint NOT NULL,
	share_now double precision NOT NULL,
	resets_at bigint NOT NULL
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX ledgers_name ON usageflow.ledgers (name);
CREATE INDEX ledgers_touched ON usageflow.ledgers (touched);
CREATE TABLE usageflow.allocations (
	seq         bigint PRIMARY KEY, -- in the order of reservation
	key         uuid NOT NULL,
	ledger      bigint NOT NULL,    -- ledgers.num
	id          text NOT NULL,
	reserved    bigint NOT NULL,
	reserved_at bigint NOT NULL,
	age         bigint NOT NULL,
	prev        bigint NOT NULL,    -- seq of the ledger's allocation before
	detail      bytea NOT NULL,     -- the first answer, and where the amount is held
	held_in     bigint[],           -- the other ledgers in which it is held
	state       smallint NOT NULL,
	flags       smallint NOT NULL,
	charged     bigint NOT NULL,
	ended_at    bigint NOT NULL,
	meta        text                -- JSON
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX allocations_key ON usageflow.allocations (key);
CREATE INDEX allocations_held ON usageflow.allocations (age, seq) WHERE state = 0;
CREATE TABLE usageflow.usage (
	at       bigint NOT NULL, -- the beginning of the hour, later on of the day
	ledger   bigint NOT NULL,
	amount   bigint NOT NULL,
	requests bigint NOT NULL,
	voided   bigint NOT NULL,
	expired  bigint NOT NULL,
	flagged  bigint NOT NULL,
	PRIMARY KEY (at, ledger)
) WITH (fillfactor = 50);
CREATE TABLE usageflow.outbox (n bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, seq bigint NOT NULL);
CREATE TABLE usageflow.exports (name text PRIMARY KEY, delivered bigint NOT NULL);
CREATE TABLE usageflow.document (version bigint NOT NULL, data bytea NOT NULL);
`, `
-- The clock comes first, as in a batch. What is up to this age (µs) is held no more: the search for what expires begins after it.
ALTER TABLE usageflow.clock ADD COLUMN swept bigint NOT NULL DEFAULT -1;
-- A row of which no index changes is updated in its page alone. A ledger's index changes with the minute, not with each batch:
-- otherwise all versions of a hot one are looked at in each, as long as any transaction in the database may see them.
DROP INDEX usageflow.ledgers_touched;
ALTER TABLE usageflow.ledgers ADD COLUMN minute bigint NOT NULL GENERATED ALWAYS AS (touched / 60000) STORED;
CREATE INDEX ledgers_minute ON usageflow.ledgers (minute);
`}

// migrationLock is the advisory lock of those who bring the schema to the newest version ("usageflo" in ASCII).
const migrationLock = 0x7573616765666c6f

// migrate brings the schema to the newest version. A database of a newer version is refused.
func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(migrationLock)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS usageflow; CREATE TABLE IF NOT EXISTS usageflow.version (version int NOT NULL)`); err != nil {
			return err
		}
		version := 0
		err := tx.QueryRow(ctx, `SELECT version FROM usageflow.version`).Scan(&version)
		if errors.Is(err, pgx.ErrNoRows) {
			_, err = tx.Exec(ctx, `INSERT INTO usageflow.version VALUES (0)`)
		}
		switch {
		case err != nil:
			return err
		case version > len(schema):
			return fmt.Errorf("the database has schema version %d, this program knows up to %d", version, len(schema))
		case version == len(schema):
			return nil
		}
		for _, step := range schema[version:] {
			if _, err := tx.Exec(ctx, step); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `UPDATE usageflow.version SET version = $1`, len(schema))
		return err
	})
}
