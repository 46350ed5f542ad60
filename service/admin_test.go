package service_test

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func TestCreateApplication(t *testing.T) {
	r, a := startEditable(t, "")
	if got := a.must(200, "GET", "/applications", ""); strings.TrimSpace(string(got.body)) != `{"applications":[]}` {
		t.Errorf("at first: %s", got.body)
	}
	got := a.must(201, "POST", "/applications", `{"name":"a b/c","policies":[{"method":"GET","url":"/x","hasRateLimit":true,"limit":2,"window":"day"}]}`)
	key := got.text(t, "key")
	if !regexp.MustCompile(`^uf_[0-9A-Za-z]{32}$`).MatchString(key) || got.text(t, "application.keys.0.prefix") != key[:7] {
		t.Errorf("key %q, %s", key, got.body)
	}
	if got.text(t, "application.source") != "api" || got.field(t, "application.version") != 1.0 || got.header.Get("ETag") != `"1"` || got.header.Get("Location") != "/api/v1/applications/a%20b%2Fc" {
		t.Errorf("%v %s", got.header, got.body)
	}
	if again := a.must(200, "GET", "/applications/a%20b%2Fc", ""); again.field(t, "keys.0.lastUsedAt") != nil || strings.Contains(string(again.body), key) {
		t.Errorf("read again: %s", again.body)
	}
	ws := r.dial(t, key)
	for i, want := range []string{"", "", "rate_limit_exceeded"} {
		if got := ask(t, ws, reserveText("1", "GET /x", fmt.Sprint("id", i), 1)); got.Error != want {
			t.Errorf("reservation %d: %+v", i, got)
		}
	}
	if used, ok := a.must(200, "GET", "/applications/a%20b%2Fc", "").field(t, "keys.0.lastUsedAt").(float64); !ok || used < 1e12 {
		t.Errorf("last used: %v", used)
	}
	a.must(204, "DELETE", "/applications/a%20b%2Fc", "")
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("after the application was deleted: %v", err)
	}
	if l := r.ledger.Counters().Ledgers; l != 1 {
		t.Errorf("%d ledgers are left", l)
	}
}

func TestCreateApplicationRefused(t *testing.T) {
	_, a := startEditable(t, example)
	many := strings.Repeat("x", 201)
	for _, test := range []struct {
		body   string
		status int
		code   string
	}{
		{`{"name":"acme"}`, 409, "already_exists"},
		{`{"name":""}`, 422, "invalid"},
		{`{"name":".."}`, 422, "invalid"},
		{`{"name":"` + many + `"}`, 422, "invalid"},
		{`{}`, 422, "invalid"},
		{`{"name":"n","keys":[]}`, 422, "invalid"},
		{`{"name":5}`, 422, "invalid"},
		{`{"name":"n","policies":[{"method":"GET","url":"x"}]}`, 422, "invalid"},
		{`{"name":"n","policies":[{"id":"p","method":"GET","url":"/x"}]}`, 422, "invalid"},
		{`{"name":"n","planCap":{"limit":5}}`, 422, "invalid"},
		{`{"name":"n"`, 400, "invalid_json"},
		{`{"name":"n"} {}`, 400, "invalid_json"},
		{`null`, 422, "invalid"},
		{`["n"]`, 422, "invalid"},
		{`{"name":"n","blockedEndpoints":[` + strings.Repeat(`{"method":"GET","url":"/x"},`, 50_000) + `]}`, 413, "too_large"},
	} {
		a.refused(test.status, test.code, "POST", "/applications", test.body)
	}
	a.refused(415, "unsupported_media_type", "POST", "/applications", `{"name":"n"}`, "Content-Type", "text/plain")
	a.refused(412, "precondition_failed", "POST", "/applications", `{"name":"n"}`, "If-Match", `"99"`)
	a.refused(404, "not_found", "GET", "/applications/none", "")
	a.refused(404, "not_found", "PUT", "/applications/none", "{}")
	a.refused(404, "not_found", "DELETE", "/applications/none", "")
}

