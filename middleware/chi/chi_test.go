package usageflow_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/chi"
	"github.com/usageflow/usageflow-go-middleware/middleware/middlewaretest"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

// serve sends a request to a router.
func serve(r http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

func TestSuite(t *testing.T) {
	middlewaretest.Run(t, middlewaretest.Adapter{New: newRouter})
}

func newRouter(s middlewaretest.Setup) http.Handler {
	r := chi.NewRouter()
	if s.RecoverBefore {
		r.Use(middleware.Recoverer)
	}
	r.Use(s.Before...)
	r.Use(flows(s.Flows)...)
	r.Use(s.Behind...)
	if s.RecoverBehind {
		r.Use(middleware.Recoverer)
	}
	add(r, s.Root())
	return r
}

func add(r chi.Router, g middlewaretest.Group) {
	for _, route := range g.Routes {
		r.With(flows(route.Flows)...).MethodFunc(route.Method, pattern(route.Pattern), route.Handler)
	}
	for _, inner := range g.Groups {
		r.Route(pattern(inner.Prefix), func(r chi.Router) {
			r.Use(flows(inner.Flows)...)
			add(r, inner)
		})
	}
}

func flows(list []*core.Flow) (all []func(http.Handler) http.Handler) {
	for _, f := range list {
		all = append(all, usageflow.Middleware(f))
	}
	return all
}

// pattern is chi's form of /users/:id.
func pattern(p string) string {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, ":"); ok {
			parts[i] = "{" + name + "}"
		}
	}
	return strings.Join(parts, "/")
}

// Whatever way a route was added, it is known by its whole pattern, and regular expressions are no part of that.
func TestPatterns(t *testing.T) {
	a := middlewaretest.Start(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "GET", URL: "/shops/:shop/items/:id", IdentityFieldLocation: "path_params", IdentityFieldName: "shop"})
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/v1/secret"})
	})
	meter := usageflow.Middleware(a.Flow)
	r := chi.NewRouter()
	r.Use(meter)
	r.Get("/users/{id:[0-9]{1,3}}", ok)
	r.Get("/dates/{y:\\d{4}}-{m:\\d{2}}", ok)
	r.Get("/files/*", ok)
	r.With(meter).Get("/with/{id}", ok)
	r.Group(func(r chi.Router) {
		r.Use(meter)
		r.Get("/group/{id}", ok)
	})
	r.Route("/shops/{shop:[a-z]+}", func(r chi.Router) {
		r.Use(meter)
		r.Get("/", ok)
		r.Route("/items", func(r chi.Router) { r.With(meter).Get("/{id}", ok) })
	})
	v1 := chi.NewRouter()
	v1.Get("/users/{id}", ok)
	v1.Get("/secret", ok)
	r.Mount("/v1", v1)
	r.Mount("/debug", http.HandlerFunc(ok))
	n := 0
	for path, alias := range map[string]string{
		"/users/7": "GET /users/:id", "/users/x": "", "/users/1234": "", "/dates/2026-11": "GET /dates/:y-:m", "/files/a/b": "GET /files/*", "/files/": "GET /files/*",
		"/with/7": "GET /with/:id", "/group/7": "GET /group/:id", "/shops/acme": "GET /shops/:shop", "/shops/acme/": "GET /shops/:shop", "/shops/7": "",
		"/shops/acme/items/9": "GET /shops/:shop/items/:id acme", "/v1/users/7": "GET /v1/users/:id", "/v1": "", "/v1/": "", "/v1/nowhere": "",
		"/debug": "GET /debug/*", "/debug/pprof": "GET /debug/*",
	} {
		w := serve(r, "GET", path)
		if (w.Code == 200) != (alias != "") {
			t.Errorf("%s: got %d", path, w.Code)
		}
		if alias == "" {
			continue
		}
		n++
		if got := a.Uses(n)[n-1].Alias; got != alias {
			t.Errorf("%s: alias %q, want %q", path, got, alias)
		}
	}
	if w := serve(r, "GET", "/v1/secret"); w.Code != 403 {
		t.Errorf("a blocked route of a mounted router: got %d", w.Code)
	}
	a.Drain(int64(n))
}

// Where the middleware stands inside, before a router that is mounted with a slash at its end, the router's own root is found too.
func TestMountWithASlash(t *testing.T) {
	a := middlewaretest.Start(t, func(s *sockettest.Server) {
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/reports"}, sockettest.Endpoint{Method: "GET", URL: "/v1/reports"})
	})
	reports := func(r chi.Router) { r.Get("/", ok); r.Get("/x", ok) }
	r := chi.NewRouter()
	r.Group(func(r chi.Router) {
		r.Use(usageflow.Middleware(a.Flow))
		r.Route("/reports/", reports)
	})
	r.Route("/v1", func(r chi.Router) { r.With(usageflow.Middleware(a.Flow)).Route("/reports/", reports) })
	for path, want := range map[string]int{"/reports/": 403, "/reports/x": 200, "/v1/reports/": 403, "/v1/reports/x": 200} {
		if w := serve(r, "GET", path); w.Code != want {
			t.Errorf("%s: got %d, want %d", path, w.Code, want)
		}
	}
	a.Drain(2)
}

