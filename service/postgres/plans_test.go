//go:build unix

package postgres

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/usageflow/usageflow-go-middleware/internal/pgtest"
)

// batchStatements are those of a batch that have a choice of plans, and the number of their parameters.
var batchStatements = []struct {
	sql    string
	params int
}{
	{ledgersSQL, 5}, {allocationsSQL, 4}, {writeLedgersSQL, 14}, {newAllocationsSQL, 15}, {oldAllocationsSQL, 6}, {usageSQL, 7},
}

// Whatever the planner knows of the tables, it finds rows by an index and starts no process.
func TestPlans(t *testing.T) {
	url := pgtest.Start(t).Database(t)
	s, err := Open(t.Context(), Options{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, state := range []struct{ name, prepare string }{
		{"new", ``},
		{"empty", `ANALYZE`},
		{"large", `INSERT INTO usageflow.ledgers SELECT n, md5(n::text)::uuid, 'a', n::text, 0, 0, n, 0, n, '', 0, 0, 0, 0 FROM generate_series(1, 60000) n;
			INSERT INTO usageflow.allocations SELECT n, md5(n::text)::uuid, n, n::text, 1, n, n, 0, repeat('x', 50)::bytea, NULL, 0, 0, 0, 0, NULL FROM generate_series(1, 60000) n;
			ANALYZE`},
		{"grown", `TRUNCATE usageflow.ledgers, usageflow.allocations; ANALYZE;
			INSERT INTO usageflow.allocations SELECT n, md5(n::text)::uuid, n, n::text, 1, n, n, 0, '', NULL, 0, 0, 0, 0, NULL FROM generate_series(1, 60000) n`},
	} {
		t.Run(state.name, func(t *testing.T) {
			if _, err := s.pool.Exec(t.Context(), state.prepare); err != nil {
				t.Fatal(err)
			}
			for i, st := range batchStatements {
				plan := explain(t, s, fmt.Sprint(state.name, i), st.sql, st.params)
				for _, bad := range []string{"Seq Scan on allocations", "Seq Scan on ledgers", "Seq Scan on usage", "Nested Loop", "Gather", "Sort"} {
					if strings.Contains(plan, bad) {
						t.Errorf("%s in the plan of\n%s:\n%s", bad, st.sql, plan)
					}
				}
				if strings.Count(plan, "Index Scan") != strings.Count(plan, "Index Cond") {
					t.Errorf("all of an index in the plan of\n%s:\n%s", st.sql, plan)
				}
			}
		})
	}
}

// explain returns the plan that a batch has for a statement.
func explain(t *testing.T, s *Store, name, sql string, params int) string {
	t.Helper()
	var plan []string
	err := pgx.BeginFunc(t.Context(), s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(t.Context(), plansSQL, "5000"); err != nil {
			return err
		}
		if _, err := tx.Exec(t.Context(), `PREPARE `+name+` AS `+sql); err != nil {
			return err
		}
		args := strings.TrimSuffix(strings.Repeat("NULL, ", params), ", ")
		rows, err := tx.Query(t.Context(), `EXPLAIN EXECUTE `+name+` (`+args+`)`)
		if err != nil {
			return err
		}
		plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		t.Fatalf("%v in\n%s", err, sql)
	}
	return strings.Join(plan, "\n")
}
