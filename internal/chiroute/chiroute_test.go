package chiroute

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
)

// world is a tree of routers whose every middleware says what it finds, and whose every handler says that it ran.
type world struct {
	r      *rand.Rand
	finder Finder
	found  []string // by each middleware that the request came through, outermost first
	params []string // what each said of the parameter id
	ran    string   // the whole pattern of the handler that ran
	ranID  string
	missed []string        // what each says has run behind it
	known  []string        // the whole patterns of all handlers
	mounts map[string]bool // patterns at which a router is mounted
}

func (w *world) look(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		route := w.finder.Find(r)
		defer w.finder.Release(route)
		w.found = append(w.found, route.Pattern)
		w.params = append(w.params, route.Param("id"))
		next.ServeHTTP(rw, r)
		w.missed = append(w.missed, w.finder.Ran(route))
	})
}

func (w *world) handler(pattern string) http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { w.ran, w.ranID = pattern, chi.URLParam(r, "id") }
}

var segments = []string{"a", "b", "{id}", "{id:[0-9]+}", "x{id}y"}

// fill adds routes, groups and routers to r, whose own prefix is prefix. Where two routes have the same pattern, the later wins,
// as it does in chi.
func (w *world) fill(r chi.Router, prefix string, depth int, taken map[string]bool) {
	for range 1 + w.r.IntN(4) {
		pattern := ""
		for range 1 + w.r.IntN(2) {
			segment := segments[w.r.IntN(len(segments))]
			if strings.Contains(pattern, "{id") {
				segment = strings.ReplaceAll(segment, "{id", "{n") // no name comes twice in a pattern
			}
			pattern += "/" + segment
		}
		switch kind := w.r.IntN(8); {
		case kind < 3 || depth == 0:
			end := []string{"", "", "", "/", "/*"}[w.r.IntN(5)]
			if w.r.IntN(8) == 0 {
				pattern, end = "/", ""
			}
			w.add(r, prefix, pattern+end)
		case kind == 3:
			r.Group(func(r chi.Router) {
				if w.r.IntN(2) == 0 {
					r.Use(w.look)
				}
				w.fill(r, prefix, depth-1, taken)
			})
		case kind == 4:
			w.add(r.With(w.look), prefix, pattern)
		default:
			if taken[prefix+pattern] || taken[prefix+pattern+"/"] {
				continue // chi mounts nothing twice
			}
			taken[prefix+pattern] = true
			w.mount(r, prefix, pattern, kind, depth)
		}
	}
}

func (w *world) add(r chi.Router, prefix, pattern string) {
	whole := prefix + pattern
	if prefix != "" && pattern == "/" {
		whole = prefix
	}
	r.MethodFunc([]string{"GET", "POST"}[w.r.IntN(2)], pattern, w.handler(whole))
	w.known = append(w.known, whole)
}

// path is one that a client may send: mostly one that a pattern stands for, or nearly.
func (w *world) path() string {
	path := ""
	if w.r.IntN(4) > 0 && len(w.known) > 0 {
		path = strings.NewReplacer("{id:[0-9]+}", "7", "{n:[0-9]+}", "12", "{id}", []string{"7", "u", "a%2Fb", "%C3%BC"}[w.r.IntN(4)], "{n}", "b", "*", "c/d").Replace(w.known[w.r.IntN(len(w.known))])
	}
	if path == "" || w.r.IntN(4) == 0 {
		for range w.r.IntN(4) {
			path += "/" + []string{"a", "b", "7", "x7y", "c", "a%2Fb", "ü", ""}[w.r.IntN(8)]
		}
	}
	if path == "" || w.r.IntN(8) == 0 {
		path += "/"
	}
	if strings.Trim(path, "/") == "" {
		return "/" // of many slashes and nothing else, it can't be told which router has had which
	}
	return path
}

