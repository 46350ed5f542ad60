package middlewaretest_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/middleware/middlewaretest"
)

func TestServeMux(t *testing.T) {
	middlewaretest.Run(t, middlewaretest.Adapter{New: newMux, NoRecovery: true, HeadIsGet: true})
}

// newMux builds what the suite asks for. The middleware of groups is wrapped around each of their routes.
func newMux(s middlewaretest.Setup) http.Handler {
	mux := http.NewServeMux()
	var add func(prefix string, before []middlewaretest.Middleware, g middlewaretest.Group)
	add = func(prefix string, before []middlewaretest.Middleware, g middlewaretest.Group) {
		prefix += g.Prefix
		before = with(before, g.Flows)
		for _, r := range g.Routes {
			mux.Handle(r.Method+" "+pattern(prefix+r.Pattern), chain(with(before, r.Flows), r.Handler))
		}
		for _, inner := range g.Groups {
			add(prefix, before, inner)
		}
	}
	add("", append(with(s.Before, s.Flows), s.Behind...), s.Root())
	return mux
}

// with adds a flow's middleware for each of the flows.
func with(before []middlewaretest.Middleware, flows []*core.Flow) []middlewaretest.Middleware {
	before = before[:len(before):len(before)]
	for _, f := range flows {
		before = append(before, Middleware(f))
	}
	return before
}

func chain(middleware []middlewaretest.Middleware, handler http.Handler) http.Handler {
	for i := len(middleware) - 1; i >= 0; i-- {
		handler = middleware[i](handler)
	}
	return handler
}

// pattern is the mux's form of /users/:id and /files/*.
func pattern(p string) string {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, ":"); ok {
			parts[i] = "{" + name + "}"
		} else if part == "*" {
			parts[i] = "{rest...}"
		}
	}
	return strings.Join(parts, "/")
}

// What no mux has matched passes; a pattern that ends with a slash stands for all below it.
func TestServeMuxPatterns(t *testing.T) {
	for pattern, want := range map[string]string{"": "", "GET /x/{id}": "/x/{id}", "/static/": "/static/*", "example.com/x": "/x", "GET example.com/y/": "/y/*", "/exact/{$}": "/exact/{$}"} {
		r, err := http.NewRequest("GET", "http://example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.Pattern = pattern; route(r) != want {
			t.Errorf("%q: got %q, want %q", pattern, route(r), want)
		}
	}
}
