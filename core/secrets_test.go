package core_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

const marker = "m4rk3r"

// marked is a request with a marker in every place but the path and the user agent.
func marked() *http.Request {
	r := request("POST", "/x?q="+marker+"&token="+marker, strings.NewReader(`{"customer":"acme","x":"`+marker+`","password":"`+marker+`"}`),
		"Content-Type", "application/json", "Cookie", "sid="+marker+"; theme="+marker, "User-Agent", "curl")
	for _, name := range []string{
		"Authorization", "Proxy-Authorization", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Custom", "Referer", "X-Forwarded-For",
		"X-Request-Id", "Origin", "Accept", "Accept-Language", "If-None-Match", "X-Signature", "Traceparent", "X-Amz-Security-Token",
	} {
		r.Header.Set(name, marker+"-"+name)
	}
	return r
}

func answerMarked(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Set-Cookie", "sid="+marker)
	w.Header().Set("X-Answer", marker)
	_, _ = io.WriteString(w, `{"usage":{"n":3},"secret":"`+marker+`","text":"`+marker+`"}`)
}

// received is everything that the service received.
func received(h *harness) string {
	var all strings.Builder
	for _, m := range h.srv.Messages() {
		all.Write(m.Payload)
		all.WriteByte('\n')
	}
	return all.String()
}

// By default nothing of a request's headers, cookies, query and bodies goes out.
func TestNothingLeaksByDefault(t *testing.T) {
	for _, p := range []sockettest.Policy{
		{}, policy("POST", "/x", "body", "customer"), policy("POST", "/x", "cookie", "sid"), policy("POST", "/x", "headers", "Authorization"),
		policy("POST", "/x", "headers", "X-Api-Key"), policy("POST", "/x", "query", "token"), policy("POST", "/x", "body", "password"),
		policy("POST", "/x", "headers", "Proxy-Authorization"), policy("POST", "/x", "headers", "X-Auth-Token"), policy("POST", "/x", "headers", "Api-Key"),
		policy("POST", "/x", "cookie", "cookie.sid"),
	} {
		h := newHarness(t, func(s *sockettest.Server) {
			s.SetPolicies(p, tracked("usage.n"), limited(policy("POST", "/x", "", "")))
		})
		h.do(h.route("/x", answerMarked), marked())
		if u := h.use(); u.Amount != 3 {
			t.Errorf("amount %v", u.Amount)
		}
		if sent := received(h); strings.Contains(sent, marker) {
			t.Errorf("policy %+v: the service got %s", p, sent)
		}
		if log := h.logs.String(); strings.Contains(log, marker) {
			t.Errorf("policy %+v: the log got %s", p, log)
		}
	}
}

// Nor does a secret path parameter.
func TestSecretPathParametersAreMasked(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(policy("GET", "/reset/:token", "path_params", "token")) },
		func(c *core.Config) { c.Capture.PathParams = true })
	mux := http.NewServeMux()
	mux.Handle("/reset/{token}", h.route("/reset/{token}", ok))
	h.do(mux, get("/reset/"+marker))
	u := h.use()
	if sent := received(h); strings.Contains(sent, marker) {
		t.Errorf("the service got %s", sent)
	}
	if u.Metadata["rawUrl"] != "/reset/****" || u.Alias != "GET /reset/:token "+hashOf(marker) {
		t.Errorf("settlement %+v", u)
	}
}

