package middlewaretest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// testDecisions sends one request of every kind: to routes that are metered, limited, blocked, whitelisted or left alone.
func testDecisions(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, func(s *sockettest.Server) {
		s.SetPolicies(policy("GET", "/api/users/:id", "headers", "X-User"), limited(policy("GET", "/api/reports", "headers", "X-User")), policy("POST", "/api/orders", "body", "customer"),
			policy("GET", "/tenants/:tenant/*rest", "path_params", "tenant"), policy("GET", "/rest/*", "path_params", "*"), policy("GET", "/search", "query", "q"))
		s.SetConfig(sockettest.Config{
			MonitoringPaths:    []sockettest.Endpoint{{Method: "*", URL: "/api/users/:id"}, {Method: "*", URL: "/api/reports"}, {Method: "*", URL: "/api/orders"}, {Method: "*", URL: "/api/legacy"}, {Method: "GET", URL: "/tenants/{tenant}/*"}, {Method: "GET", URL: "/rest/*"}, {Method: "GET", URL: "/search"}},
			WhitelistEndpoints: []sockettest.Endpoint{{Method: "GET", URL: "/health"}},
		})
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/api/legacy"}, sockettest.Endpoint{Method: "GET", URL: "/health"},
			sockettest.Endpoint{Method: "GET", URL: "/api/users/:id", Identity: "evil"})
		s.Limit("GET /api/reports acme", 1)
	})
	var routes []Route
	for _, pattern := range []string{"/api/users/:id", "/api/reports", "/api/legacy", "/health", "/free", "/tenants/:tenant/*", "/rest/*", "/search"} {
		routes = append(routes, Route{Method: "GET", Pattern: pattern, Handler: ok}, Route{Method: "HEAD", Pattern: pattern, Handler: ok})
	}
	routes = append(routes, Route{Method: "OPTIONS", Pattern: "/api/users/:id", Handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }},
		Route{Method: "POST", Pattern: "/api/orders", Handler: func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			w.WriteHeader(http.StatusCreated)
			_, _ = fmt.Fprintf(w, "%s %v", body, err)
		}})
	ts := a.serve(Setup{Routes: routes})
	metered := 0
	for _, tc := range []struct {
		method, path, user string
		status             int
		alias              string // "": not metered
	}{
		{"GET", "/api/users/7", "acme", 200, "GET /api/users/:id acme"},
		{"GET", "/api/users/8", "", 200, "GET /api/users/:id"},
		{"GET", "/api/users/8?x=/", "a b", 200, "GET /api/users/:id a b"},
		{"HEAD", "/api/users/7", "acme", 200, "HEAD /api/users/:id acme"},
		{"OPTIONS", "/api/users/7", "acme", 204, "OPTIONS /api/users/:id"},
		{"GET", "/api/users/7", "evil", 403, ""},
		{"HEAD", "/api/users/7", "evil", 403, ""},
		{"GET", "/api/reports", "acme", 200, "GET /api/reports acme"},
		{"GET", "/api/reports", "acme", 429, ""},
		{"GET", "/api/reports", "bob", 200, "GET /api/reports bob"},
		{"HEAD", "/api/reports", "acme", 200, "HEAD /api/reports acme"}, // a ledger of its own
		{"POST", "/api/orders", "", 201, "POST /api/orders acme"},
		{"GET", "/tenants/t1/a/b", "", 200, "GET /tenants/:tenant/* t1"},
		{"GET", "/rest/a/b", "", 200, "GET /rest/* a/b"},
		{"GET", "/search?q=x+y%2Fz", "", 200, "GET /search x y/z"},
		{"GET", "/api/legacy", "acme", 403, ""},
		{"HEAD", "/api/legacy", "", 403, ""},
		{"GET", "/health", "", 200, ""}, // the whitelist wins over the block
		{"HEAD", "/health", "", 200, ""},
		{"GET", "/free", "", 200, ""},
	} {
		var body io.Reader
		if tc.method == "POST" {
			body = strings.NewReader(`{"customer":"acme"}`)
		}
		fields := []string{"Content-Type", "text/plain", "User-Agent", "suite"}
		if tc.user != "" {
			fields = append(fields, "X-User", tc.user)
		}
		got := a.send(ts, tc.method, tc.path, body, fields...)
		if got.status != tc.status {
			t.Errorf("%s %s: got %d, want %d", tc.method, tc.path, got.status, tc.status)
		}
		want := map[int]string{
			200: "ok", 201: `{"customer":"acme"} <nil>`, 403: `{"error":"endpoint_blocked","message":"This endpoint is blocked."}`,
			429: `{"error":"rate_limit_exceeded","message":"Rate limit exceeded."}`,
		}[tc.status]
		if tc.method != "HEAD" && got.body != want && (tc.status != 429 || !strings.HasPrefix(got.body, `{"error":"rate_limit_exceeded","message":"`)) {
			t.Errorf("%s %s: got %s, want %s", tc.method, tc.path, got.body, want)
		}
		if tc.status >= 400 && got.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s %s: header %v", tc.method, tc.path, got.header)
		}
		if tc.alias == "" {
			continue
		}
		metered++
		path, _, _ := strings.Cut(tc.path, "?")
		if use := a.use(metered); use.Alias != tc.alias || use.Amount != 1 || use.Metadata["rawUrl"] != path || use.Metadata["responseStatusCode"] != float64(tc.status) ||
			use.Metadata["clientIP"] != "127.0.0.1" || use.Metadata["userAgent"] != "suite" || use.Metadata["method"] != tc.method || use.Metadata["url"] != strings.Split(tc.alias, " ")[1] {
			t.Errorf("%s %s: settlement %+v, want alias %q", tc.method, tc.path, use, tc.alias)
		}
	}
	if s := a.Flow.Stats(); s.Blocked != 4 || s.Denied != 1 {
		t.Errorf("stats %+v", s)
	}
	a.Drain(int64(metered))
}

