package service_test

import (
	"fmt"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	_, a := startEditable(t, `
applications:
  - name: acme
    keys: [k]
    monitoringPaths: [{method: "*", url: /api/*}, {method: GET, url: /health}]
    whitelistEndpoints: [{method: GET, url: /health}]
    blockedEndpoints: [{method: GET, url: /api/legacy}, {method: "*", url: "/api/users/{id}", identity: bob}, {method: GET, url: /health}]
    policies:
      - {name: all, method: "*", url: "*", hasRateLimit: true, limit: 100, window: day}
      - {name: user, method: GET, url: "/api/users/{id}", hasRateLimit: true, limit: 5, window: minute}
      - {name: me, method: GET, url: /api/users/me, hasRateLimit: true, limit: 4, window: minute}
      - {name: files, method: GET, url: /api/files/*path, hasRateLimit: true, limit: 3, window: minute}
      - {name: identity, method: GET, url: /api/files/*, identityFieldName: X-User, identityFieldLocation: headers}
      - {name: budget, scope: identity, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 9, window: hour}
      - {name: job, type: FUNCTION, url: nightly, hasRateLimit: true, limit: 2, window: hour}
`)
	names := map[string]string{}
	for _, p := range a.must(200, "GET", "/applications/acme/policies", "").field(t, "policies").([]any) {
		policy := p.(map[string]any)
		names[policy["id"].(string)] = policy["name"].(string)
	}
	for _, test := range []struct{ method, url, identity, alias, flags, policy, matches string }{
		{"GET", "/api/users/42", "ann", "GET /api/users/:id ann", "monitored", "user", "all user budget"},
		{"get", "/api/users/{id}", "", "GET /api/users/:id", "monitored", "user", "all user budget"},
		{"GET", "/api/users/42?x=1", "bob", "GET /api/users/:id bob", "monitored blocked", "user", "all user budget"},
		{"HEAD", "/api/users/42", "", "HEAD /api/users/:id", "monitored", "user", "all user budget"},
		{"GET", "/api/users/me", "", "GET /api/users/me", "monitored", "me", "all user me budget"},
		{"POST", "/api/users/42", "", "POST /api/users/:id", "monitored", "all", "all budget"},
		{"GET", "/api/files/a/b.txt", "ann", "GET /api/files/* ann", "monitored", "files", "all files identity budget"},
		{"GET", "/api/legacy", "ann", "GET /api/legacy ann", "monitored blocked", "all", "all budget"},
		{"GET", "/health", "", "GET /health", "whitelisted", "", "all budget"},
		{"GET", "/elsewhere/a b", "", "GET /elsewhere/a%20b", "", "", "all budget"},
		{"GET", "/api/users/42/orders", "", "GET /api/users/42/orders", "monitored", "all", "all budget"},
		{"JOB", "nightly", "ann", "JOB nightly ann", "monitored", "job", "all budget job"},
	} {
		got := a.must(200, "POST", "/applications/acme/match", fmt.Sprintf(`{"method":%q,"url":%q,"identity":%q}`, test.method, test.url, test.identity))
		view := decode[struct {
			Alias                           string
			Whitelisted, Monitored, Blocked bool
			Policy                          *struct{ Name string }
			Budgets                         []struct{ Name string }
			Matches                         []string
		}](t, got.body)
		var flags, matches []string
		for name, set := range map[string]bool{"monitored": view.Monitored, "whitelisted": view.Whitelisted} {
			if set {
				flags = append(flags, name)
			}
		}
		if view.Blocked {
			flags = append(flags, "blocked")
		}
		policy := ""
		if view.Policy != nil {
			policy = view.Policy.Name
		}
		for _, id := range view.Matches {
			matches = append(matches, names[id])
		}
		if view.Alias != test.alias || strings.Join(flags, " ") != test.flags || policy != test.policy || strings.Join(matches, " ") != test.matches {
			t.Errorf("%s %s %s: %s", test.method, test.url, test.identity, got.body)
		}
		if budget := len(view.Budgets) == 1 && view.Budgets[0].Name == "budget"; budget != view.Monitored {
			t.Errorf("%s %s: budgets %s", test.method, test.url, got.body)
		}
	}
	for _, body := range []string{`{"url":"/x"}`, `{"method":"*","url":"/x"}`, `{"method":"GET","url":"x"}`, `{"method":"JOB"}`, `{"verb":"GET"}`} {
		a.refused(422, "invalid", "POST", "/applications/acme/match", body)
	}
	a.refused(404, "not_found", "POST", "/applications/none/match", `{"method":"GET","url":"/x"}`)
}
