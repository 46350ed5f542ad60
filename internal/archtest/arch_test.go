// Package archtest holds the import rules of the project as tests.
package archtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// jwt are the libraries of core/jwtverify.
var jwt = []string{"github.com/golang-jwt/", "github.com/MicahParks/"}

var routers = []string{"github.com/gin-gonic/", "github.com/go-chi/", "github.com/labstack/"}

func TestImports(t *testing.T) {
	for _, rule := range []struct {
		pkg   string
		never []string
	}{
		{"core", slices.Concat([]string{module + "/middleware", module + "/service"}, routers, heavy, jwt)},
		{"socket", slices.Concat([]string{module + "/core", module + "/middleware", module + "/service"}, routers, heavy, jwt)},
		{"service", append([]string{module + "/core", module + "/middleware"}, routers...)},
		{"cmd/usageflow", append([]string{module + "/middleware"}, routers...)},
		{"chaos", []string{module + "/service", "github.com/go-chi/", "github.com/labstack/"}},
		{"middleware/gin", slices.Concat([]string{module + "/service", module + "/middleware/", "github.com/go-chi/", "github.com/labstack/"}, heavy, jwt)},
		{"middleware/chi", slices.Concat([]string{module + "/service", module + "/middleware/", "github.com/gin-gonic/", "github.com/labstack/"}, heavy, jwt)},
		{"middleware/echo", slices.Concat([]string{module + "/service", module + "/middleware/", "github.com/gin-gonic/", "github.com/go-chi/"}, heavy, jwt)},
		{"middleware/middlewaretest", slices.Concat([]string{module + "/service", module + "/middleware/"}, routers, heavy, jwt)},
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
	deps := golist(t, "-deps", "./"+pkg)
	if len(deps) < 10 {
		t.Fatalf("go list -deps ./%s gave only %q", pkg, deps)
	}
	return deps
}

// list returns what format says of pkg, which is something.
func list(t *testing.T, format, pkg string) []string {
	t.Helper()
	words := golist(t, "-f", format, "./"+pkg)
	if len(words) == 0 {
		t.Fatalf("go list -f %q ./%s gave nothing", format, pkg)
	}
	return words
}

func golist(t *testing.T, args ...string) []string {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %q: %v", args, err)
	}
	return strings.Fields(string(out))
}

// TestStateMachineDoesNoIO: what the broker's state machine imports has no connection, file or goroutine of
// its own, and it reads no clock.
func TestStateMachineDoesNoIO(t *testing.T) {
	pure := []string{
		"bytes", "cmp", "encoding/binary", "errors", "fmt", "io", "maps", "math", "slices", "sync", "sync/atomic", "time",
		"github.com/google/uuid", module + "/internal/frame",
	}
	for _, pkg := range []string{"internal/frame", "internal/broker"} {
		for _, dep := range list(t, "{{join .Imports \"\\n\"}}", pkg) {
			if !slices.Contains(pure, dep) {
				t.Errorf("%s imports %s", pkg, dep)
			}
		}
		for _, file := range list(t, "{{join .GoFiles \"\\n\"}}", pkg) {
			source, err := os.ReadFile(filepath.Join("../..", pkg, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range []string{"time.Now", "time.Since", "time.After", "time.New", "\tgo ", ".Go("} {
				if strings.Contains(string(source), bad) {
					t.Errorf("%s/%s has %q", pkg, file, bad)
				}
			}
		}
	}
}

// TestAdaptersAreThin: a router's adapter is one file of less than 120 lines.
func TestAdaptersAreThin(t *testing.T) {
	for _, pkg := range []string{"middleware/gin", "middleware/chi", "middleware/echo"} {
		files := list(t, "{{join .GoFiles \"\\n\"}}", pkg)
		if len(files) != 1 {
			t.Fatalf("%s has the files %q", pkg, files)
		}
		source, err := os.ReadFile(filepath.Join("../..", pkg, files[0]))
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Count(string(source), "\n"); lines >= 120 {
			t.Errorf("%s/%s has %d lines", pkg, files[0], lines)
		}
	}
}