// testUnmatched sends what no route is for: however many paths and methods clients think of, only routes have ledgers, and the
// router's answers are its own.
func testUnmatched(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	setup := Setup{
		Routes: []Route{{Method: "GET", Pattern: "/items/:id", Handler: ok}, {Method: "POST", Pattern: "/items/:id", Handler: ok}},
		Groups: []Group{{Prefix: "/api", Flows: []*core.Flow{a.Flow}, Routes: []Route{{Method: "GET", Pattern: "/users/:id", Handler: ok}}}},
	}
	ts := a.serve(setup)
	setup.Groups[0].Flows = []*core.Flow{nil} // middleware of a group may change how its router answers
	bare := a.bare(setup)
	check := func(method, path string) {
		t.Helper()
		with, without := a.send(ts, method, path, nil), a.send(bare, method, path, nil)
		if with.String() != without.String() {
			t.Errorf("%s %s: got %s\nwithout the middleware %s", method, path, with, without)
		}
		if s := a.Flow.Stats(); s.Admitted != 0 || s.Missed != 0 {
			t.Fatalf("%s %s: stats %+v", method, path, s)
		}
	}
	for _, path := range []string{"/", "/nowhere", "/items", "/items/", "/api", "/api/", "/api/users", "/api/users/", "/api/nowhere/x", "//", "/%2F", "/api/%00", "/nowhere/1/../2"} {
		check("GET", path)
	}
	methods := []string{"PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW", "get", "X-1"}
	if !adapter.HeadIsGet {
		methods = append(methods, "HEAD")
	}
	for _, method := range methods {
		check(method, "/items/7")
		check(method, "/api/users/7")
		check(method, "/nowhere")
	}
	for i := range 200 {
		check([]string{"GET", "POST", "BREW", "get", "X-1"}[i%5], fmt.Sprintf("/%x/%x", rand.Uint32(), i))
	}
	for range 3 {
		a.get(ts, "/items/7")
		a.get(ts, "/api/users/7")
	}
	a.Drain(6)
	ledgers := make(map[string]int)
	for _, u := range a.Uses(6) {
		ledgers[u.Alias]++
	}
	if len(ledgers) != 2 || ledgers["GET /items/:id"] != 3 || ledgers["GET /api/users/:id"] != 3 {
		t.Errorf("ledgers %v", ledgers)
	}
}

