package core_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestMeteredRequestIsReservedAndSettled(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(policy("GET", "/api/users/:id", "headers", "X-User")) })
	w := h.do(h.route("/api/users/{id:[0-9]+}", ok), get("/api/users/7?secret=1", "X-User", "acme", "User-Agent", "curl"))
	if w.Code != 200 || w.Body.String() != "ok" {
		t.Fatalf("got %d %q", w.Code, w.Body)
	}
	u := h.use()
	if u.Alias != "GET /api/users/:id acme" || u.Amount != 1 || !u.WaitForConfirmation {
		t.Errorf("settlement %+v", u)
	}
	want := map[string]any{
		"method": "GET", "url": "/api/users/:id", "rawUrl": "/api/users/7", "clientIP": "192.0.2.1", "userAgent": "curl",
		"responseStatusCode": 200.0, "usageflowRequestId": u.AllocationID,
	}
	for name, value := range want {
		if u.Metadata[name] != value {
			t.Errorf("metadata %s: got %v, want %v", name, u.Metadata[name], value)
		}
	}
	if _, ok := u.Metadata["requestDuration"].(float64); !ok || u.Metadata["timestamp"] == nil || len(u.Metadata) != len(want)+2 {
		t.Errorf("metadata %v", u.Metadata)
	}
	r := h.srv.Messages(socket.TypeRequestForAllocation)
	if len(r) != 1 || r[0].Allocation().Alias != u.Alias || r[0].Allocation().Amount != 1 || r[0].Allocation().AllocationID != u.AllocationID {
		t.Errorf("reservations %v", r)
	}
	if s := h.settled(1); s.Admitted != 1 || s.Settled != 1 {
		t.Errorf("stats %+v", s)
	}
	check(t, h.srv)
}

// check fails the test where the service saw a broken message, or a use before its reservation.
func check(t *testing.T, srv *sockettest.Server) {
	t.Helper()
	if err := srv.CheckOrder(); err != nil {
		t.Error(err)
	}
	if err := srv.CheckProtocol(); err != nil {
		t.Error(err)
	}
}

