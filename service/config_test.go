package service_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
)

const example = `
applications:
  - name: acme
    keys: [uf_dev_key, uf_next_key]
    monitoringPaths: [{method: "*", url: "*"}]
    whitelistEndpoints: [{method: GET, url: /health}]
    blockedEndpoints: [{method: GET, url: /api/legacy}, {method: GET, url: /api/old, identity: bob}]
    policies:
      - {method: GET, url: /api/reports, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 5, window: minute}
      - {method: POST, url: /api/completions, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 10000, window: day, responseTrackingField: usage.total_tokens}
      - {method: GET, url: "/api/users/{id}", responseTrackingField: n, isResponseTrackingEnabled: false}
  - name: other
    keys: [uf_other_key]
    accountReachLimit: true
`

func TestLoadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usageflow.yaml")
	if err := os.WriteFile(path, []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := service.LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	acme := c.Application("uf_dev_key")
	if acme == nil || acme.Name != "acme" || c.Application("uf_next_key") != acme || c.Application("uf_other_key").Name != "other" {
		t.Fatalf("applications %+v", c.Applications)
	}
	if c.Application("") != nil || c.Application("nothing") != nil {
		t.Error("an unknown key has an application")
	}
	if p := acme.Policies[0]; p.Type != service.TypeAPI || len(p.Limits) != 1 || p.Limits[0] != (service.PolicyLimit{Limit: 5e6, Window: service.WindowMinute}) || p.Name != "GET /api/reports" || p.IsResponseTrackingEnabled {
		t.Errorf("policy %+v", p)
	}
	if !acme.Policies[1].IsResponseTrackingEnabled || acme.Policies[2].IsResponseTrackingEnabled {
		t.Error("isResponseTrackingEnabled does not follow the field's presence and its own value")
	}
	if !c.Application("uf_other_key").AccountReachLimit {
		t.Error("accountReachLimit is lost")
	}
	if _, err := service.LoadConfig(path + ".none"); !os.IsNotExist(unwrap(err)) {
		t.Errorf("a missing file: %v", err)
	}
}

// The settings of the programs are kept as they are. A file of the broker's alone needs no application.
func TestConfigOfPrograms(t *testing.T) {
	c := parseConfig(t, "server: {listen: 'localhost:9000', max-connections: 7}\nbroker: {listen: 'localhost:9090', pool-size: 3, max-memory: 64M}\n"+example)
	if len(c.Applications) != 2 || c.Server["listen"] != "localhost:9000" || c.Server["max-connections"] != "7" {
		t.Errorf("server %q, %d applications", c.Server, len(c.Applications))
	}
	if len(c.Broker) != 3 || c.Broker["listen"] != "localhost:9090" || c.Broker["pool-size"] != "3" || c.Broker["max-memory"] != "64M" {
		t.Errorf("broker %q", c.Broker)
	}
	if c := parseConfig(t, "broker: {pool-size: 3}\n"); len(c.Applications) != 0 || c.Broker["pool-size"] != "3" {
		t.Errorf("without applications: %+v", c)
	}
}

func unwrap(err error) error {
	for {
		inner, ok := err.(interface{ Unwrap() error })
		if !ok || inner.Unwrap() == nil || os.IsNotExist(err) {
			return err
		}
		err = inner.Unwrap()
	}
}