// testPatterns sends paths that need care: what a parameter holds is the identity, decoded once.
func testPatterns(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, func(s *sockettest.Server) {
		s.SetPolicies(policy("GET", "/users/:id", "path_params", "id"), policy("GET", "/städte/:id", "path_params", "id"), policy("GET", "/files/*", "path_params", "*"))
	})
	ts := a.serve(Setup{Routes: []Route{
		{Method: "GET", Pattern: "/users/:id", Handler: ok}, {Method: "GET", Pattern: "/users/:id/posts/:post", Handler: ok}, {Method: "GET", Pattern: "/users/me/posts", Handler: ok},
		{Method: "GET", Pattern: "/städte/:id", Handler: ok}, {Method: "GET", Pattern: "/files/*", Handler: ok}, {Method: "GET", Pattern: "/a.b-c_d~e/:x", Handler: ok},
	}})
	n := 0
	for path, alias := range map[string]string{
		"/users/7":             "GET /users/:id 7",
		"/users/a%20b":         "GET /users/:id a b",
		"/users/a%2Fb":         "GET /users/:id a/b",
		"/users/100%25":        "GET /users/:id 100%",
		"/users/%2525%2F":      "GET /users/:id %25/",
		"/users/%C3%BC":        "GET /users/:id ü",
		"/users/a+b":           "GET /users/:id a+b",
		"/users/a:b*c":         "GET /users/:id a:b*c",
		"/users/7/posts/9":     "GET /users/:id/posts/:post",
		"/users/me/posts":      "GET /users/me/posts",
		"/st%C3%A4dte/M%C3%BC": "GET /städte/:id Mü",
		"/files/a/b.txt":       "GET /files/* a/b.txt",
		"/files/a%2Fb/c":       "GET /files/* a/b/c",
		"/a.b-c_d~e/1":         "GET /a.b-c_d~e/:x",
	} {
		if got := a.get(ts, path); got.status != 200 || got.body != "ok" {
			t.Errorf("%s: got %s", path, got)
			continue
		}
		n++
		if use := a.use(n); use.Alias != alias {
			t.Errorf("%s: alias %q, want %q", path, use.Alias, alias)
		}
	}
	a.Drain(int64(n))
}

// testGroups installs the middleware at different places of nested groups: it meters once, under the whole pattern.
func testGroups(t *testing.T, adapter Adapter) {
	for name, tc := range map[string]struct {
		all, outer, inner, route bool
	}{
		"the router": {all: true}, "the outer group": {outer: true}, "the inner group": {inner: true}, "the route": {route: true},
		"both groups": {outer: true, inner: true}, "all": {true, true, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			a := newApp(t, adapter, func(s *sockettest.Server) {
				s.SetPolicies(limited(policy("GET", "/v1/shops/:shop/items/:id", "path_params", "shop")), policy("*", "/v1/shops/:shop/files/*", "path_params", "*"))
				s.Limit("GET /v1/shops/:shop/items/:id s1", 1)
			})
			flows := func(yes bool) []*core.Flow {
				if yes {
					return []*core.Flow{a.Flow}
				}
				return []*core.Flow{}
			}
			ts := a.serve(Setup{
				Flows: flows(tc.all),
				Groups: []Group{{
					Prefix: "/v1", Flows: flows(tc.outer),
					Routes: []Route{{Method: "GET", Pattern: "/shops", Handler: ok}},
					Groups: []Group{{
						Prefix: "/shops/:shop", Flows: flows(tc.inner),
						Routes: []Route{
							{Method: "GET", Pattern: "/items/:id", Handler: ok, Flows: flows(tc.route)},
							{Method: "GET", Pattern: "/files/*", Handler: ok, Flows: flows(tc.route)},
						},
					}},
				}},
			})
			n := 0
			for _, request := range []struct {
				path   string
				status int
				alias  string
			}{
				{"/v1/shops/s1/items/7", 200, "GET /v1/shops/:shop/items/:id s1"},
				{"/v1/shops/s1/items/8", 429, ""},
				{"/v1/shops/s2/items/8", 200, "GET /v1/shops/:shop/items/:id s2"},
				{"/v1/shops/s1/files/a/b", 200, "GET /v1/shops/:shop/files/* a/b"},
				{"/v1/shops/s1/nowhere", 404, ""},
				{"/v1/nowhere", 404, ""},
			} {
				if got := a.get(ts, request.path); got.status != request.status {
					t.Errorf("%s: got %d", request.path, got.status)
				}
				if request.alias == "" {
					continue
				}
				n++
				if use := a.use(n); use.Alias != request.alias {
					t.Errorf("%s: alias %q, want %q", request.path, use.Alias, request.alias)
				}
			}
			a.get(ts, "/v1/shops")
			if tc.all || tc.outer {
				n++
			}
			a.Drain(int64(n))
		})
	}
}

