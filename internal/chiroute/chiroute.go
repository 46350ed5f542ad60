// Package chiroute finds out which route a chi router is going to run. chi routes behind its middleware, router by router
// where some are mounted on others, and middleware may stand anywhere between.
package chiroute

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-chi/chi/v5"
)

// Finder finds routes. The zero value is ready; it is safe for concurrent use.
type Finder struct {
	routes sync.Pool // of *Route
	tables sync.Map  // *chi.Mux -> *table
	latest atomic.Pointer[table]
	stored atomic.Int64 // tables since the last Clear
}

// maxTables bounds the memory of a finder. A program has as many routers as it has prefixes.
const maxTables = 1_000

// table says what stands at each pattern of a router. It does not change.
type table struct {
	router  chi.Routes
	entries map[string]entry
}

// entry is what stands at a pattern. Mount puts a handler at /api, /api/ and /api/*, where routes may have the first two
// patterns too, by method.
type entry struct {
	own    map[string]http.Handler // the routes with just this pattern
	router chi.Routes              // that is mounted here
	plain  bool                    // nothing is mounted here: what matches is a route
	stub   bool                    // a handler that is no router may be mounted here, and be listed as /api/*
}

// hasRoute reports whether the route with just this pattern is what a request of the method matches.
func (e *entry) hasRoute(method string) bool { return e.plain || e.own[method] != nil }

// Route is what was found of a request.
type Route struct {
	// Pattern of the route, without the *s of the routers in between; "" if chi will find no route.
	Pattern string
	// Param returns a parameter of the path; "" if there is none of the name. Where the path has an encoding of its own, chi
	// matches that (URL.RawPath), and decodes nothing.
	Param func(name string) string

	request *http.Request
	current *chi.Context // chi's own
	known   int          // patterns that chi had matched
	ahead   chi.Context  // what is found beyond them
}

// Find returns what chi will find of a request that has come to middleware, or has found already. Release gives it back.
func (f *Finder) Find(r *http.Request) *Route {
	route, _ := f.routes.Get().(*Route)
	if route == nil {
		route = &Route{}
		route.Param = route.param
	}
	route.request, route.current = r, chi.RouteContext(r.Context())
	if route.current != nil && route.current.Routes != nil {
		route.known = len(route.current.RoutePatterns)
		route.Pattern = f.find(route.current, &route.ahead, r)
	}
	return route
}

// Release ends the use of a route.
func (f *Finder) Release(route *Route) {
	route.Pattern, route.request, route.current = "", nil, nil
	route.ahead.Reset()
	f.routes.Put(route)
}

// Ran is the pattern of the route that chi has run once the middleware's next handler has returned; "" if it ran none.
func (f *Finder) Ran(route *Route) string {
	rctx := route.current
	if rctx == nil || rctx.Routes == nil {
		return ""
	}
	if route.Pattern != "" && slices.Equal(rctx.RoutePatterns[min(route.known, len(rctx.RoutePatterns)):], route.ahead.RoutePatterns) {
		return route.Pattern
	}
	if _, pattern, ran := f.follow(rctx.Routes, "", method(rctx, route.request), rctx.RoutePatterns); ran {
		return pattern
	}
	return ""
}

func (r *Route) param(name string) string {
	if slices.Contains(r.ahead.URLParams.Keys, name) || r.current == nil {
		return r.ahead.URLParam(name)
	}
	return r.current.URLParam(name)
}

func method(rctx *chi.Context, r *http.Request) string { return cmp.Or(rctx.RouteMethod, r.Method) }

func (f *Finder) find(rctx, ahead *chi.Context, r *http.Request) string {
	router, pattern, found := f.follow(rctx.Routes, "", method(rctx, r), rctx.RoutePatterns)
	path := f.restOfPath(rctx, r)
	for !found {
		known := len(ahead.RoutePatterns)
		matched := router.Find(ahead, method(rctx, r), path) != ""
		patterns := ahead.RoutePatterns[known:]
		if i := f.firstRoute(router, method(rctx, r), patterns); i >= 0 {
			patterns = patterns[:i+1] // Find goes on into a router that is mounted at the pattern of this very route
		}
		router, pattern, found = f.follow(router, pattern, method(rctx, r), patterns)
		if !found && !matched {
			return "" // a route that has the pattern of a mounted router is missed by Find
		}
		path = "/" // a router is mounted at just this path
	}
	return pattern
}

// restOfPath is the path that the router will match which is the next to do so.
func (f *Finder) restOfPath(rctx *chi.Context, r *http.Request) string {
	path := cmp.Or(rctx.RoutePath, r.URL.RawPath, r.URL.Path, "/")
	n := len(rctx.RoutePatterns)
	if n == 0 {
		return path
	}
	switch rest := rctx.URLParam("*"); {
	case !strings.HasSuffix(rctx.RoutePatterns[n-1], "*"):
		return "/" // a router is mounted at just this path
	case rest != "":
		return "/" + rest // the middleware stands between the match and the mounted router
	case f.nothingLeft(rctx, r, path):
		return "/" // likewise
	}
	return path
}

