package service_test

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// concrete is a path of the route table with names put in.
func concrete(path string) string {
	return strings.NewReplacer("{application}", "acme", "{key}", "k", "{policy}", "p").Replace(path)
}

// No route is served to strangers: without a token, with a wrong one, with somebody's cookie from another web site.
func TestRoutesAreProtected(t *testing.T) {
	r, a := startEditable(t, example)
	signIn := a.must(200, "POST", "/session", `{"token":"`+adminToken+`"}`)
	cookie, _, _ := strings.Cut(signIn.header.Get("Set-Cookie"), ";")
	csrf := signIn.text(t, "csrf")
	for name, open := range r.Routes() {
		method, path, _ := strings.Cut(name, " ")
		url := "http://" + r.addr + concrete(path)
		safe := method == http.MethodGet
		for _, test := range []struct {
			name    string
			header  http.Header
			refused bool
			status  int
		}{
			{"no token", nil, !open, 401},
			{"a wrong token", http.Header{"Authorization": {"Bearer wrong"}}, !open, 401},
			{"a wrong token and a cookie", http.Header{"Authorization": {"Bearer wrong"}, "Cookie": {cookie}, "X-Csrf-Token": {csrf}}, !open, 401},
			{"a made-up cookie", http.Header{"Cookie": {cookie + "A"}, "X-Csrf-Token": {csrf}}, !open, 401},
			{"a cookie alone", http.Header{"Cookie": {cookie}}, !open && !safe, 403},
			{"a cookie and a wrong CSRF token", http.Header{"Cookie": {cookie}, "X-Csrf-Token": {"x" + csrf}}, !open && !safe, 403},
			{"another origin", http.Header{"Authorization": {"Bearer " + adminToken}, "Cookie": {cookie}, "X-Csrf-Token": {csrf}, "Origin": {"http://elsewhere.example"}}, true, 403},
			{"another site", http.Header{"Authorization": {"Bearer " + adminToken}, "Cookie": {cookie}, "X-Csrf-Token": {csrf}, "Sec-Fetch-Site": {"cross-site"}}, true, 403},
			{"a sibling site", http.Header{"Authorization": {"Bearer " + adminToken}, "Cookie": {cookie}, "X-Csrf-Token": {csrf}, "Sec-Fetch-Site": {"same-site"}}, true, 403},
		} {
			if !test.refused {
				continue
			}
			if status, _, body := request(t, method, url, test.header); status != test.status {
				t.Errorf("%s with %s: %d %.200s, want %d", name, test.name, status, body, test.status)
			}
		}
	}
	if n := len(r.Config().Applications); n != 2 {
		t.Errorf("there are %d applications", n)
	}
	// With both, the same routes are reached.
	for name, header := range map[string]http.Header{
		"the token": {"Authorization": {"Bearer " + adminToken}}, "a session": {"Cookie": {cookie}, "X-Csrf-Token": {csrf}, "Origin": {"http://" + r.addr}, "Sec-Fetch-Site": {"same-origin"}},
	} {
		if status, _, body := request(t, "DELETE", "http://"+r.addr+"/api/v1/applications/acme/keys/none", header); status != 404 {
			t.Errorf("with %s: %d %s", name, status, body)
		}
		if status, _, body := request(t, "GET", "http://"+r.addr+"/api/v1/applications", header); status != 200 {
			t.Errorf("with %s: %d %s", name, status, body)
		}
	}
}

// Without an admin token, other web sites and other names are kept out, and what changes something is not a form of a browser's.
func TestRoutesWithoutToken(t *testing.T) {
	r := start(t, service.Options{})
	for name := range r.Routes() {
		method, path, _ := strings.Cut(name, " ")
		url := "http://" + r.addr + concrete(path)
		headers := []http.Header{
			{"Host": {"rebound.example"}}, {"Origin": {"http://elsewhere.example"}}, {"Sec-Fetch-Site": {"cross-site"}},
			{"Sec-Fetch-Site": {"cross-site"}, "X-Csrf-Token": {"x"}},
		}
		if method != http.MethodGet && path != "/api/v1/session" {
			headers = append(headers, http.Header{"Origin": {"http://" + r.addr}}, http.Header{"Sec-Fetch-Site": {"same-origin"}}, http.Header{"Sec-Fetch-Mode": {"navigate"}})
		}
		for _, header := range headers {
			if status, _, body := request(t, method, url, header); status != 403 {
				t.Errorf("%s %v: %d %.100s", name, header, status, body)
			}
		}
	}
	for _, header := range []http.Header{nil, {"Origin": {"http://" + r.addr}, "X-Csrf-Token": {"x"}}} {
		if status, _, body := request(t, "DELETE", "http://"+r.addr+"/api/v1/applications/none", header); status != 501 {
			t.Errorf("%v: %d %s", header, status, body)
		}
	}
}