// testInstalledTwice installs the middleware of two flows at several places: the first one meters.
func testInstalledTwice(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	other := a.newFlow()
	ts := a.serve(Setup{
		Flows: []*core.Flow{a.Flow, a.Flow, other},
		Groups: []Group{{Prefix: "/api", Flows: []*core.Flow{a.Flow, other}, Routes: []Route{{Method: "GET", Pattern: "/x", Flows: []*core.Flow{other}, Handler: func(w http.ResponseWriter, r *http.Request) {
			core.FromContext(r.Context()).SetAmount(5)
			ok(w, r)
		}}}}},
	})
	a.get(ts, "/api/x")
	if use := a.use(1); use.Amount != 5 {
		t.Errorf("amount %v", use.Amount)
	}
	a.Drain(1)
	if n := other.Stats().Admitted; n != 0 || a.Service.Count(socket.TypeRequestForAllocation) != 1 {
		t.Errorf("%d calls of the other flow, %d reservations", n, a.Service.Count(socket.TypeRequestForAllocation))
	}
}

// testBlocks: a block of an endpoint holds for everybody, one of an identity for that alone.
func testBlocks(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, func(s *sockettest.Server) {
		s.SetPolicies(policy("*", "/some", "headers", "X-User"), policy("*", "/all", "headers", "X-User"))
		s.SetBlocked(sockettest.Endpoint{Method: "*", URL: "/all"}, sockettest.Endpoint{Method: "GET", URL: "/all", Identity: "bob"}, sockettest.Endpoint{Method: "GET", URL: "/some", Identity: "acme"})
	})
	ran := make(chan string, 20)
	handler := func(w http.ResponseWriter, r *http.Request) {
		ran <- r.Method + r.URL.Path + r.Header.Get("X-User")
		ok(w, r)
	}
	behind := 0
	ts := a.serve(Setup{Routes: append(at("/all", handler), at("/some", handler)...), Behind: []Middleware{func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { behind++; next.ServeHTTP(w, r) })
	}}})
	for _, request := range []struct {
		method, path, user string
		status             int
	}{
		{"GET", "/all", "", 403}, {"GET", "/all", "acme", 403}, {"GET", "/all", "bob", 403}, {"POST", "/all", "acme", 403}, {"HEAD", "/all", "", 403},
		{"GET", "/some", "acme", 403}, {"HEAD", "/some", "acme", 403}, {"POST", "/some", "acme", 200}, {"GET", "/some", "acme2", 200}, {"GET", "/some", "", 200},
	} {
		got := a.send(ts, request.method, request.path, nil, "X-User", request.user)
		if got.status != request.status || (got.status == 403 && request.method != "HEAD" && !strings.HasPrefix(got.body, `{"error":"endpoint_blocked",`)) {
			t.Errorf("%+v: got %s", request, got)
		}
	}
	if close(ran); len(ran) != 3 || behind != 3 {
		t.Errorf("%d handlers ran, and middleware behind %d times", len(ran), behind)
	}
	a.Drain(3)
}

// testPolicyOrder permutes the policies of a route: identity, limit and amount stay the same.
func testPolicyOrder(t *testing.T, adapter Adapter) {
	policies := []sockettest.Policy{
		{Method: "GET", URL: "/x/:id", IdentityFieldLocation: "path_params", IdentityFieldName: "id"},
		limited(policy("GET", "/x/:id", "headers", "X-User")),
		{Method: "*", URL: "/x/:id", ResponseTrackingField: "n", IsResponseTrackingEnabled: true},
		{Method: "GET", URL: "/x/:id", Type: "FUNCTION", IdentityFieldLocation: "headers", IdentityFieldName: "Accept"},
	}
	for i := range 8 {
		shuffled := slices.Clone(policies)
		rand.New(rand.NewPCG(1, uint64(i))).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		a := newApp(t, adapter, func(s *sockettest.Server) {
			s.SetPolicies(shuffled...)
			s.Limit("GET /x/:id acme", 1)
		})
		ts := a.serve(Setup{Routes: at("/x/:id", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"n":4}`) })})
		first, second, other := a.get(ts, "/x/7", "X-User", "acme"), a.get(ts, "/x/7", "X-User", "acme"), a.get(ts, "/x/7")
		if first.status != 200 || second.status != 429 || other.status != 200 {
			t.Errorf("order %d: got %d, %d, %d", i, first.status, second.status, other.status)
		}
		var got []string
		for _, u := range a.Uses(2) {
			got = append(got, fmt.Sprint(u.Alias, " ", u.Amount))
		}
		if want := []string{"GET /x/:id acme 4", "GET /x/:id 7 4"}; !slices.Equal(got, want) {
			t.Errorf("order %d: got %q, want %q", i, got, want)
		}
	}
}