// A client that read an older version changes nothing.
func TestIfMatch(t *testing.T) {
	_, a := startEditable(t, example)
	read := a.must(200, "GET", "/applications/acme", "")
	old := read.header.Get("ETag")
	policy := read.text(t, "policies.0.id")
	changed := a.must(200, "PUT", "/applications/acme", `{"discoveryDisabled":true,"policies":[{"id":"`+policy+`","method":"GET","url":"/z"}]}`, "If-Match", old)
	if tag := changed.header.Get("ETag"); tag == old || tag == "" || changed.text(t, "policies.0.id") != policy {
		t.Errorf("%v %s", changed.header, changed.body)
	}
	for _, op := range [][3]string{
		{"PUT", "/applications/acme", `{}`}, {"DELETE", "/applications/acme", ""}, {"POST", "/applications/acme/keys", ""},
		{"POST", "/applications/acme/policies", `{"method":"GET","url":"/y"}`}, {"PUT", "/applications/acme/policies/" + policy, `{"method":"GET","url":"/y"}`},
		{"DELETE", "/applications/acme/policies/" + policy, ""}, {"POST", "/applications/acme/blocked", `{"method":"GET","url":"/y"}`},
		{"DELETE", "/applications/acme/blocked?method=GET&url=/api/legacy", ""}, {"DELETE", "/applications/acme/keys/x", ""},
	} {
		a.refused(412, "precondition_failed", op[0], op[1], op[2], "If-Match", old)
	}
	a.refused(412, "precondition_failed", "POST", "/apply", example, "If-Match", `"0"`, "Content-Type", "application/yaml")
	if got := a.must(200, "GET", "/applications/acme", ""); got.header.Get("ETag") != changed.header.Get("ETag") {
		t.Errorf("it has changed: %s", got.body)
	}
	a.must(204, "DELETE", "/applications/acme", "", "If-Match", `"x", *`)
}

// Settings are replaced as a whole, and come back in one form.
func TestReplaceApplication(t *testing.T) {
	_, a := startEditable(t, example)
	got := a.must(200, "PUT", "/applications/acme", `{
		"monitoringPaths":[{"method":"*","url":"/api/*"}], "planCap":{"limit":1e6,"window":"month"}, "accountReachLimit":true,
		"policies":[
			{"name":"burst","method":"GET","url":"/a","hasRateLimit":true,"limits":[{"limit":5,"window":"second","burst":20},{"limit":1000,"window":"day"}]},
			{"hasRateLimit":true,"scope":"identity","identityFieldName":"X-User","identityFieldLocation":"headers","limit":10,"window":"hour","burst":0.5}]}`)
	for path, want := range map[string]any{
		"planCap.limit": 1e6, "accountReachLimit": true, "discoveryDisabled": false, "policies.0.name": "burst", "policies.0.limits.0.burst": 20.0,
		"policies.0.limits.1.limit": 1000.0, "policies.0.limits.1.burst": 0.0, "policies.0.scope": "alias", "policies.1.scope": "identity", "policies.1.method": "*", "policies.1.url": "*",
		"policies.1.limits.0.burst": 0.5, "policies.1.type": "API", "keys.1.source": "file", "source": "file",
	} {
		if got.field(t, path) != want {
			t.Errorf("%s is %v, want %v", path, got.field(t, path), want)
		}
	}
	if again := a.must(200, "GET", "/applications/acme", ""); string(again.body) != string(got.body) {
		t.Errorf("read again: %s\nanswer:    %s", again.body, got.body)
	}
	id := got.text(t, "policies.0.id")
	for body, want := range map[string]string{
		`{"policies":[{"id":"` + id + `","method":"GET","url":"/a"},{"id":"` + id + `","method":"GET","url":"/b"}]}`: "used twice",
		`{"policies":[{"id":"p_none","method":"GET","url":"/a"}]}`:                                                   "no policy with the id",
		`{"policies":[{"method":"GET","url":"/a","hasRateLimit":true,"limits":[{"limit":-1,"window":"day"}]}]}`:      "policies[0].limits[0].limit: ",
		`{"policies":[{"method":"GET","url":"/a","limits":[{"limit":"x"}]}]}`:                                        "here is a string, where a number is expected",
		`{"colour":"red"}`: `there is no field "colour"`,
		`{"name":"other"}`: `there is no field "name"`,
	} {
		if got := a.must(422, "PUT", "/applications/acme", body); !strings.Contains(got.text(t, "message"), want) {
			t.Errorf("%s: %s", body, got.body)
		}
	}
	if empty := a.must(200, "PUT", "/applications/acme", `{}`); empty.field(t, "planCap") != nil || len(empty.field(t, "policies").([]any)) != 0 || len(empty.field(t, "keys").([]any)) != 2 {
		t.Errorf("%s", empty.body)
	}
}

