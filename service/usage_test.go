package service_test

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func TestUsageAPI(t *testing.T) {
	r := start(t, service.Options{})
	ws := r.dial(t, "uf_dev_key")
	for i, alias := range []string{"GET /a ann", "GET /b ann", "GET /b =bob()", "GET /b"} {
		id := strconv.Itoa(i)
		ask(t, ws, reserveText("1", alias, id, 1))
		ask(t, ws, useText("2", alias, id, 1.5))
	}
	base := "http://" + r.addr + "/api/v1/usage"
	type answer struct {
		Bucket, GroupBy string
		Usage           []struct {
			At                 int64
			Application, Group string
			Amount             float64
			Requests           int
		}
	}
	for query, want := range map[string]map[string]float64{
		"":                              {"GET /a ann": 1.5, "GET /b ann": 1.5, "GET /b =bob()": 1.5, "GET /b": 1.5},
		"?group_by=identity&bucket=day": {"ann": 3, "=bob()": 1.5, "": 1.5},
		"?group_by=route":               {"GET /a": 1.5, "GET /b": 4.5},
		"?group_by=application":         {"": 6},
		"?application=none":             {},
		"?alias=" + url.QueryEscape("GET /b ann"): {"GET /b ann": 1.5},
		"?from=0&to=2026-01-01T00:00:00Z":         {},
	} {
		_, _, body := get(t, base+query, nil)
		got := decode[answer](t, body)
		if len(got.Usage) != len(want) {
			t.Errorf("%s: %s", query, body)
			continue
		}
		for _, u := range got.Usage {
			if amount, ok := want[u.Group]; !ok || u.Amount != amount || u.Application != "acme" || time.Since(time.UnixMilli(u.At)) > 25*time.Hour {
				t.Errorf("%s: %+v, want %v", query, u, want)
			}
		}
	}
	_, header, body := get(t, base+"?group_by=identity", http.Header{"Accept": {"text/csv"}})
	if csv := string(body); header.Get("Content-Type") != "text/csv; charset=utf-8" || !strings.HasPrefix(csv, "at,application,identity,amount,requests,voided,expired,flagged\n") ||
		!strings.Contains(csv, ",acme,ann,3,2,0,0,0\n") || !strings.Contains(csv, ",acme,'=bob(),1.5,1,0,0,0\n") {
		t.Errorf("%v %s", header, body)
	}
	for _, query := range []string{"?group_by=x", "?bucket=minute", "?from=yesterday", "?to=-1", "?from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", "?format=xml", "?alias=%00", "?alias=%ff"} {
		if status, _, body := get(t, base+query, nil); status != 400 {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
}

// Budgets over all routes and the plan's cap, from the configuration to the wire.
func TestBudgetsAndPlan(t *testing.T) {
	r := start(t, service.Options{Config: parseConfig(t, `
applications:
  - name: acme
    keys: [k]
    planCap: {limit: 6, window: month}
    policies:
      - {name: budget, scope: identity, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 4, window: day}
      - {method: GET, url: /a, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limits: [{limit: 3, window: minute}, {limit: 100, window: day, burst: 2}]}
`)})
	ws := r.dial(t, "k")
	reserve := func(alias, id string, amount float64) (allowed bool, policy any) {
		t.Helper()
		a := ask(t, ws, reserveText("1", alias, id, amount))
		if a.Error == "" {
			ask(t, ws, useText("2", alias, id, amount))
		}
		return a.Error == "", a.Payload["policy"]
	}
	for i, step := range []struct {
		alias   string
		amount  float64
		allowed bool
		policy  any
	}{
		{"GET /a ann", 3, false, "GET /a"}, // more than the bucket holds
		{"GET /a ann", 2, true, "GET /a"},
		{"GET /a ann", 1, false, "GET /a"},
		{"POST /b ann", 3, false, "budget"},
		{"POST /b ann", 2, true, "budget"},
		{"JOB nightly ann", 1, false, "budget"},
		{"POST /b bob", 1, true, "budget"},
		{"POST /b", 5, true, nil}, // no identity, no budget
	} {
		if allowed, policy := reserve(step.alias, strconv.Itoa(i), step.amount); allowed != step.allowed || policy != step.policy {
			t.Errorf("step %d, %s: allowed %v by %v, want %v by %v", i, step.alias, allowed, policy, step.allowed, step.policy)
		}
		capped := i == 7 // 10 of the plan's 6 are used by then
		if a := ask(t, ws, `{"type":"get_application_config","id":"c"}`); a.Payload["accountReachLimit"] != capped {
			t.Errorf("step %d: %+v, want the cap reached: %v", i, a.Payload, capped)
		}
	}
	a := ask(t, ws, `{"type":"get_application_policies","id":"p"}`)
	for _, p := range a.Payload["policies"].([]any) {
		for _, field := range []string{"id", "scope", "limits", "limit", "burst", "window"} {
			if _, ok := p.(map[string]any)[field]; ok {
				t.Errorf("agents are sent %s: %v", field, p)
			}
		}
	}
}