// What the configuration says of a route, as the requests of it see it.
func TestConfigurationDecides(t *testing.T) {
	type rules struct {
		policies              []sockettest.Policy
		monitored, whitelist  []sockettest.Endpoint
		blocked               []sockettest.Endpoint
		reached               bool
		method, route, header string
	}
	const free, metered, forbidden = 0, 1, 403
	user := policy("GET", "/x", "headers", "X-User")
	for name, tc := range map[string]struct {
		rules rules
		want  int
		alias string
	}{
		"an empty monitoring list monitors everything": {rules{method: "GET", route: "/x"}, metered, "GET /x"},
		"monitored":                             {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "GET", route: "/x"}, metered, "GET /x"},
		"monitored in the other router's form":  {rules{monitored: []sockettest.Endpoint{{Method: "get", URL: "/x/{id}"}}, method: "GET", route: "/x/:id"}, metered, "GET /x/:id"},
		"not monitored":                         {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "/y"}}, method: "GET", route: "/x"}, free, ""},
		"other method not monitored":            {rules{monitored: []sockettest.Endpoint{{Method: "POST", URL: "/x"}}, method: "GET", route: "/x"}, free, ""},
		"monitored by any method":               {rules{monitored: []sockettest.Endpoint{{Method: "*", URL: "/x"}}, method: "PUT", route: "/x"}, metered, "PUT /x"},
		"monitored by any url":                  {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "*"}}, method: "GET", route: "/x"}, metered, "GET /x"},
		"a star inside a url is no wildcard":    {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "/x/*"}}, method: "GET", route: "/x/y"}, free, ""},
		"a catch-all route":                     {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "/files/*"}}, method: "GET", route: "/files/*path"}, metered, "GET /files/*"},
		"whitelist before monitoring":           {rules{monitored: []sockettest.Endpoint{{Method: "*", URL: "*"}}, whitelist: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "GET", route: "/x"}, free, ""},
		"whitelist before blocks":               {rules{blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, whitelist: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "GET", route: "/x"}, free, ""},
		"blocked":                               {rules{blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "GET", route: "/x"}, forbidden, ""},
		"blocked by wildcards":                  {rules{blocked: []sockettest.Endpoint{{Method: "*", URL: "*"}}, method: "GET", route: "/x"}, forbidden, ""},
		"blocks hold where nothing is metered":  {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "/y"}}, blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "GET", route: "/x"}, forbidden, ""},
		"an endpoint's block holds for callers": {rules{policies: []sockettest.Policy{user}, blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "GET", route: "/x", header: "acme"}, forbidden, ""},
		"a blocked caller":                      {rules{policies: []sockettest.Policy{user}, blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x", Identity: "acme"}}, method: "GET", route: "/x", header: "acme"}, forbidden, ""},
		"another caller":                        {rules{policies: []sockettest.Policy{user}, blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x", Identity: "acme"}}, method: "GET", route: "/x", header: "bob"}, metered, "GET /x bob"},
		"a caller without a name":               {rules{policies: []sockettest.Policy{user}, blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x", Identity: "acme"}}, method: "GET", route: "/x"}, metered, "GET /x"},
		"a blocked caller where nothing is metered": {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "/y"}}, policies: []sockettest.Policy{user},
			blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x", Identity: "acme"}}, method: "GET", route: "/x", header: "acme"}, forbidden, ""},
		"HEAD of a blocked GET":               {rules{blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "HEAD", route: "/x"}, forbidden, ""},
		"HEAD of a whitelisted GET":           {rules{whitelist: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "HEAD", route: "/x"}, free, ""},
		"HEAD of a monitored GET":             {rules{monitored: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "HEAD", route: "/x"}, metered, "HEAD /x"},
		"HEAD takes the policy of GET":        {rules{policies: []sockettest.Policy{user}, method: "HEAD", route: "/x", header: "acme"}, metered, "HEAD /x acme"},
		"HEAD has a policy of its own":        {rules{policies: []sockettest.Policy{user, policy("HEAD", "/x", "headers", "X-None")}, method: "HEAD", route: "/x", header: "acme"}, metered, "HEAD /x"},
		"GET does not take that of HEAD":      {rules{policies: []sockettest.Policy{policy("HEAD", "/x", "headers", "X-User")}, method: "GET", route: "/x", header: "acme"}, metered, "GET /x"},
		"OPTIONS of a route that has it":      {rules{policies: []sockettest.Policy{policy("*", "/x", "headers", "X-User")}, method: "OPTIONS", route: "/x", header: "acme"}, metered, "OPTIONS /x acme"},
		"the account has reached its limit":   {rules{policies: []sockettest.Policy{limited(user)}, reached: true, method: "GET", route: "/x"}, free, ""},
		"that does not lift blocks":           {rules{reached: true, blocked: []sockettest.Endpoint{{Method: "GET", URL: "/x"}}, method: "GET", route: "/x"}, forbidden, ""},
		"no route matched":                    {rules{blocked: []sockettest.Endpoint{{Method: "*", URL: "*"}}, method: "GET", route: ""}, free, ""},
		"a function's policy names no caller": {rules{policies: []sockettest.Policy{{Method: "GET", URL: "/x", Type: "FUNCTION", IdentityFieldLocation: "headers", IdentityFieldName: "X-User", HasRateLimit: true}}, method: "GET", route: "/x", header: "acme"}, metered, "GET /x"},
		"a policy for every method and url":   {rules{policies: []sockettest.Policy{policy("*", "*", "headers", "X-User")}, method: "PATCH", route: "/z", header: "acme"}, metered, "PATCH /z acme"},
		"a named policy goes before that":     {rules{policies: []sockettest.Policy{policy("*", "*", "headers", "X-Other"), user}, method: "GET", route: "/x", header: "acme"}, metered, "GET /x acme"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, func(s *sockettest.Server) {
				s.SetPolicies(tc.rules.policies...)
				s.SetConfig(sockettest.Config{MonitoringPaths: tc.rules.monitored, WhitelistEndpoints: tc.rules.whitelist, AccountReachLimit: tc.rules.reached})
				s.SetBlocked(tc.rules.blocked...)
			})
			r := request(tc.rules.method, "/some/path", nil)
			if tc.rules.header != "" {
				r.Header.Set("X-User", tc.rules.header)
			}
			if tc.alias != "" {
				r.Header.Set("X-Other", "other")
			}
			w := h.do(h.route(tc.rules.route, ok), r)
			want := http.StatusOK
			if tc.want == forbidden {
				want = http.StatusForbidden
				if !strings.HasPrefix(w.Body.String(), `{"error":"endpoint_blocked","message":"`) {
					t.Errorf("body %s", w.Body)
				}
				if s := h.flow.Stats(); s.Blocked != 1 || s.Admitted != 0 {
					t.Errorf("stats %+v", s)
				}
			}
			if w.Code != want {
				t.Errorf("status %d, want %d", w.Code, want)
			}
			if tc.want == metered {
				if u := h.use(); u.Alias != tc.alias {
					t.Errorf("alias %q, want %q", u.Alias, tc.alias)
				}
				return
			}
			if s := h.flow.Stats(); s.Admitted != 0 || h.srv.Count(socket.TypeRequestForAllocation, socket.TypeUseAllocation) != 0 {
				t.Errorf("it was metered: %+v", s)
			}
		})
	}
}

// The order in which the service lists policies changes nothing.
func TestOrderOfPoliciesChangesNothing(t *testing.T) {
	list := []sockettest.Policy{
		policy("GET", "/x", "headers", "X-B"),
		policy("GET", "/x", "query", "user"),
		policy("GET", "/x", "headers", "X-A"),
		limited(policy("*", "/x", "cookie", "[technique=jwt]s")),
		policy("GET", "*", "body", "user"),
		tracked("total"),
		tracked("amount"),
		{Method: "GET", URL: "/x", Type: "FUNCTION", IdentityFieldLocation: "headers", IdentityFieldName: "X-0"},
	}
	first := ""
	for seed := range uint64(12) {
		shuffled := append([]sockettest.Policy{}, list...)
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(list), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(shuffled...) })
		handler := h.route("/x", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"total":7,"amount":8}`)) })
		h.do(handler, request("GET", "/x?user=q", strings.NewReader(`{"user":"b"}`), "X-A", "a", "X-B", "b", "X-0", "f"))
		h.do(handler, request("GET", "/x?user=q", strings.NewReader(`{"user":"b"}`)))
		h.do(handler, request("GET", "/x", strings.NewReader(`{"user":"b"}`)))
		h.settled(3)
		var uses []string
		for _, u := range h.uses(3) {
			uses = append(uses, fmt.Sprintf("%s=%g ", u.Alias, u.Amount))
		}
		slices.Sort(uses) // they come over several connections
		result := strings.Join(uses, "")
		if first == "" {
			first = result
			if result != "GET /x a=8 GET /x b=8 GET /x q=8 " {
				t.Errorf("got %s", result)
			}
		}
		if result != first {
			t.Errorf("seed %d: got %s, want %s", seed, result, first)
		}
	}
}

func TestSkipExemptsFromEverything(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/x"}) },
		func(c *core.Config) { c.Skip = func(r *core.Request) bool { return r.Header.Get("X-Probe") != "" } })
	if w := h.do(h.route("/x", ok), get("/x", "X-Probe", "1")); w.Code != 200 {
		t.Errorf("skipped: %d", w.Code)
	}
	if w := h.do(h.route("/x", ok), get("/x")); w.Code != 403 {
		t.Errorf("not skipped: %d", w.Code)
	}
}

// A function of the configuration that panics counts as none.
func TestPanickingFunctionsOfTheConfiguration(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(policy("GET", "/x", "headers", "X-User"), policy("GET", "/y", "bearer", "sub"))
	}, func(c *core.Config) {
		c.Skip = func(*core.Request) bool { panic("skip") }
		c.Identify = func(*core.Request) (string, bool) { panic("identify") }
		c.VerifyJWT = func(string) (map[string]any, error) { panic("verify") }
		c.VoidStatus = func(int) bool { panic("void") }
	})
	h.do(h.route("/x", ok), get("/x", "X-User", "acme"))
	h.do(h.route("/y", ok), get("/y", "Authorization", "Bearer a.b.c"))
	u := h.uses(2)
	if u[0].Alias != "GET /x acme" || u[1].Alias != "GET /y" || u[0].Amount != 1 {
		t.Errorf("settlements %+v", u)
	}
	if n := h.logs.Count("a function of the configuration panicked"); n < 4 {
		t.Errorf("%d log lines", n)
	}
	if s := h.flow.Stats(); s.InvalidTokens != 1 {
		t.Errorf("stats %+v", s)
	}
}

// However many paths and methods clients think of, only routes have ledgers.
func TestBoundedNumberOfLedgers(t *testing.T) {
	h := newHarness(t, nil)
	mux := http.NewServeMux()
	mux.Handle("/items/{id}", h.route("/items/{id}", ok))
	mux.Handle("GET /exact", h.route("/exact", ok))
	n := int64(0)
	methods := []string{"GET", "HEAD", "POST", "PUT"}
	for i := range 10_000 {
		path := fmt.Sprintf("/%x/%x", rand.Uint32(), i)
		if i%10 == 0 {
			path = fmt.Sprintf("/items/%x", rand.Uint64())
			n++
		}
		h.do(mux, request(methods[i/10%4], path, nil))
	}
	h.settled(n)
	ledgers := make(map[string]bool)
	for _, m := range h.srv.Messages(socket.TypeUseAllocation) {
		ledgers[m.Use().Alias] = true
	}
	if len(ledgers) != 4 {
		t.Errorf("%d ledgers: %v", len(ledgers), ledgers)
	}
	check(t, h.srv)
}