func TestKeys(t *testing.T) {
	r, a := startEditable(t, "")
	first := a.must(201, "POST", "/applications", `{"name":"n"}`)
	old := r.dial(t, first.text(t, "key"))
	made := a.must(201, "POST", "/applications/n/keys", `{"label":"the next one"}`)
	if made.text(t, "label") != "the next one" || made.text(t, "source") != "api" || made.header.Get("Location") != "/api/v1/applications/n/keys/"+made.text(t, "id") {
		t.Errorf("%v %s", made.header, made.body)
	}
	a.refused(409, "too_many_keys", "POST", "/applications/n/keys", "")
	a.refused(422, "invalid", "POST", "/applications/n/keys", `{"label":"`+strings.Repeat("x", 201)+`"}`)
	next := r.dial(t, made.text(t, "key"))
	a.must(204, "DELETE", "/applications/n/keys/"+first.text(t, "application.keys.0.id"), "")
	if _, _, err := old.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("the revoked key's connection: %v", err)
	}
	if got := ask(t, next, reserveText("1", "GET /x", "id", 1)); got.Error != "" {
		t.Errorf("the other key's: %+v", got)
	}
	if _, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr+"/ws", http.Header{"x-usage-key": {first.text(t, "key")}}); err == nil || resp == nil || resp.StatusCode != 401 {
		t.Errorf("the revoked key: %v", err)
	}
	a.refused(404, "not_found", "DELETE", "/applications/n/keys/none", "")
	a.must(201, "POST", "/applications/n/keys", "")
	if strings.Contains(r.log.String(), "uf_") {
		t.Errorf("a key is in the log:\n%s", r.log)
	}
}