// What is allowed and probably not meant is told.
func TestConfigWarnings(t *testing.T) {
	if w := parseConfig(t, example).Warnings(); len(w) > 0 {
		t.Errorf("the example has %q", w)
	}
	c := parseConfig(t, `
applications:
  - name: a
    keys: [k]
    policies:
      - {method: GTE, url: /x}
      - {method: GET, url: /x, identityFieldName: X-User}
      - {method: GET, url: /y, responseTrackingField: "a +"}
      - {method: GET, url: /z, hasRateLimit: true, limit: 1, window: day}
      - {method: GET, url: /z, hasRateLimit: true, limit: 2, window: day}
      - {type: FUNCTION, url: resize}
`)
	got := strings.Join(c.Warnings(), "\n")
	for _, want := range []string{"policy 1 (GTE /x): GTE is no method", "policy 2 (GET /x): identityFieldName and", "policy 3 (GET /y): responseTrackingField", "policy 5 (GET /z): another policy limits"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if len(c.Warnings()) != 4 {
		t.Errorf("got\n%s", got)
	}
}

func TestConfigErrors(t *testing.T) {
	policy := func(fields string) string {
		return "applications:\n  - name: a\n    keys: [secret-key]\n    policies:\n      - {method: GET, url: /x, " + fields + "}\n"
	}
	for _, test := range []struct{ name, text, want string }{
		{"unknown key", "applications:\n  - name: a\n    keys: [secret-key]\n    colour: red\n", "c.yaml:4: "},
		{"unknown policy key", policy("limits: 5"), "c.yaml:5: "},
		{"no yaml", "applications: [", "c.yaml"},
		{"wrong type", policy("hasRateLimit: maybe"), "c.yaml:5: here is a text, where a true or false is expected"},
		{"no number", policy("hasRateLimit: true, limit: lots, window: day"), "c.yaml:5: here is a text, where a number is expected"},
		{"empty", "", "no application"},
		{"no applications", "applications: []", "no application"},
		{"settings of the service alone", "server: {listen: ':9000'}", "no application"},
		{"settings that are none", "broker: [listen]", "c.yaml:1: "},
		{"no name", "applications:\n  - keys: [secret-key]\n", "has no name"},
		{"no keys", "applications:\n  - name: a\n", "has no keys"},
		{"empty key", "applications:\n  - name: a\n    keys: ['']\n", "key is empty"},
		{"same name", "applications:\n  - name: a\n    keys: [k]\n  - name: a\n    keys: [l]\n", "c.yaml:4: applications[1].name"},
		{"same key", "applications:\n  - name: a\n    keys: [secret-key]\n  - name: b\n    keys: [secret-key]\n", `application "a" has this key already`},
		{"window", policy("hasRateLimit: true, limit: 5, window: week"), "c.yaml:5: applications[0].policies[0].window"},
		{"negative limit", policy("hasRateLimit: true, limit: -5, window: day"), "c.yaml:5: applications[0].policies[0].limit"},
		{"infinite limit", policy("hasRateLimit: true, limit: .inf, window: day"), "not a finite number"},
		{"no limit", policy("hasRateLimit: true, window: day"), "there is no limit"},
		{"no window", policy("hasRateLimit: true, limit: 5"), "there is no window"},
		{"limit without hasRateLimit", policy("limit: 5, window: day"), "hasRateLimit is not true"},
		{"type", policy("type: PAGE"), "neither API nor FUNCTION"},
		{"location", policy("identityFieldLocation: moon"), "is not one of headers, query"},
		{"url", "applications:\n  - name: a\n    keys: [k]\n    whitelistEndpoints: [{method: GET, url: health}]\n", "begins neither with /"},
		{"limit and limits", policy("hasRateLimit: true, limit: 5, window: day, limits: [{limit: 1, window: hour}]"), "c.yaml:5: applications[0].policies[0].limits"},
		{"two limits of a window", policy("hasRateLimit: true, limits: [{limit: 5, window: day}, {limit: 6, window: day}]"), "limits[1].window: there is another limit for each day"},
		{"limits without a window", policy("hasRateLimit: true, limits: [{limit: 5}]"), "limits[0]: there is no window"},
		{"limits without a limit", policy("hasRateLimit: true, limits: [{window: day}]"), "limits[0]: there is no limit"},
		{"limits without hasRateLimit", policy("limits: [{limit: 5, window: day}]"), "hasRateLimit is not true"},
		{"a negative burst", policy("hasRateLimit: true, limit: 5, window: day, burst: -1"), "policies[0].burst: the burst is no amount"},
		{"failClosed without a limit", policy("failClosed: true"), "failClosed: failClosed is for policies with a limit"},
		{"a burst alone", policy("burst: 1"), "there is a burst and hasRateLimit is not true"},
		{"unknown limit key", policy("hasRateLimit: true, limits: [{limit: 5, window: day, per: hour}]"), "c.yaml:5: "},
		{"scope", policy("scope: world"), "neither alias nor identity"},
		{"a budget of a route", policy("scope: identity, identityFieldName: a, identityFieldLocation: headers, hasRateLimit: true, limit: 5, window: day"), "policies[0].method: scope identity is a budget over all routes"},
		{"a budget of nobody", "applications: [{name: a, keys: [k], policies: [{scope: identity, hasRateLimit: true, limit: 5, window: day}]}]", "needs identityFieldName"},
		{"a budget without a limit", "applications: [{name: a, keys: [k], policies: [{scope: identity, identityFieldName: a, identityFieldLocation: headers}]}]", "needs hasRateLimit"},
		{"a budget of jobs", "applications: [{name: a, keys: [k], policies: [{scope: identity, type: FUNCTION, identityFieldName: a, identityFieldLocation: headers}]}]", "has type API"},
		{"an id", policy("id: x"), "c.yaml:5: "},
		{"a plan without a window", "applications:\n  - name: a\n    keys: [k]\n    planCap: {limit: 5}\n", "c.yaml:4: applications[0].planCap: there is no window"},
		{"a plan with a burst", "applications: [{name: a, keys: [k], planCap: {limit: 5, window: day, burst: 1}}]", "c.yaml:1: "},
		{"a name that is none", "applications: [{name: .., keys: [k]}]", "is no name"},
		{"no method", "applications:\n  - name: a\n    keys: [k]\n    blockedEndpoints: [{url: /x}]\n", "the method is missing"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := service.ParseConfig("c.yaml", []byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), "secret-key") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("the error quotes the file: %v", err)
			}
		})
	}
}

func TestConfigLimits(t *testing.T) {
	c := parseConfig(t, `
applications:
  - name: a
    keys: [k]
    planCap: {limit: 1.5, window: month}
    policies:
      - {method: GET, url: /x, hasRateLimit: true, limit: 5, window: second, burst: 20}
      - method: GET
        url: /y
        hasRateLimit: true
        limits:
          - {limit: 5, window: second, burst: 20}
          - {limit: 1000, window: day}
      - {scope: identity, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 9, window: hour}
`)
	a := c.Applications[0]
	if a.PlanCap == nil || *a.PlanCap != (service.PlanCap{Limit: 1.5e6, Window: service.WindowMonth}) {
		t.Errorf("planCap %+v", a.PlanCap)
	}
	second := service.PolicyLimit{Limit: 5e6, Window: service.WindowSecond, Burst: 20e6}
	for i, want := range [][]service.PolicyLimit{{second}, {second, {Limit: 1e9, Window: service.WindowDay}}, {{Limit: 9e6, Window: service.WindowHour}}} {
		if got := a.Policies[i].Limits; !slices.Equal(got, want) {
			t.Errorf("policy %d: %+v, want %+v", i, got, want)
		}
	}
	if p := a.Policies[2]; p.Method != "*" || p.URL != "*" || p.Scope != service.ScopeIdentity || p.Name != "budget of each X-User" || a.Policies[0].Scope != service.ScopeAlias {
		t.Errorf("budget %+v", p)
	}
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("warnings %q", w)
	}
}