// With everything captured, secrets are masked, and the rest is there.
func TestCapture(t *testing.T) {
	everything := core.Capture{Headers: true, Query: true, PathParams: true, RequestBody: true, ResponseBody: true}
	for _, p := range []sockettest.Policy{{}, policy("POST", "/x/:id", "body", "customer")} {
		h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(p) }, func(c *core.Config) {
			c.Capture, c.Secrets = everything, []string{"x-custom", "TEXT"}
		})
		mux := http.NewServeMux()
		mux.Handle("/x/{id}", h.route("/x/{id}", answerMarked))
		r := marked()
		r.URL.Path = "/x/7"
		r.Header.Del("Referer")
		for _, plain := range []string{"X-Forwarded-For", "X-Request-Id", "Origin", "Accept", "Accept-Language", "If-None-Match", "Traceparent"} {
			r.Header.Set(plain, "plain")
		}
		r.URL.RawQuery = "q=plain&q=two&token=" + marker
		r.Body = io.NopCloser(strings.NewReader(`{"customer":"acme","deep":[{"password":"` + marker + `","n":1}],"text":"` + marker + `"}`))
		h.do(mux, r)
		u := h.use()
		if sent := received(h); strings.Contains(sent, marker) {
			t.Errorf("the service got %s", sent)
		}
		got, _ := json.Marshal(map[string]any{
			"queryParams": u.Metadata["queryParams"], "pathParams": u.Metadata["pathParams"], "requestBody": u.Metadata["requestBody"],
			"body": u.Metadata["body"], "rawUrl": u.Metadata["rawUrl"],
		})
		const want = `{"body":{"secret":"****","text":"****","usage":{"n":3}},"pathParams":{"id":"7"},"queryParams":{"q":"plain, two","token":"****"},` +
			`"rawUrl":"/x/7?q=plain\u0026q=two\u0026token=%2A%2A%2A%2A","requestBody":{"customer":"acme","deep":[{"n":1,"password":"****"}],"text":"****"}}`
		if string(got) != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		headers, _ := u.Metadata["headers"].(map[string]any)
		if headers["Accept"] != "plain" || headers["Authorization"] != "****" || headers["Cookie"] != "****" || headers["X-Custom"] != "****" {
			t.Errorf("headers %v", headers)
		}
	}
}

// Of bodies that cannot be masked only the size goes out, and nothing that is captured makes a message too large.
func TestCaptureIsBounded(t *testing.T) {
	everything := core.Capture{Headers: true, Query: true, PathParams: true, RequestBody: true, ResponseBody: true, MaxBytes: 1 << 20}
	for name, tc := range map[string]struct{ contentType, body, want string }{
		"form":        {"application/x-www-form-urlencoded", "a=1&token=" + marker, `{"a":"1","token":"****"}`},
		"text":        {"text/plain", marker, `"[6 bytes of text/plain]"`},
		"binary":      {"", "\x00\xff" + marker, `"[8 bytes of unknown type]"`},
		"broken JSON": {"application/json", `{"a":"` + marker, `"[12 bytes of application/json]"`},
		"a string":    {"application/json", `"` + marker + `"`, `"[8 bytes of application/json]"`},
		"large":       {"application/json", `{"a":"` + strings.Repeat("x", 500_000) + `"}`, `"[500008 bytes, too long]"`},
		"too large":   {"application/json", `{"a":"` + strings.Repeat("x", 2<<20) + `"}`, `"[2097160 bytes of application/json]"`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, nil, func(c *core.Config) { c.Capture = everything })
			r := request("POST", "/x?q="+strings.Repeat("q", 300_000), strings.NewReader(tc.body), "Content-Type", tc.contentType, "X-Long", strings.Repeat("h", 900_000))
			h.do(h.route("/x", func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", tc.contentType)
				_, _ = io.Copy(w, r.Body)
			}), r)
			u := h.use()
			for _, member := range []string{"requestBody", "body"} {
				if got, _ := json.Marshal(u.Metadata[member]); string(got) != tc.want {
					t.Errorf("%s: got %.100s, want %s", member, got, tc.want)
				}
			}
			if sent := received(h); strings.Contains(sent, marker) || len(sent) > 1<<20 {
				t.Errorf("the service got %d bytes", len(sent))
			}
			h.settled(1)
		})
	}
}

// Long paths and user agents are cut.
func TestLongPathsAndUserAgentsAreCut(t *testing.T) {
	h := newHarness(t, nil)
	h.do(h.route("/x/*", ok), get("/x/"+strings.Repeat("p", 100_000), "User-Agent", strings.Repeat("u", 100_000)))
	u := h.use()
	if url, agent := u.Metadata["rawUrl"].(string), u.Metadata["userAgent"].(string); len(url) != 2<<10 || len(agent) != 512 {
		t.Errorf("url %d bytes, user agent %d", len(url), len(agent))
	}
}