func TestPolicies(t *testing.T) {
	r, a := startEditable(t, example)
	ws := r.dial(t, "uf_dev_key")
	made := a.must(201, "POST", "/applications/acme/policies", `{"method":"GET","url":"/new","hasRateLimit":true,"limit":1,"window":"day"}`)
	id := made.text(t, "id")
	if made.header.Get("Location") != "/api/v1/applications/acme/policies/"+id || made.text(t, "name") != "GET /new" {
		t.Errorf("%v %s", made.header, made.body)
	}
	if got := ask(t, ws, reserveText("1", "GET /new", "a", 1)); got.Payload["limit"] != 1.0 {
		t.Errorf("at once: %+v", got)
	}
	twin := a.must(201, "POST", "/applications/acme/policies", `{"method":"GET","url":"/new","hasRateLimit":true,"limit":1,"window":"day"}`).text(t, "id")
	if twin == id {
		t.Error("two policies have one id")
	}
	a.must(204, "DELETE", "/applications/acme/policies/"+twin, "")
	put := a.must(200, "PUT", "/applications/acme/policies/"+id, `{"id":"`+id+`","name":"renamed","method":"GET","url":"/new","hasRateLimit":true,"limits":[{"limit":3,"window":"day"}]}`)
	if put.text(t, "id") != id || put.text(t, "name") != "renamed" {
		t.Errorf("%s", put.body)
	}
	if got := ask(t, ws, reserveText("1", "GET /new", "b", 1)); got.Error != "" || got.Payload["policy"] != "renamed" {
		t.Errorf("after the change: %+v", got)
	}
	if got := a.must(200, "GET", "/applications/acme/policies", ""); len(got.field(t, "policies").([]any)) != 4 {
		t.Errorf("%s", got.body)
	}
	a.refused(422, "invalid", "POST", "/applications/acme/policies", `{"id":"x","method":"GET","url":"/new"}`)
	a.refused(422, "invalid", "POST", "/applications/acme/policies", `{"method":"GET","url":"/new","hasRateLimit":true}`)
	a.refused(422, "invalid", "PUT", "/applications/acme/policies/"+id, `{"id":"x","method":"GET","url":"/new"}`)
	a.refused(422, "invalid", "PUT", "/applications/acme/policies/"+id, `{"method":"GET"}`)
	for _, op := range [][2]string{{"GET", ""}, {"PUT", `{"method":"GET","url":"/x"}`}, {"DELETE", ""}} {
		a.refused(404, "not_found", op[0], "/applications/acme/policies/none", op[1])
		a.refused(404, "not_found", op[0], "/applications/none/policies/"+id, op[1])
	}
	a.refused(404, "not_found", "GET", "/applications/none/policies", "")
}

func TestBlocked(t *testing.T) {
	r, a := startEditable(t, example)
	a.must(201, "POST", "/applications/acme/blocked", `{"method":"GET","url":"/x","identity":"ann lee"}`)
	a.refused(409, "already_blocked", "POST", "/applications/acme/blocked", `{"method":"GET","url":"/x","identity":"ann lee"}`)
	a.refused(422, "invalid", "POST", "/applications/acme/blocked", `{"method":"GET"}`)
	if got := ask(t, r.dial(t, "uf_dev_key"), `{"type":"get_blocked_endpoints","id":"b"}`); got.Payload["total"] != 3.0 {
		t.Errorf("agents see %+v", got)
	}
	a.must(204, "DELETE", "/applications/acme/blocked?method=GET&url=/x&identity=ann+lee", "")
	a.refused(404, "not_found", "DELETE", "/applications/acme/blocked?method=GET&url=/x&identity=ann+lee", "")
	a.refused(404, "not_found", "DELETE", "/applications/acme/blocked", "")
}

// A service without a store for its configuration shows it, and changes nothing.
func TestNotEditable(t *testing.T) {
	r := start(t, service.Options{AdminToken: adminToken})
	a := &admin{t: t, base: "http://" + r.addr, header: http.Header{"Authorization": {"Bearer " + adminToken}}}
	got := a.must(200, "GET", "/applications", "")
	id := got.text(t, "applications.0.policies.0.id")
	if got.text(t, "applications.0.source") != "file" || got.text(t, "applications.0.keys.0.prefix") != "uf_de" || id == "" {
		t.Errorf("%s", got.body)
	}
	a.must(200, "GET", "/applications/acme/policies/"+id, "")
	a.must(200, "POST", "/applications/acme/match", `{"method":"GET","url":"/x"}`)
	for _, op := range [][3]string{
		{"POST", "/applications", `{"name":"n"}`}, {"PUT", "/applications/acme", `{}`}, {"DELETE", "/applications/acme", ""}, {"POST", "/applications/acme/keys", ""},
		{"DELETE", "/applications/acme/keys/x", ""}, {"POST", "/applications/acme/policies", `{"method":"GET","url":"/y"}`},
		{"PUT", "/applications/acme/policies/" + id, `{"method":"GET","url":"/y"}`}, {"DELETE", "/applications/acme/policies/" + id, ""},
		{"POST", "/applications/acme/blocked", `{"method":"GET","url":"/y"}`}, {"DELETE", "/applications/acme/blocked?method=GET&url=/api/legacy", ""},
	} {
		a.refused(501, "not_editable", op[0], op[1], op[2])
	}
	for _, path := range []string{"/apply", "/apply?dry_run=true"} {
		a.refused(501, "not_editable", "POST", path, example, "Content-Type", "application/yaml")
	}
}

