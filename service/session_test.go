package service_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func TestSession(t *testing.T) {
	r, a := startEditable(t, example)
	var later atomic.Int64
	r.SetSessionClock(func() time.Time { return time.Now().Add(time.Duration(later.Load())) })
	visitor := &admin{t: t, base: a.base}
	if got := visitor.must(200, "GET", "/session", ""); strings.TrimSpace(string(got.body)) != `{"authenticated":false,"tokenRequired":true}` {
		t.Errorf("a visitor: %s", got.body)
	}
	if got := a.must(200, "GET", "/session", ""); strings.TrimSpace(string(got.body)) != `{"authenticated":true,"tokenRequired":true}` {
		t.Errorf("with the token: %s", got.body)
	}
	visitor.refused(415, "unsupported_media_type", "POST", "/session", `{"token":"x"}`, "Content-Type", "text/plain")
	visitor.refused(422, "invalid", "POST", "/session", `{"password":"x"}`)

	signedIn := visitor.must(200, "POST", "/session", `{"token":"`+adminToken+`"}`)
	set := signedIn.header.Get("Set-Cookie")
	cookie, attributes, _ := strings.Cut(set, "; ")
	if attributes != "Path=/; Max-Age=43200; HttpOnly; SameSite=Strict" || strings.Contains(cookie, adminToken) {
		t.Errorf("the cookie is %q", set)
	}
	csrf := signedIn.text(t, "csrf")
	person := &admin{t: t, base: a.base, header: http.Header{"Cookie": {cookie}}}
	if got := person.must(200, "GET", "/session", ""); got.text(t, "csrf") != csrf || got.field(t, "authenticated") != true {
		t.Errorf("signed in: %s", got.body)
	}
	person.must(200, "GET", "/applications", "")
	person.refused(403, "csrf", "DELETE", "/session", "")
	person.must(201, "POST", "/applications", `{"name":"n"}`, "X-CSRF-Token", csrf)

	// The CSRF token is that of one session.
	second := visitor.must(200, "POST", "/session", `{"token":"`+adminToken+`"}`)
	if second.text(t, "csrf") == csrf {
		t.Error("two sessions have one CSRF token")
	}
	person.refused(403, "csrf", "DELETE", "/applications/n", "", "X-CSRF-Token", second.text(t, "csrf"))

	out := person.must(204, "DELETE", "/session", "", "X-CSRF-Token", csrf)
	if !strings.HasPrefix(out.header.Get("Set-Cookie"), "usageflow_session=; Path=/; Max-Age=0") {
		t.Errorf("signed out: %q", out.header.Get("Set-Cookie"))
	}
	later.Store(int64(12*time.Hour - time.Minute))
	person.must(200, "GET", "/applications", "")
	later.Store(int64(12*time.Hour + time.Minute))
	person.refused(401, "unauthorized", "GET", "/applications", "")

	// A session is of one admin token.
	other := start(t, service.Options{AdminToken: "another"})
	if status, _, _ := get(t, "http://"+other.addr+"/api/v1/stats", http.Header{"Cookie": {cookie}}); status != 401 {
		t.Errorf("at another service: %d", status)
	}
}

// Guesses are slowed down; who knows the token is let in again after a while.
func TestSignInLimit(t *testing.T) {
	r, a := startEditable(t, example)
	var later atomic.Int64
	now := time.Now()
	r.SetSessionClock(func() time.Time { return now.Add(time.Duration(later.Load())) })
	visitor := &admin{t: t, base: a.base}
	for range 10 {
		visitor.refused(401, "unauthorized", "POST", "/session", `{"token":"guess"}`)
	}
	got := visitor.must(429, "POST", "/session", `{"token":"`+adminToken+`"}`)
	if wait, err := strconv.Atoi(got.header.Get("Retry-After")); err != nil || wait < 1 || wait > 10 {
		t.Errorf("Retry-After: %v", got.header)
	}
	later.Store(int64(10 * time.Second))
	visitor.must(200, "POST", "/session", `{"token":"`+adminToken+`"}`)
	for range 10 {
		visitor.refused(401, "unauthorized", "POST", "/session", `{"token":"guess"}`)
	}
	visitor.refused(429, "too_many_attempts", "POST", "/session", `{"token":"guess"}`)
	if n := strings.Count(r.log.String(), "failed to sign in"); n != 20 {
		t.Errorf("%d failures are logged", n)
	}
}

// Without an admin token everybody on the machine is signed in.
func TestSessionWithoutToken(t *testing.T) {
	r := start(t, service.Options{})
	a := &admin{t: t, base: "http://" + r.addr}
	for _, op := range [][2]string{{"GET", ""}, {"POST", `{"token":""}`}} {
		got := a.must(200, op[0], "/session", op[1], "Cookie", "usageflow_session=x")
		if got.field(t, "authenticated") != true || got.field(t, "tokenRequired") != false || got.text(t, "csrf") == "" {
			t.Errorf("%s: %s", op[0], got.body)
		}
	}
}

// Over TLS the cookie goes over TLS only.
func TestSessionOverTLS(t *testing.T) {
	r := start(t, service.Options{AdminToken: adminToken})
	server := httptest.NewTLSServer(r.Handler())
	defer server.Close()
	resp, err := server.Client().Post(server.URL+"/api/v1/session", "application/json", strings.NewReader(`{"token":"`+adminToken+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if set := resp.Header.Get("Set-Cookie"); resp.StatusCode != 200 || !strings.Contains(set, "; Secure") {
		t.Errorf("%d, the cookie is %q", resp.StatusCode, set)
	}
}
