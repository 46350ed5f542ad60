package core_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// token is a JWT with the given claims and no valid signature.
func token(claims string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

const (
	longName = "0123456789012345678901234567890123456789012345678901234567890123456789"
	// hashOfSesame is what an identity "sesame" from a secret place becomes.
	hashOfSesame = "sha256-d0c04f4b1951e4aeaaec8223"
)

func hashOf(s string) string {
	return fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(s)))[:len(hashOfSesame)]
}

func TestIdentityLocations(t *testing.T) {
	post := func(body string) *http.Request { return request("POST", "/p/path-id", strings.NewReader(body)) }
	bearer := func(claims string) *http.Request {
		return request("POST", "/p/path-id", nil, "Authorization", "bearer "+token(claims))
	}
	for name, tc := range map[string]struct {
		location, field string
		request         *http.Request
		want            string
	}{
		"header":                       {"headers", "X-User", request("POST", "/p/1", nil, "X-User", "acme"), "acme"},
		"header in another case":       {"headers", "x-uSER", request("POST", "/p/1", nil, "X-User", "acme"), "acme"},
		"header absent":                {"headers", "X-User", request("POST", "/p/1", nil), ""},
		"header with spaces inside":    {"headers", "X-User", request("POST", "/p/1", nil, "X-User", "a b  c"), "a b  c"},
		"location in capitals":         {"Headers", "X-User", request("POST", "/p/1", nil, "X-User", "acme"), "acme"},
		"host":                         {"headers", "Host", request("POST", "http://acme.example/p/1", nil), "acme.example"},
		"query":                        {"query", "user", request("POST", "/p/1?user=a%20b%25", nil), "a b%"},
		"query_params":                 {"query_params", "user", request("POST", "/p/1?x=1&user=acme&user=bob", nil), "acme"},
		"query absent":                 {"query", "user", request("POST", "/p/1?User=acme", nil), ""},
		"path_params":                  {"path_params", "id", request("POST", "/p/path-id", nil), "path-id"},
		"path_params absent":           {"path_params", "nope", request("POST", "/p/path-id", nil), ""},
		"body":                         {"body", "customer", post(`{"a":{"customer":"no"},"customer":"acme"}`), "acme"},
		"body number":                  {"body", "customer", post(`{"customer":42}`), "42"},
		"body big number":              {"body", "customer", post(`{"customer":12345678901234567890123}`), "12345678901234567890123"},
		"body float":                   {"body", "customer", post(`{"customer":1.50}`), "1.50"},
		"body in another case":         {"body", "customer", post(`{"Customer":"acme"}`), "acme"},
		"body exact before other case": {"body", "customer", post(`{"CUSTOMER":"no","customer":"acme","Customer":"no"}`), "acme"},
		"body with text behind":        {"body", "customer", post(`{"customer":"acme"} and more`), "acme"},
		"body behind white space":      {"body", "customer", post(" \r\n\t{\"customer\":\"acme\"}"), "acme"},
		"body escaped":                 {"body", "customer", post(`{"c\u0075stomer":"\u00e9 \n"}`), "é \n"},
		"body null":                    {"body", "customer", post(`{"customer":null}`), ""},
		"body true":                    {"body", "customer", post(`{"customer":true}`), ""},
		"body object":                  {"body", "customer", post(`{"customer":{"a":1}}`), ""},
		"body array":                   {"body", "customer", post(`[{"customer":"acme"}]`), ""},
		"body no JSON":                 {"body", "customer", post(`customer=acme`), ""},
		"body broken":                  {"body", "customer", post(`{"customer":"acme"`), ""},
		"body empty":                   {"body", "customer", post(``), ""},
		"no body":                      {"body", "customer", request("POST", "/p/1", nil), ""},
		"bearer_token":                 {"bearer_token", "sub", bearer(`{"sub":"acme"}`), "acme"},
		"bearer":                       {"bearer", "tenant", bearer(`{"sub":"x","tenant":"acme"}`), "acme"},
		"jwt":                          {"jwt", "sub", bearer(`{"sub":"acme"}`), "acme"},
		"bearer without a name":        {"bearer", "", bearer(`{"sub":"acme"}`), "acme"},
		"bearer number":                {"bearer", "sub", bearer(`{"sub":42}`), "42"},
		"bearer big number":            {"bearer", "sub", bearer(`{"sub":9007199254740993}`), "9007199254740993"},
		"bearer nested":                {"bearer", "org.id", bearer(`{"org":{"id":"acme"}}`), "acme"},
		"bearer dotted claim":          {"bearer", "https://x.y/org", bearer(`{"https://x.y/org":"acme"}`), "acme"},
		"bearer padded":                {"bearer", "sub", request("POST", "/p/1", nil, "Authorization", "Bearer h."+base64.URLEncoding.EncodeToString([]byte(`{"sub":"a"}`))+".s"), "a"},
		"bearer of no JWT":             {"bearer", "sub", request("POST", "/p/1", nil, "Authorization", "Bearer opaque"), ""},
		"bearer of another scheme":     {"bearer", "sub", request("POST", "/p/1", nil, "Authorization", "Basic "+token(`{"sub":"acme"}`)), ""},
		"bearer too long":              {"bearer", "sub", bearer(`{"sub":"acme","x":"` + strings.Repeat("x", 20_000) + `"}`), ""},
		"cookie":                       {"cookie", "sid", request("POST", "/p/1", nil, "Cookie", "a=b; sid=sesame"), hashOfSesame},
		"cookie.name":                  {"cookie", "cookie.sid", request("POST", "/p/1", nil, "Cookie", "sid=sesame"), hashOfSesame},
		"cookie in another case":       {"cookie", "SiD", request("POST", "/p/1", nil, "Cookie", "sId=sesame"), hashOfSesame},
		"cookie quoted":                {"cookie", "sid", request("POST", "/p/1", nil, "Cookie", `sid="sesame"`), hashOfSesame},
		"cookie jwt":                   {"cookie", "[technique=jwt]auth[pick=org]", request("POST", "/p/1", nil, "Cookie", "AUTH="+token(`{"org":7}`)), "7"},
		"cookie jwt without a claim":   {"cookie", "[technique=jwt]auth", request("POST", "/p/1", nil, "Cookie", "auth="+token(`{"sub":"acme"}`)), "acme"},
		"cookie jwt, cookie.name":      {"cookie", "[technique=jwt]cookie.auth[pick=sub]", request("POST", "/p/1", nil, "Cookie", "auth="+token(`{"sub":"acme"}`)), "acme"},
		"cookie jwt of no JWT":         {"cookie", "[technique=jwt]auth[pick=sub]", request("POST", "/p/1", nil, "Cookie", "auth=secret"), ""},
		"secret header":                {"headers", "X-Api-Key", request("POST", "/p/1", nil, "X-Api-Key", "sesame"), hashOfSesame},
		"Authorization":                {"headers", "Authorization", request("POST", "/p/1", nil, "Authorization", "sesame"), hashOfSesame},
		"secret query":                 {"query", "access_token", request("POST", "/p/1?access_token=sesame", nil), hashOfSesame},
		"secret field":                 {"body", "api_key", post(`{"api_key":"sesame"}`), hashOfSesame},
		"configured secret":            {"headers", "X-Tenant", request("POST", "/p/1", nil, "X-Tenant", "sesame"), hashOfSesame},
		"unknown location":             {"telepathy", "user", request("POST", "/p/1", nil), ""},
		"no field":                     {"headers", "", request("POST", "/p/1", nil), ""},
		"long":                         {"headers", "X-User", request("POST", "/p/1", nil, "X-User", strings.Repeat("a", 512)), strings.Repeat("a", 512)},
		"too long":                     {"headers", "X-User", request("POST", "/p/1", nil, "X-User", strings.Repeat(longName, 10)), hashOf(strings.Repeat(longName, 10))},
		"not UTF-8":                    {"headers", "X-User", request("POST", "/p/1", nil, "X-User", "\xff\xfe"), hashOf("\xff\xfe")},
		"dressed as a hash":            {"headers", "X-User", request("POST", "/p/1", nil, "X-User", hashOfSesame), hashOf(hashOfSesame)},
		"not quite a hash":             {"headers", "X-User", request("POST", "/p/1", nil, "X-User", "sha256-acme"), "sha256-acme"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(policy("POST", "/p/:id", tc.location, tc.field)) },
				func(c *core.Config) { c.PoolSize, c.Secrets = 1, []string{"X-TENANT"} })
			mux := http.NewServeMux()
			mux.Handle("/p/{id}", h.route("/p/{id}", ok))
			h.do(mux, tc.request)
			want := "POST /p/:id"
			if tc.want != "" {
				want += " " + tc.want
			}
			got := h.use().Alias
			if got != want {
				t.Errorf("alias %q, want %q", got, want)
			}
		})
	}
}

