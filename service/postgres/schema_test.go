//go:build unix

package postgres

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/usageflow/usageflow-go-middleware/internal/pgtest"
	"github.com/usageflow/usageflow-go-middleware/service"
)

// A database of each older version keeps what it has.
func TestUpgrade(t *testing.T) {
	cluster := pgtest.Start(t)
	for version := 1; version < len(schema); version++ {
		url := cluster.Database(t)
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		statements := append([]string{`CREATE SCHEMA usageflow; CREATE TABLE usageflow.version (version int NOT NULL)`}, schema[:version]...)
		statements = append(statements, `UPDATE usageflow.clock SET next_ledger = 3, ledgers = 2;
			INSERT INTO usageflow.ledgers VALUES (1, md5('1')::uuid, 'a', 'older', 0, 5, 1700000000000, 0, 0, '\x00', 5, 0, 0, 0);
			INSERT INTO usageflow.ledgers VALUES (2, md5('2')::uuid, 'a', 'newer', 0, 7, 1700000000001, 0, 0, '\x00', 7, 0, 0, 0)`)
		for _, statement := range statements {
			if _, err := conn.Exec(t.Context(), statement); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := conn.Exec(t.Context(), `INSERT INTO usageflow.version VALUES ($1)`, version); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Options{URL: url})
		if err != nil {
			t.Fatal(err)
		}
		page, err := s.Ledgers(t.Context(), service.LedgerQuery{})
		if err != nil || page.Total != 2 || page.Ledgers[0].Alias != "newer" || page.Ledgers[1].Total != 5 {
			t.Errorf("version %d: %+v, %v", version, page, err)
		}
		if d, err := service.Reserve(t.Context(), s, service.Reservation{Application: "a", Alias: "new", ID: "1", Amount: 1}); err != nil || !d.Allowed {
			t.Errorf("version %d: %+v, %v", version, d, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
