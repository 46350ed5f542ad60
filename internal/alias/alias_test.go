package alias

import (
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	for pattern, want := range map[string]string{
		"":                           "",
		"/":                          "/",
		"/api/users/:id":             "/api/users/:id",
		"/api/users/{id}":            "/api/users/:id",
		"/api/users/{id:[0-9]+}":     "/api/users/:id",
		"/a/{id:[0-9]{2,3}}/b":       "/a/:id/b",
		"/a/{y:\\d{4}}-{m:\\d{2}}/b": "/a/:y-:m/b",
		"/files/*path":               "/files/*",
		"/files/*":                   "/files/*",
		"/files/{path...}":           "/files/*",
		"/exact/{$}":                 "/exact/",
		"/broken/{id":                "/broken/{id",
		"/v1/:id/*rest":              "/v1/:id/*",
		`/files/\:id`:                `/files/\:id`,
		"*":                          "*",
		"/files/:id\\:undelete":      "/files/:id:undelete",
		"/files/{id}:undelete":       "/files/:id:undelete",
		`/a\b`:                       `/a\b`,
	} {
		if got := Pattern(pattern); got != want {
			t.Errorf("Pattern(%q) = %q, want %q", pattern, got, want)
		}
	}
}

// One form is stable: canonical patterns are what they are.
func FuzzPattern(f *testing.F) {
	for _, p := range []string{"/a/{b}", "/{a:{}}/*x", "{{{", "}}}", "/{...}", "/{$}", "/*/{", "{a:*}"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		once := Pattern(pattern)
		if len(once) > len(pattern)+strings.Count(pattern, "{") {
			t.Errorf("%q became %q", pattern, once)
		}
		if !strings.ContainsAny(pattern, "{*\\") && once != pattern {
			t.Errorf("%q became %q", pattern, once)
		}
	})
}