func TestRawIdentity(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(policy("GET", "/c", "cookie", "sid"), policy("GET", "/h", "headers", "X-Api-Key"))
	}, func(c *core.Config) { c.RawIdentity = true })
	h.do(h.route("/c", ok), get("/c", "Cookie", "sid=sesame"))
	if u := h.uses(1); u[0].Alias != "GET /c sesame" {
		t.Errorf("alias %q", u[0].Alias)
	}
	h.do(h.route("/h", ok), get("/h", "X-Api-Key", "sesame"))
	if u := h.uses(2); u[1].Alias != "GET /h sesame" {
		t.Errorf("alias %q", u[1].Alias)
	}
}

// A block of a caller who is known by a secret names the secret itself, or its hash.
func TestBlocksOfHashedCallers(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(policy("GET", "/x", "cookie", "sid"))
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/x", Identity: "raw"}, sockettest.Endpoint{Method: "GET", URL: "/x", Identity: hashOfSesame})
	})
	for cookie, want := range map[string]int{"raw": 403, "sesame": 403, "other": 200} {
		if w := h.do(h.route("/x", ok), get("/x", "Cookie", "sid="+cookie)); w.Code != want {
			t.Errorf("%s: got %d, want %d", cookie, w.Code, want)
		}
	}
}

// Identify is asked first, and is believed where it says true.
func TestIdentifyComesFirst(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(policy("GET", "/x", "headers", "X-User"))
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/x", Identity: "evil"})
	}, func(c *core.Config) {
		c.Identify = func(r *core.Request) (string, bool) {
			name := r.Header.Get("X-Name")
			if name == "nobody" {
				return "", true
			}
			return name, name != "" && r.Route == "/x" && r.ClientIP == "192.0.2.1"
		}
	})
	for i, tc := range []struct{ name, want string }{{"mapped", "GET /x mapped"}, {"", "GET /x policy"}, {"nobody", "GET /x"}} {
		r := get("/x", "X-User", "policy")
		if tc.name != "" {
			r.Header.Set("X-Name", tc.name)
		}
		h.do(h.route("/x", ok), r)
		h.until(func(r *sockettest.Record) bool { return r.Count("use_allocation") == i+1 })
		if got := h.uses(i + 1)[i].Alias; got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
	if w := h.do(h.route("/x", ok), get("/x", "X-Name", "evil")); w.Code != 403 {
		t.Errorf("blocked name: %d", w.Code)
	}
}