func (w *world) mount(r chi.Router, prefix, pattern string, kind, depth int) {
	defer func() { _ = recover() }() // chi says so where patterns collide
	sub := chi.NewRouter()
	if w.r.IntN(2) == 0 {
		sub.Use(w.look)
	}
	w.fill(sub, prefix+pattern, depth-1, map[string]bool{})
	switch kind {
	case 5:
		r.With(w.look).Mount(pattern, sub)
	case 6:
		r.With(w.look).Mount(pattern+"/", sub) // not at the pattern without the slash
	default:
		r.Mount(pattern, sub)
	}
	w.mounts[prefix+pattern+"/*"] = true
}

var seeds = flag.Int("seeds", 400, "how many trees of routers TestFindsWhatChiRuns makes")

// Whatever the routers are made of and wherever the middleware stands, it finds the route that chi runs.
func TestFindsWhatChiRuns(t *testing.T) {
	served, ran, behind := 0, 0, 0
	for seed := range uint64(*seeds) {
		w := &world{r: rand.New(rand.NewPCG(seed, 7)), mounts: make(map[string]bool)}
		root := chi.NewRouter()
		if w.r.IntN(4) == 0 {
			root.Use(middleware.StripSlashes)
		}
		root.Use(w.look)
		w.fill(root, "", 3, map[string]bool{})
		for range 60 {
			path := w.path()
			method := []string{"GET", "GET", "GET", "POST", "POST", "POST", "PUT", "BREW"}[w.r.IntN(8)]
			w.found, w.params, w.missed, w.ran, w.ranID = nil, nil, nil, "", ""
			root.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(method, path, nil))
			served++
			if w.ran != "" {
				ran++
			}
			for i, found := range w.found {
				if i > 0 {
					behind++
				}
				if found != w.ran || w.missed[i] != w.ran {
					t.Fatalf("seed %d: %s %s: middleware %d found %q before and %q behind, chi ran %q", seed, method, path, i, found, w.missed[i], w.ran)
				}
				// Find goes on into a router that is mounted at the very pattern of a route, and takes its parameters along.
				if w.ran != "" && w.params[i] != w.ranID && !w.mounts[w.ran] {
					t.Fatalf("seed %d: %s %s: middleware %d found id %q, the handler %q", seed, method, path, i, w.params[i], w.ranID)
				}
			}
		}
	}
	t.Logf("%d requests, of which %d ran a route; %d looks in groups and mounted routers", served, ran, behind)
	if ran < served/20 || behind < 1000 {
		t.Error("the routers are too dull")
	}
}

// A route may have the very pattern at which a router is mounted, and a mounted handler need not be a router.
func TestMountPoints(t *testing.T) {
	w := &world{}
	root := chi.NewRouter()
	root.Use(w.look)
	root.Route("/users", func(r chi.Router) { r.Get("/{id}", w.handler("/users/{id}")) })
	root.Get("/users", w.handler("/users"))
	root.Mount("/static", w.handler("/static/*"))
	root.Route("/shops", func(r chi.Router) { r.Get("/", w.handler("/shops")) })
	root.Route("/rest", func(r chi.Router) { r.Get("/*", w.handler("/rest/*")) })
	inner := chi.NewRouter()
	inner.Get("/deep", w.handler("/slash/deep"))
	inner.Get("/", w.handler("/slash"))
	root.Mount("/slash/", inner)
	for path, want := range map[string]string{
		"/users": "/users", "/users/7": "/users/{id}", "/users/": "", "/users/7/8": "",
		"/static/a/b": "/static/*", "/static/": "/static/*", "/static": "/static/*",
		"/shops": "/shops", "/shops/": "/shops", "/shops/x": "",
		"/rest": "/rest/*", "/rest/a": "/rest/*",
		"/slash/": "/slash", "/slash/deep": "/slash/deep", "/slash": "",
	} {
		w.found, w.ran = nil, ""
		root.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
		if w.found[0] != want || w.ran != want {
			t.Errorf("%s: found %q, chi ran %q, want %q", path, w.found[0], w.ran, want)
		}
	}
	w.found, w.ran = nil, ""
	root.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/users", nil)) // the mounted router answers this one
	if w.found[0] != "" || w.ran != "" {
		t.Errorf("POST: found %q, chi ran %q", w.found[0], w.ran)
	}
}

