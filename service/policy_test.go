package service

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func TestLimitOfAlias(t *testing.T) {
	limited := func(name, method, url string, limit Micros, window Window) Policy {
		return Policy{Name: name, Type: TypeAPI, Method: method, URL: url, HasRateLimit: true, Limits: []PolicyLimit{{Limit: limit * 1e6, Window: window}}}
	}
	policies := []Policy{
		limited("all", "*", "*", 1000, WindowDay),
		limited("gets", "GET", "*", 500, WindowDay),
		limited("reports of any method", "*", "/reports", 50, WindowMinute),
		limited("reports", "GET", "/reports", 5, WindowMinute),
		limited("reports, laxer", "GET", "/reports", 10, WindowMinute),
		limited("users", "get", "/users/{id:[0-9]{2}}", 7, WindowHour),
		limited("files", "GET", "/files/*path", 8, WindowHour),
		limited("spaces", "GET", "/a b/100%", 9, WindowHour),
		limited("page", "HEAD", "/page", 3, WindowHour),
		limited("page too", "GET", "/page", 4, WindowHour),
		{Name: "free", Type: TypeAPI, Method: "GET", URL: "/free"},
		{Name: "job", Type: TypeFunction, Method: "GET", URL: "/free", HasRateLimit: true, Limits: []PolicyLimit{{Limit: 1, Window: WindowDay}}},
		{Name: "head of free", Type: TypeAPI, Method: "HEAD", URL: "/nohead"},
		{Name: "budget", Type: TypeAPI, Method: "*", URL: "*", HasRateLimit: true, Scope: ScopeIdentity, Limits: []PolicyLimit{{Limit: 1, Window: WindowSecond}}},
		limited("nohead", "GET", "/nohead", 2, WindowHour),
	}
	for range 20 {
		rand.Shuffle(len(policies), func(i, j int) { policies[i], policies[j] = policies[j], policies[i] })
		index := newLimitIndex(policies, nil)
		for alias, want := range map[string]string{
			"GET /reports":              "reports",
			"GET /reports ann":          "reports",
			"GET /reports ann lee /x":   "reports",
			"HEAD /reports ann":         "reports",
			"PUT /reports ann":          "reports of any method",
			"GET /users/:id 7":          "users",
			"GET /files/* 7":            "files",
			"GET /a%20b/100%25 x":       "spaces",
			"HEAD /page x":              "page",
			"GET /page x":               "page too",
			"GET /free x":               "gets",
			"HEAD /free x":              "gets",
			"HEAD /nohead x":            "all",
			"POST /anything":            "all",
			"JOB nightly customer":      "all",
			"":                          "all",
			"GET /elsewhere somebody":   "gets",
			"DELETE /users/:id someone": "all",
		} {
			limits := index.find(alias)
			own := slices.DeleteFunc(slices.Clone(limits), func(l Limit) bool { return l.Ledger != "" })
			_, rest, _ := strings.Cut(alias, " ")
			_, identity, _ := strings.Cut(rest, " ")
			if budgets := len(limits) - len(own); (budgets == 1) != (identity != "") || budgets == 1 && limits[1].Ledger != "* * "+identity {
				t.Errorf("find(%q) = %+v: its budgets are wrong", alias, limits)
			}
			if len(own) != 1 || own[0].Policy != want {
				t.Errorf("find(%q) = %+v, want %q", alias, limits, want)
			}
		}
	}
	none := newLimitIndex(nil, nil)
	if got := none.find("GET /x"); got != nil {
		t.Errorf("no policies: %+v", got)
	}
}

func TestToMicros(t *testing.T) {
	for units, want := range map[float64]Micros{
		0: 0, 1: 1e6, 0.1: 1e5, 2.5: 2.5e6, 1e-9: 1, 0.0000014: 1, 1e12: 1e18,
	} {
		if got, err := ToMicros(units); err != nil || got != want {
			t.Errorf("ToMicros(%v) = %v, %v, want %v", units, got, err, want)
		}
	}
	for _, units := range []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, -1e-9, 1.1e12, math.MaxFloat64} {
		if got, err := ToMicros(units); err == nil {
			t.Errorf("ToMicros(%v) = %v, want an error", units, got)
		}
	}
	if got := Micros(math.MaxInt64).Add(1); got != math.MaxInt64 {
		t.Errorf("Add wraps around to %v", got)
	}
	if got := Micros(math.MinInt64).Add(-1); got != math.MinInt64 {
		t.Errorf("Add wraps around to %v", got)
	}
}