func TestApply(t *testing.T) {
	r, a := startEditable(t, example)
	apply := func(path, text string) reply {
		t.Helper()
		return a.must(200, "POST", path, text, "Content-Type", "application/yaml")
	}
	const text = `
server: {listen: "localhost:1"}
applications:
  - name: acme
    keys: [uf_a_third_key_that_is_longer]
    planCap: {limit: 5, window: month}
    policies:
      - {method: GET, url: /api/reports, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 9, window: minute}
      - {method: GET, url: /added}
  - name: fresh
    policies: [{method: GET, url: /x}]
`
	before := a.must(200, "GET", "/applications", "")
	dry := apply("/apply?dry_run=true", text)
	if after := a.must(200, "GET", "/applications", ""); string(after.body) != string(before.body) {
		t.Errorf("a dry run has changed %s", after.body)
	}
	done := apply("/apply", text)
	if string(dry.body) != string(done.body) {
		t.Errorf("dry: %s\nreal: %s", dry.body, done.body)
	}
	details := fmt.Sprint(done.field(t, "changes.0.details"))
	for _, want := range []string{"key uf_a_th… added", "policy GET /api/reports (5/minute) changed to GET /api/reports (9/minute)", "policy GET /added added", "policy POST /api/completions (10000/day) removed", "planCap changed", "blockedEndpoints changed", "the API's"} {
		if !strings.Contains(details, want) {
			t.Errorf("%q is not in %s", want, details)
		}
	}
	warnings := fmt.Sprint(done.field(t, "warnings"))
	for _, want := range []string{"server: ", "acme has 3 live keys", "fresh has no key"} {
		if !strings.Contains(warnings, want) {
			t.Errorf("%q is not in %s", want, warnings)
		}
	}
	if done.text(t, "changes.0.action") != "updated" || done.text(t, "changes.1.action") != "created" {
		t.Errorf("%s", done.body)
	}
	got := a.must(200, "GET", "/applications", "")
	if got.text(t, "applications.0.source") != "api" || got.text(t, "applications.0.policies.0.id") != before.text(t, "applications.0.policies.0.id") || got.text(t, "applications.1.name") != "other" {
		t.Errorf("%s", got.body)
	}
	for _, key := range []string{"uf_dev_key", "uf_a_third_key_that_is_longer"} {
		if r.Config().Application(key) == nil {
			t.Errorf("%s is gone", key)
		}
	}
	again := apply("/apply", text)
	if again.text(t, "changes.0.action") != "unchanged" || again.text(t, "changes.1.action") != "unchanged" {
		t.Errorf("once more: %s", again.body)
	}
	if last := a.must(200, "GET", "/applications", ""); last.header.Get("ETag") != got.header.Get("ETag") {
		t.Error("what changes nothing makes a version")
	}

	for text, want := range map[string]string{
		"applications:\n  - name: a\n    colour: red\n":                              "usageflow.yaml:3: ",
		"applications:\n  - name: a\n    policies:\n      - {method: GET, url: x}\n": "usageflow.yaml:4: ",
		"applications: [{name: a, keys: [uf_other_key]}]":                            "has this key already",
		"applications: []": "there is no application",
	} {
		got := a.must(422, "POST", "/apply", text, "Content-Type", "application/yaml")
		if !strings.Contains(got.text(t, "message"), want) || strings.Contains(string(got.body), "uf_other_key") {
			t.Errorf("%s: %s", text, got.body)
		}
	}
	a.refused(400, "invalid_parameter", "POST", "/apply?dry_run=perhaps", text, "Content-Type", "application/yaml")
	a.refused(415, "unsupported_media_type", "POST", "/apply", text, "Content-Type", "application/x-www-form-urlencoded")
}
