package service_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func TestLedgersAPI(t *testing.T) {
	r := start(t, service.Options{})
	base := "http://" + r.addr + "/api/v1/"
	if status, _, body := get(t, base+"ledgers", nil); status != 200 || strings.TrimSpace(string(body)) != `{"ledgers":[],"total":0}` {
		t.Fatalf("no ledgers: %d %s", status, body)
	}
	ws := r.dial(t, "uf_dev_key")
	ask(t, ws, reserveText("1", "GET /free bob", "f", 2.5))
	ask(t, ws, useText("2", "GET /free bob", "f", 1.5))
	ask(t, ws, reserveText("3", "GET /api/reports ann", "r", 2))
	type list struct{ Ledgers []map[string]any }
	_, header, body := get(t, base+"ledgers", nil)
	got := decode[list](t, body).Ledgers
	if len(got) != 2 || header.Get("Content-Type") != "application/json; charset=utf-8" || header.Get("Access-Control-Allow-Origin") != "" {
		t.Fatalf("%v %s", header, body)
	}
	limited, free := got[0], got[1]
	if reset, ok := limited["resetAt"].(float64); limited["alias"] != "GET /api/reports ann" || limited["used"] != 0.0 || limited["held"] != 2.0 || limited["limit"] != 5.0 || !ok || reset < 1e12 || limited["application"] != "acme" {
		t.Errorf("limited ledger %v", limited)
	}
	limit, hasLimit := free["limit"]
	reset, hasReset := free["resetAt"]
	if free["alias"] != "GET /free bob" || free["used"] != 1.5 || free["held"] != 0.0 || limit != nil || reset != nil || !hasLimit || !hasReset {
		t.Errorf("ledger without a limit %v", free)
	}
	for query, want := range map[string]int{"?q=ann": 1, "?q=none": 0, "?limit=1": 1, "?offset=1&limit=5": 1} {
		if _, _, body := get(t, base+"ledgers"+query, nil); len(decode[list](t, body).Ledgers) != want {
			t.Errorf("%s: %s, want %d", query, body, want)
		}
	}
	for _, query := range []string{"?limit=x", "?limit=-1", "?offset=1.5"} {
		if status, _, body := get(t, base+"ledgers"+query, nil); status != 400 {
			t.Errorf("%s: %d %s", query, status, body)
		}
	}
	_, _, body = get(t, base+"allocations?limit=1", nil)
	allocations := decode[struct{ Allocations []map[string]any }](t, body).Allocations
	if len(allocations) != 1 || allocations[0]["id"] != "r" || allocations[0]["state"] != "held" || allocations[0]["reserved"] != 2.0 || allocations[0]["endedAt"] != nil {
		t.Errorf("allocations %s", body)
	}
	_, _, body = get(t, base+"stats", nil)
	stats := decode[struct {
		Connections int
		Ledger      service.Counters
	}](t, body)
	if stats.Connections != 1 || stats.Ledger.Reserved != 2 || stats.Ledger.Settled != 1 || stats.Ledger.Held != 1 {
		t.Errorf("stats %s", body)
	}
}

func TestAdminToken(t *testing.T) {
	r := start(t, service.Options{AdminToken: "secret"})
	for _, path := range []string{"ledgers", "allocations", "stats", "no-such"} {
		url := "http://" + r.addr + "/api/v1/" + path
		for name, header := range map[string]http.Header{
			"none": nil, "wrong": {"Authorization": {"Bearer secret2"}}, "basic": {"Authorization": {"Basic secret"}}, "bare": {"Authorization": {"secret"}}, "empty": {"Authorization": {"Bearer "}},
		} {
			status, got, body := get(t, url, header)
			if status != 401 || decode[answer](t, body).Error != "unauthorized" || got.Get("WWW-Authenticate") == "" {
				t.Errorf("%s with %s token: %d %s", path, name, status, body)
			}
		}
		want := 200
		if path == "no-such" {
			want = 404
		}
		if status, _, body := get(t, url, http.Header{"Authorization": {"Bearer secret"}}); status != want {
			t.Errorf("%s with the token: %d %s", path, status, body)
		}
	}
	if status, _, _ := get(t, "http://"+r.addr+"/healthz", nil); status != 200 {
		t.Errorf("healthz: %d", status)
	}
	if status, _, _ := get(t, "http://"+r.addr+"/", http.Header{"Host": {"usage.example"}}); status != 200 {
		t.Errorf("the page under another name: %d", status)
	}
}

func TestForeignRequests(t *testing.T) {
	r := start(t, service.Options{})
	for _, test := range []struct {
		path   string
		header http.Header
		status int
	}{
		{"/api/v1/ledgers", http.Header{"Host": {"rebound.example"}}, 403},
		{"/", http.Header{"Host": {"rebound.example:9000"}}, 403},
		{"/", http.Header{"Host": {"localhost.example"}}, 403},
		{"/api/v1/ledgers", http.Header{"Host": {"localhost:9000"}}, 200},
		{"/api/v1/ledgers", http.Header{"Host": {"[::1]:9000"}}, 200},
		{"/api/v1/ledgers", http.Header{"Host": {"127.0.0.1"}}, 200},
		{"/api/v1/ledgers", http.Header{"Origin": {"http://elsewhere.example"}}, 403},
		{"/api/v1/ledgers", http.Header{"Origin": {"null"}}, 403},
		{"/api/v1/ledgers", http.Header{"Origin": {"http://" + r.addr}}, 200},
		{"/api/v1/ledgers", http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}}, 403},
		{"/api/v1/ledgers", http.Header{"Sec-Fetch-Site": {"same-site"}}, 403},
		{"/api/v1/ledgers", http.Header{"Sec-Fetch-Site": {"same-origin"}}, 200},
		{"/", http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"navigate"}}, 200},
		{"/console.js", http.Header{"Sec-Fetch-Site": {"cross-site"}}, 403},
	} {
		if status, _, body := get(t, "http://"+r.addr+test.path, test.header); status != test.status {
			t.Errorf("%s %v: %d %s, want %d", test.path, test.header, status, body, test.status)
		}
	}
}

// pageParts is what each file of the console has in it.
func pageParts(t *testing.T) map[string]string {
	t.Helper()
	parts := map[string]string{"/": `<main id="view"`, "/console.css": "prefers-color-scheme", "/icon.svg": "<svg"}
	modules, err := filepath.Glob("page/*.js")
	if err != nil || len(modules) == 0 {
		t.Fatalf("modules %v: %v", modules, err)
	}
	for _, module := range modules {
		parts["/"+filepath.Base(module)] = "export "
	}
	parts["/console.js"] = "import "
	return parts
}

func TestPage(t *testing.T) {
	r := start(t, service.Options{})
	for path, want := range pageParts(t) {
		status, header, body := get(t, "http://"+r.addr+path, nil)
		if again, _, _ := get(t, "http://"+r.addr+path, http.Header{"If-None-Match": {header.Get("Etag")}}); again != 304 {
			t.Errorf("%s again: %d", path, again)
		}
		if status != 200 || !strings.Contains(string(body), want) || !strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %d %v", path, status, header)
		}
		text := strings.ReplaceAll(string(body), `xmlns="http://www.w3.org/2000/svg"`, "")
		for _, bad := range []string{"http://", "https://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick=\""} {
			if strings.Contains(text, bad) {
				t.Errorf("%s has %q", path, bad)
			}
		}
	}
	if status, _, _ := get(t, "http://"+r.addr+"/no-such", nil); status != 404 {
		t.Errorf("a missing file: %d", status)
	}
}
