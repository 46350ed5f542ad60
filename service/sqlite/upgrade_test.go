package sqlite_test

import (
	"database/sql"
	"encoding/hex"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// version1 is the tables of the first version.
const version1 = `CREATE TABLE meta (
	folded INTEGER NOT NULL,
	age    INTEGER NOT NULL,
	wall   INTEGER NOT NULL
);
INSERT INTO meta VALUES (0, 0, 0);
CREATE TABLE ledgers (
	num     INTEGER PRIMARY KEY,
	app     TEXT NOT NULL,
	alias   TEXT NOT NULL,
	limited INTEGER NOT NULL,
	max     INTEGER NOT NULL,
	policy  TEXT NOT NULL,
	win     INTEGER NOT NULL,
	start   INTEGER NOT NULL,
	epoch   INTEGER NOT NULL,
	used    INTEGER NOT NULL,
	held    INTEGER NOT NULL,
	total   INTEGER NOT NULL,
	touched INTEGER NOT NULL
);
CREATE TABLE allocations (
	seq         INTEGER PRIMARY KEY,
	key         BLOB NOT NULL,
	ledger      INTEGER NOT NULL,
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
	meta        TEXT
);
CREATE INDEX held ON allocations (seq) WHERE state = 0;
CREATE TABLE allocation_keys (key BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
`

func execute(t *testing.T, path, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), statements); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// A folder of the first version is brought to this one: sums, limits and ids stay.
func TestUpgrade(t *testing.T) {
	dir := t.TempDir()
	clock := ledgertest.NewClock()
	start := clock.Now().UnixMilli()
	key := func(id string) string {
		k := book.KeyOf("acme", id)
		return "x'" + hex.EncodeToString(k[:]) + "'"
	}
	fill := strings.NewReplacer("START", strconv.FormatInt(start, 10), "K1", key("one"), "K2", key("two"), "K3", key("three")).Replace(`
		UPDATE meta SET folded = 9, age = 1000, wall = START;
		INSERT INTO ledgers VALUES (1, 'acme', 'GET /x ann', 1, 5000000, 'p', 4, START, 3, 2000000, 1000000, 7000000, START), (2, 'acme', 'GET /free', 0, 0, '', 0, 0, 1, 0, 0, 4000000, START);
		INSERT INTO allocations VALUES
			(1, K1, 1, 'one', 1000000, 1, 5000000, 4000000, 4, START, 3, START, 500, 1, 0, 2000000, START, '{"url":"/x"}'),
			(2, K2, 1, 'two', 1000000, 1, 5000000, 2000000, 4, START, 3, START, 600, 0, 0, 0, 0, NULL),
			(3, K3, 2, 'three', 1000000, 0, 0, 0, 0, 0, 1, START, 700, 1, 1, 4000000, START, NULL);
		INSERT INTO allocation_keys VALUES (K1, 1), (K2, 2), (K3, 3);`)
	execute(t, filepath.Join(dir, "usageflow.db"), version1+fill)
	execute(t, filepath.Join(dir, "journal.db"), `CREATE TABLE journal (seq INTEGER PRIMARY KEY, row BLOB NOT NULL); PRAGMA user_version = 1`)

	s := open(t, sqlite.Options{Dir: dir, Now: clock.Now})
	limits := []service.Limit{{Amount: 5e6, Window: service.WindowDay, Policy: "p"}}
	reserve := func(id string, amount service.Micros) service.Decision {
		t.Helper()
		d, err := service.Reserve(t.Context(), s, service.Reservation{Application: "acme", Alias: "GET /x ann", ID: id, Amount: amount, Limits: limits})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if d := reserve("one", 1e6); !d.Repeated || d.Remaining != 4e6 || d.Policy != "p" || d.WindowSeconds != 86400 {
		t.Errorf("an id that was settled: %+v", d)
	}
	if r, err := service.Settle(t.Context(), s, service.Settlement{Application: "acme", Alias: "GET /x ann", ID: "two", Amount: 1e6}); err != nil || r.Repeated || r.Flags != service.FlagLate {
		t.Errorf("one that was held: %+v, %v", r, err)
	}
	if d := reserve("four", 3e6); d.Allowed {
		t.Errorf("3 of 2 that are left: %+v", d)
	}
	if d := reserve("four", 2e6); !d.Allowed || d.Remaining != 0 {
		t.Errorf("2 of 2 that are left: %+v", d)
	}
	found, err := s.Allocations(t.Context(), service.AllocationQuery{Application: "acme", Alias: "GET /x ann"})
	if err != nil || len(found) != 3 || found[2].ID != "one" || found[2].Metadata.URL != "/x" {
		t.Errorf("allocations %+v, %v", found, err)
	}
	var requests uint64
	err = s.Usage(t.Context(), service.UsageQuery{From: clock.Now(), To: clock.Now().Add(time.Second), Bucket: service.WindowDay}, func(u service.Usage) error {
		requests += u.Requests
		return nil
	})
	if l, _, _ := s.Find(t.Context(), "acme", "GET /free"); err != nil || requests != 3 || l.Total != 4e6 {
		t.Errorf("%d requests, %v, %+v", requests, err, l)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, sqlite.Options{Dir: dir, Now: clock.Now}).Close(); err != nil {
		t.Error(err)
	}
}

// Without a clean stop, rows of the journal are in a form that is not known any more: that is said, and nothing touched.
func TestUpgradeNeedsACleanStop(t *testing.T) {
	dir := t.TempDir()
	execute(t, filepath.Join(dir, "journal.db"), `CREATE TABLE journal (seq INTEGER PRIMARY KEY, row BLOB NOT NULL); INSERT INTO journal VALUES (1, x'01'); PRAGMA user_version = 1`)
	for range 2 {
		if _, err := sqlite.Open(sqlite.Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), "start and stop that version once") {
			t.Errorf("got %v", err)
		}
	}
}