// A router behind a handler that hides it can't be looked into: With and Group inside see its routes; what stands before sees
// none of them, which is counted and logged as an error.
func TestHiddenRouters(t *testing.T) {
	hide := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(w, r) })
	}
	block := func(s *sockettest.Server) {
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/api/users/:id"}, sockettest.Endpoint{Method: "GET", URL: "/old/:id"})
	}
	for _, inside := range []bool{true, false} {
		a := middlewaretest.Start(t, block)
		meter := usageflow.Middleware(a.Flow)
		hidden, fallback, root := chi.NewRouter(), chi.NewRouter(), chi.NewRouter()
		if inside {
			hidden.With(meter).Get("/users/{id}", ok)
			fallback.With(meter).Get("/old/{id}", ok)
		} else {
			hidden.Use(meter)
			fallback.Use(meter)
			hidden.Get("/users/{id}", ok)
			fallback.Get("/old/{id}", ok)
		}
		root.Mount("/api", hide(hidden))
		root.NotFound(fallback.ServeHTTP)
		want := map[bool]int{true: 403, false: 200}[inside]
		for _, path := range []string{"/api/users/7", "/old/7"} {
			if w := serve(root, "GET", path); w.Code != want {
				t.Errorf("inside %v: %s: got %d", inside, path, w.Code)
			}
		}
		if s := a.Flow.Stats(); (inside && (s.Blocked != 2 || s.Missed != 0)) || (!inside && s.Missed != 2) {
			t.Errorf("inside %v: stats %+v, log:\n%s", inside, s, a.Log())
		}
	}
}

// Middleware that chooses the route goes before; behind, what it does is counted and logged as an error.
func TestMiddlewareThatRewrites(t *testing.T) {
	for _, before := range []bool{true, false} {
		a := middlewaretest.Start(t, func(s *sockettest.Server) {
			s.SetConfig(sockettest.Config{WhitelistEndpoints: []sockettest.Endpoint{{Method: "GET", URL: "/health"}}})
		})
		r := chi.NewRouter()
		if before {
			r.Use(middleware.StripSlashes, middleware.GetHead, usageflow.Middleware(a.Flow))
		} else {
			r.Use(usageflow.Middleware(a.Flow), middleware.StripSlashes, middleware.GetHead)
		}
		r.Get("/reports", ok)
		r.Get("/health", ok)
		r.Get("/caught/*", ok)
		r.Get("/caught/one", ok)
		for _, request := range [][2]string{{"GET", "/reports/"}, {"HEAD", "/reports"}, {"GET", "/health/"}, {"GET", "/nowhere/"}, {"GET", "/caught/one/"}, {"GET", "/caught/two"}} {
			serve(r, request[0], request[1])
		}
		s := a.Flow.Stats()
		if before && (s.Admitted != 4 || s.Missed != 0) || !before && (s.Admitted != 2 || s.Missed != 3) {
			t.Errorf("before %v: stats %+v", before, s)
		}
		if n := strings.Count(a.Log(), "served behind its back"); before != (n == 0) || n > 1 {
			t.Errorf("before %v: log:\n%s", before, a.Log())
		}
	}
}

// A middleware for chi that has no chi router above it lets requests pass, and so does one without a usable key.
func TestWithoutRouterOrKey(t *testing.T) {
	a := middlewaretest.Start(t, nil)
	if w := serve(usageflow.Middleware(a.Flow)(http.HandlerFunc(ok)), "GET", "/x"); w.Body.String() != "ok" {
		t.Errorf("got %s", w.Body)
	}
	a.Drain(0)
	var logs bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logs, nil)))
	defer slog.SetDefault(old)
	r := chi.NewRouter()
	r.Use(usageflow.Chi(""), usageflow.Middleware(nil))
	r.Get("/x", ok)
	if w := serve(r, "GET", "/x"); w.Body.String() != "ok" || !strings.Contains(logs.String(), "level=ERROR") {
		t.Errorf("got %s, log %s", w.Body, &logs)
	}
}

// The address of the client is what middleware has put in the request.
func TestClientIP(t *testing.T) {
	a := middlewaretest.Start(t, nil)
	r := chi.NewRouter()
	r.Use(usageflow.Middleware(a.Flow))
	r.Get("/x", ok)
	for i, addr := range []string{"192.0.2.1:1234", "[2001:db8::1]:1234", "192.0.2.7"} {
		req := httptest.NewRequest("GET", "/x", nil)
		req.RemoteAddr = addr
		r.ServeHTTP(httptest.NewRecorder(), req)
		if got, want := a.Uses(i + 1)[i].Metadata["clientIP"], []string{"192.0.2.1", "2001:db8::1", "192.0.2.7"}[i]; got != want {
			t.Errorf("%s: got %v", addr, got)
		}
	}
}