// What middleware before has changed counts; what middleware behind changes is seen afterwards.
func TestRewritingMiddleware(t *testing.T) {
	for name, rewrite := range map[string]func(http.Handler) http.Handler{
		"strip slashes": middleware.StripSlashes, "clean path": middleware.CleanPath, "get head": middleware.GetHead,
	} {
		request := map[string][2]string{"strip slashes": {"GET", "/a/7/"}, "clean path": {"GET", "//a///7"}, "get head": {"HEAD", "/a/7"}}[name]
		for _, before := range []bool{true, false} {
			for _, mounted := range []bool{true, false} {
				w := &world{}
				build := func(r chi.Router) {
					if before {
						r.Use(rewrite, w.look)
					} else {
						r.Use(w.look, rewrite)
					}
				}
				root := chi.NewRouter()
				build(root)
				if mounted {
					root.Route("/a", func(r chi.Router) { r.Get("/{id}", w.handler("/a/{id}")) })
				} else {
					root.Get("/a/{id}", w.handler("/a/{id}"))
				}
				root.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(request[0], request[1], nil))
				want := ""
				if before {
					want = "/a/{id}"
				}
				if w.found[0] != want || w.ran != "/a/{id}" || w.missed[0] != "/a/{id}" {
					t.Errorf("%s, before %v, mounted %v: found %q, afterwards %q, chi ran %q", name, before, mounted, w.found[0], w.missed[0], w.ran)
				}
			}
		}
	}
}

// Without a chi router there is nothing to find.
func TestNoRouter(t *testing.T) {
	w := &world{}
	w.look(w.handler("")).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/a", nil))
	if !slices.Equal(w.found, []string{""}) || !slices.Equal(w.missed, []string{""}) {
		t.Errorf("found %q, afterwards %q", w.found, w.missed)
	}
}

// A hundred goroutines share a finder.
func TestConcurrentUse(t *testing.T) {
	finder := &Finder{}
	root := chi.NewRouter()
	root.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			route := finder.Find(r)
			defer finder.Release(route)
			_, _ = fmt.Fprint(w, route.Pattern, " ", route.Param("id"))
		})
	})
	root.Route("/v1", func(r chi.Router) { r.Get("/{id}", func(http.ResponseWriter, *http.Request) {}) })
	done := make(chan bool)
	for i := range 100 {
		go func() {
			for range 50 {
				w := httptest.NewRecorder()
				root.ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprint("/v1/", i), nil))
				if w.Body.String() != fmt.Sprint("/v1/{id} ", i) {
					t.Errorf("got %s", w.Body)
				}
			}
			done <- true
		}()
	}
	for range 100 {
		<-done
	}
}

func BenchmarkFind(b *testing.B) {
	for name, path := range map[string]string{"flat": "/a/7", "mounted": "/v1/shops/7/items/8"} {
		b.Run(name, func(b *testing.B) {
			finder := &Finder{}
			root := chi.NewRouter()
			for _, p := range strings.Split("/a/{id} /b/{id} /c/{id}/d", " ") {
				root.Get(p, func(http.ResponseWriter, *http.Request) {})
			}
			root.Route("/v1", func(r chi.Router) {
				r.Route("/shops/{id}", func(r chi.Router) { r.Get("/items/{item}", func(http.ResponseWriter, *http.Request) {}) })
			})
			var inside *http.Request
			probe := chi.NewRouter()
			probe.Use(func(http.Handler) http.Handler {
				return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { inside = r.Clone(r.Context()) })
			})
			probe.Mount("/", root)
			probe.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", path, nil))
			chi.RouteContext(inside.Context()).Routes = root
			b.ReportAllocs()
			for b.Loop() {
				finder.Release(finder.Find(inside))
			}
		})
	}
}