func TestVerifyJWT(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(policy("GET", "/x", "bearer", "sub")) }, func(c *core.Config) {
		c.VerifyJWT = func(token string) (map[string]any, error) {
			if token != "good" {
				return map[string]any{"sub": "liar"}, errors.New("bad signature")
			}
			return map[string]any{"sub": float64(9007199254740992)}, nil
		}
	})
	h.do(h.route("/x", ok), get("/x", "Authorization", "Bearer good"))
	if u := h.uses(1); u[0].Alias != "GET /x 9007199254740992" {
		t.Errorf("alias %q", u[0].Alias)
	}
	h.do(h.route("/x", ok), get("/x", "Authorization", "Bearer "+token(`{"sub":"acme"}`)))
	if u := h.uses(2); u[1].Alias != "GET /x" {
		t.Errorf("alias %q", u[1].Alias)
	}
	if s := h.flow.Stats(); s.InvalidTokens != 1 {
		t.Errorf("stats %+v", s)
	}
	if n := h.logs.Count("anyone can claim any name"); n != 0 {
		t.Errorf("%d warnings", n)
	}
}

// Without VerifyJWT the log says so, once.
func TestUnverifiedJWTIsLoggedOnce(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(policy("GET", "/x", "bearer", "sub")) },
		func(c *core.Config) { c.RefreshInterval = 1 })
	h.wait("refreshes", func(core.Stats) bool { return h.count(core.EventConfigured) > 3 })
	if n := h.logs.Count("level=WARN msg=\"usageflow: a policy takes identities from JWTs"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, h.logs)
	}
	quiet := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "GET", URL: "/x", Type: "FUNCTION", IdentityFieldLocation: "jwt", IdentityFieldName: "sub"})
	})
	if n := quiet.logs.Count("JWT"); n != 0 {
		t.Errorf("%d warnings for a function", n)
	}
}