// nothingLeft reports whether path is what the last pattern has matched, all of it, and not what the pattern has left. chi's context
// does not tell; the number of slashes does, or else, where middleware has rewritten the path, another try.
func (f *Finder) nothingLeft(rctx *chi.Context, r *http.Request, path string) bool {
	n := len(rctx.RoutePatterns)
	last := rctx.RoutePatterns[n-1]
	for _, whole := range []string{r.URL.RawPath, r.URL.Path, strings.TrimSuffix(r.URL.Path, "/")} {
		if !strings.HasSuffix(whole, path) {
			continue
		}
		before := strings.Count(whole, "/")
		for _, p := range rctx.RoutePatterns[:n-1] {
			before -= strings.Count(p, "/") - 1
		}
		switch strings.Count(path, "/") {
		case before - strings.Count(last, "/") + 1:
			return false
		case before:
			return true
		}
	}
	router, _, route := f.follow(rctx.Routes, "", method(rctx, r), rctx.RoutePatterns[:n-1])
	if route || router == nil {
		return false
	}
	again := chi.NewRouteContext()
	router.Find(again, method(rctx, r), path)
	star := slices.Index(again.URLParams.Keys, "*")
	return len(again.RoutePatterns) > 0 && again.RoutePatterns[0] == last && star >= 0 && again.URLParams.Values[star] == ""
}

// follow goes from router to router along the patterns that were matched. It ends at a route, whose whole pattern it returns,
// or at the router that is next, with the pattern so far. Patterns behind a handler that is no router are those of routers which
// that one has called.
func (f *Finder) follow(router chi.Routes, pattern, method string, matched []string) (next chi.Routes, whole string, route bool) {
	for i, p := range matched {
		last := i == len(matched)-1
		base := pattern + strings.TrimSuffix(strings.TrimSuffix(p, "*"), "/")
		var e entry
		if router != nil {
			e = f.entry(router, p)
		}
		switch {
		case e.router != nil && !e.hasRoute(method):
			router, pattern = e.router, base
		case !last:
			router, pattern = nil, base
		case pattern != "" && p == "/":
			return nil, pattern, true // as chi.Context.RoutePattern has it
		case e.stub && e.own[method] == nil:
			return nil, base + "/*", true // one name for all that is below a mounted handler
		default:
			return nil, pattern + p, true
		}
	}
	return router, pattern, false
}

// firstRoute is the index of the first of the patterns which is a route's; -1 if none is.
func (f *Finder) firstRoute(router chi.Routes, method string, patterns []string) int {
	for i, p := range patterns {
		e := f.entry(router, p)
		if e.hasRoute(method) {
			return i
		}
		if router = e.router; router == nil {
			break
		}
	}
	return -1
}

// entry returns what stands at a pattern that has matched. A router's table is read when one is met that it does not have.
func (f *Finder) entry(router chi.Routes, pattern string) entry {
	mux, ok := router.(*chi.Mux)
	if !ok {
		return newTable(router, pattern).entries[pattern] // the router may be no key of a map
	}
	known := f.latest.Load()
	if known == nil || known.router != router {
		known = nil
		if t, ok := f.tables.Load(mux); ok {
			known = t.(*table)
			f.latest.Store(known)
		}
	}
	if known != nil {
		if e, ok := known.entries[pattern]; ok {
			return e
		}
	}
	t := newTable(router, pattern)
	if known != nil {
		for p := range known.entries {
			t.know(p)
		}
	}
	if f.stored.Add(1) > maxTables {
		f.stored.Store(0)
		f.tables.Clear() // routers that are made anew, again and again
	}
	f.tables.Store(mux, t)
	f.latest.Store(t)
	return t.entries[pattern]
}

func newTable(router chi.Routes, matched string) *table {
	t := &table{router, make(map[string]entry)}
	for _, r := range router.Routes() {
		if r.SubRoutes == nil {
			t.entries[r.Pattern] = entry{own: r.Handlers, router: t.entries[r.Pattern].router}
			continue
		}
		t.entries[r.Pattern] = entry{own: r.Handlers} // and what Mount has put there, as "*"
		base := strings.TrimSuffix(r.Pattern, "*")
		for _, p := range []string{r.Pattern, base, strings.TrimSuffix(base, "/")} {
			t.entries[p] = entry{own: t.entries[p].own, router: r.SubRoutes}
		}
	}
	for p, e := range t.entries {
		e.stub = t.mayBeStub(p)
		e.plain = e.router == nil && !e.stub
		t.entries[p] = e
	}
	t.know(matched)
	return t
}

// know adds a pattern that chi matches and does not list: what Mount has put at /api and /api/, or another router's.
func (t *table) know(pattern string) {
	if _, ok := t.entries[pattern]; !ok {
		t.entries[pattern] = entry{stub: t.mayBeStub(pattern)}
	}
}

// mayBeStub reports whether a handler that is listed at /api/* may have been mounted at the pattern too.
func (t *table) mayBeStub(pattern string) bool {
	below, ok := t.entries[strings.TrimSuffix(pattern, "/")+"/*"]
	return ok && below.router == nil && !strings.HasSuffix(pattern, "*")
}
