// Package archtest holds the import rules of the project as tests.
package archtest

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/usageflow/usageflow-go-middleware"

// Libraries that an importer of one router must not link, whatever the router. A $ ends a name that is not a prefix:
// database/sql/driver is but the interface that uuid.UUID satisfies.
var heavy = []string{
	"modernc.org/", "github.com/mattn/go-sqlite3", "github.com/ncruces/", "go.etcd.io/bbolt", "github.com/cockroachdb/", "database/sql$",
	"github.com/jackc/", "github.com/prometheus/", "go.mongodb.org/", "go.opentelemetry.io/", "github.com/nats-io/",
}

var routers = []string{"github.com/gin-gonic/", "github.com/go-chi/", "github.com/labstack/"}

func TestImports(t *testing.T) {
	for _, rule := range []struct {
		pkg   string
		never []string
	}{
		{"core", append(append([]string{module + "/middleware", module + "/service"}, routers...), heavy...)},
		{"socket", append(append([]string{module + "/core", module + "/middleware", module + "/service"}, routers...), heavy...)},
		{"service", append([]string{module + "/core", module + "/middleware"}, routers...)},
		{"middleware/gin", append([]string{module + "/service", module + "/middleware/", "github.com/go-chi/", "github.com/labstack/"}, heavy...)},
		{"internal/...", []string{module + "/core", module + "/socket", module + "/service", module + "/middleware"}},
	} {
		t.Run(rule.pkg, func(t *testing.T) {
			self := module + "/" + strings.TrimSuffix(rule.pkg, "/...")
			for _, dep := range deps(t, rule.pkg) {
				if dep == self || strings.HasPrefix(dep, self+"/") {
					continue
				}
				for _, bad := range rule.never {
					if name, exact := strings.CutSuffix(bad, "$"); dep == name || (!exact && strings.HasPrefix(dep, bad)) {
						t.Errorf("%s links %s", rule.pkg, dep)
					}
				}
			}
		})
	}
}

// deps returns what the package's program would link, its tests left out.
func deps(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "./"+pkg)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps ./%s: %v", pkg, err)
	}
	list := strings.Fields(string(out))
	if len(list) < 10 {
		t.Fatalf("go list -deps ./%s gave only %q", pkg, list)
	}
	return list
}