// The description and the route table have the same operations, and the tests have driven each.
func TestOpenAPI(t *testing.T) {
	doc := openAPI(t)
	r, a := startEditable(t, example)
	described := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			described[method+" "+path] = true
		}
	}
	routes := map[string]bool{}
	for name := range r.Routes() {
		routes[strings.Replace(name, " /api/v1", " ", 1)] = true
	}
	got, want := slices.Sorted(maps.Keys(described)), slices.Sorted(maps.Keys(routes))
	if !slices.Equal(got, want) {
		t.Errorf("described: %q\nserved:    %q", got, want)
	}
	if served := a.must(200, "GET", "/openapi.json", ""); served.text(t, "info.title") != doc.Info.Title {
		t.Errorf("served: %s", served.body)
	}

	driveAll(t, r, a)
	for _, name := range want {
		for _, succeeded := range []bool{true, false} {
			if _, ok := driven.Load(drivenKey{name, succeeded}); !ok && (succeeded || !slices.Contains(neverFail, name)) {
				t.Errorf("%s was not driven (success: %v)", name, succeeded)
			}
		}
	}
}

// neverFail are the operations without an error of their own.
var neverFail = []string{"GET /session"}

// driveAll sends each operation, with success and without.
func driveAll(t *testing.T, r *running, a *admin) {
	stranger := &admin{t: t, base: a.base}
	for name := range r.Routes() {
		method, path, _ := strings.Cut(name, " /api/v1")
		switch path {
		case "/session":
		default:
			stranger.refused(401, "unauthorized", method, concrete(path), "")
		}
	}
	a.must(200, "GET", "/session", "")
	a.must(200, "POST", "/session", `{"token":"`+adminToken+`"}`)
	a.refused(401, "unauthorized", "POST", "/session", `{"token":"x"}`)
	a.must(204, "DELETE", "/session", "")
	stranger.refused(401, "unauthorized", "DELETE", "/session", "")

	a.must(201, "POST", "/applications", `{"name":"new"}`)
	a.must(200, "GET", "/applications", "")
	a.must(200, "GET", "/applications/new", "")
	a.must(200, "PUT", "/applications/new", `{"planCap":{"limit":5,"window":"day"}}`)
	key := a.must(201, "POST", "/applications/new/keys", "")
	a.must(204, "DELETE", "/applications/new/keys/"+key.text(t, "id"), "")
	policy := a.must(201, "POST", "/applications/new/policies", `{"method":"GET","url":"/x"}`).text(t, "id")
	a.must(200, "GET", "/applications/new/policies", "")
	a.must(200, "GET", "/applications/new/policies/"+policy, "")
	a.must(200, "PUT", "/applications/new/policies/"+policy, `{"method":"GET","url":"/y"}`)
	a.must(204, "DELETE", "/applications/new/policies/"+policy, "")
	a.must(201, "POST", "/applications/new/blocked", `{"method":"GET","url":"/x"}`)
	a.must(204, "DELETE", "/applications/new/blocked?method=GET&url=/x", "")
	a.must(200, "POST", "/applications/new/match", `{"method":"GET","url":"/x"}`)
	a.must(204, "DELETE", "/applications/new", "")
	a.must(200, "POST", "/apply", example, "Content-Type", "application/yaml")
	ws := r.dial(t, "uf_dev_key")
	ask(t, ws, reserveText("1", "GET /api/reports ann", "a", 2))
	ask(t, ws, useText("2", "GET /api/reports ann", "a", 3))
	ask(t, ws, reserveText("3", "GET /free bob", "b", 1))
	const ledger = "application=acme&alias=GET%20/api/reports%20ann"
	a.must(200, "GET", "/ledgers?sort=share&application=acme", "")
	a.refused(400, "invalid_parameter", "GET", "/ledgers?sort=luck", "")
	a.must(200, "GET", "/ledger?"+ledger, "")
	a.must(200, "GET", "/ledger?application=acme&alias=GET%20/free%20bob", "")
	a.refused(404, "not_found", "GET", "/ledger?application=acme&alias=x", "")
	a.must(200, "GET", "/allocations?"+ledger, "")
	a.must(200, "GET", "/usage?group_by=identity", "")
	a.refused(400, "invalid_parameter", "GET", "/usage?group_by=luck", "")
	for _, path := range []string{"/rates", "/stats"} {
		a.must(200, "GET", path, "")
	}
	a.must(200, "POST", "/backup", "")
	events := openEvents(t, a, "", "")
	driven.Store(drivenKey{"GET /events", true}, true)
	events.close()
}
