package service_test

import (
	"errors"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/service"
)

func parseConfig(t *testing.T, text string) *service.Config {
	t.Helper()
	c, err := service.ParseConfig("test.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A change of the configuration counts for agents that are connected; those whose key is gone are closed.
func TestReconfigure(t *testing.T) {
	r := start(t, service.Options{})
	stays, rotated, other := r.dial(t, "uf_next_key"), r.dial(t, "uf_dev_key"), r.dial(t, "uf_other_key")
	for i := range 5 {
		if a := ask(t, stays, reserveText("1", "GET /api/reports ann", string(rune('a'+i)), 1)); a.Error != "" {
			t.Fatalf("reservation %d: %+v", i, a)
		}
	}
	if a := ask(t, stays, reserveText("1", "GET /api/reports ann", "f", 1)); a.Error != "rate_limit_exceeded" {
		t.Fatalf("over the limit: %+v", a)
	}
	if err := r.Reconfigure(nil); err == nil {
		t.Error("no configuration is taken")
	}
	changed := strings.NewReplacer("keys: [uf_dev_key, uf_next_key]", "keys: [uf_next_key, uf_new_key]", "limit: 5,", "limit: 7,", "uf_other_key", "uf_else_key").Replace(example)
	if err := r.Reconfigure(parseConfig(t, changed)); err != nil {
		t.Fatal(err)
	}
	for name, ws := range map[string]*websocket.Conn{"a key that is gone": rotated, "a key of another application that is gone": other} {
		if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if a := ask(t, stays, reserveText("1", "GET /api/reports ann", "g", 1)); a.Error != "" || a.Payload["limit"] != 7.0 || a.Payload["remaining"] != 1.0 {
		t.Errorf("after the limit was raised: %+v", a)
	}
	if a := ask(t, stays, `{"type":"get_application_policies","id":"p"}`); a.Error != "" || a.Payload["total"] != 3.0 {
		t.Errorf("policies %+v", a)
	}
	if a := ask(t, r.dial(t, "uf_new_key"), reserveText("1", "GET /x", "n", 1)); a.Error != "" {
		t.Errorf("the new key: %+v", a)
	}
	if _, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr+"/ws", http.Header{"x-usage-key": {"uf_dev_key"}}); err == nil || resp == nil || resp.StatusCode != 401 {
		t.Errorf("the old key: %v", err)
	}
	// A key that moves to another application is not taken along with its connection.
	moved := strings.NewReplacer("keys: [uf_dev_key, uf_next_key]", "keys: [uf_a]", "uf_other_key", "uf_next_key").Replace(example)
	if err := r.Reconfigure(parseConfig(t, moved)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := stays.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("a key that moved: %v", err)
	}
}

// However handshakes and changes coincide, no connection is left whose key is gone.
func TestReconfigureRaces(t *testing.T) {
	r := start(t, service.Options{})
	with := parseConfig(t, example)
	without := parseConfig(t, strings.Replace(example, "uf_dev_key, ", "", 1))
	for range 20 {
		if err := r.Reconfigure(with); err != nil {
			t.Fatal(err)
		}
		var dialled sync.WaitGroup
		for range 8 {
			dialled.Go(func() {
				ws, resp, err := websocket.DefaultDialer.Dial("ws://"+r.addr+"/ws", http.Header{"x-usage-key": {"uf_dev_key"}})
				if err != nil {
					if !errors.Is(err, websocket.ErrBadHandshake) || resp.StatusCode != 401 {
						t.Errorf("dial: %v", err)
					}
					return
				}
				defer ws.Close()
				if _, _, err := ws.ReadMessage(); err == nil {
					t.Error("a message came")
				}
			})
		}
		if err := r.Reconfigure(without); err != nil {
			t.Fatal(err)
		}
		dialled.Wait() // every one of them has been closed, or refused
	}
}

// /metrics counts by names of the configuration, and by nothing that agents make up.
func TestMetrics(t *testing.T) {
	r := start(t, service.Options{AdminToken: "secret"})
	ws := r.dial(t, "uf_dev_key")
	for i := range 7 {
		id := string(rune('a' + i))
		ask(t, ws, reserveText("1", "GET /api/reports SECRETUSER", id, 1))
		ask(t, ws, reserveText("1", "GET /api/reports SECRETUSER", id, 1)) // once more: it counts once where it was allowed
	}
	ask(t, ws, useText("2", "GET /api/reports SECRETUSER", "a", 2.5))
	ask(t, ws, useText("2", "GET /api/reports SECRETUSER", "a", 2.5))
	ask(t, ws, useText("2", "GET /api/reports SECRETUSER", "b", 0))
	ask(t, ws, useText("2", "GET /unknown", "zz", 1))
	if status, _, _ := get(t, "http://"+r.addr+"/metrics", nil); status != 401 {
		t.Errorf("without the token: %d", status)
	}
	_, _, body := get(t, "http://"+r.addr+"/metrics", http.Header{"Authorization": {"Bearer secret"}})
	text := string(body)
	for _, want := range []string{
		`usageflow_reservations_total{application="acme",outcome="allowed",policy="GET /api/reports"} 5`,
		`usageflow_reservations_total{application="acme",outcome="denied",policy="GET /api/reports"} 4`,
		`usageflow_settlements_total{application="acme",state="settled"} 2`,
		`usageflow_settlements_total{application="acme",state="voided"} 1`,
		`usageflow_charged_units_total{application="acme"} 3.5`,
		`usageflow_flagged_settlements_total{application="acme",flag="unreserved"} 1`,
		`usageflow_reservation_seconds_count 9`,
		"usageflow_connections 1", "usageflow_ledgers 2", "usageflow_held_allocations 3", "go_goroutines ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if strings.Contains(text, "SECRETUSER") || strings.Contains(text, "unknown") {
		t.Error("an identity or an alias is a label")
	}
	for _, name := range regexp.MustCompile(`(?m)^(usageflow_\w+)`).FindAllString(text, -1) {
		if base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, ""); !strings.Contains(text, "# HELP "+base+" ") {
			t.Errorf("%s has no help", name)
		}
	}
}

// /readyz says whether agents should be sent here; it needs no token, as probes have none.
func TestReady(t *testing.T) {
	r := start(t, service.Options{AdminToken: "secret"})
	for _, path := range []string{"/readyz", "/healthz"} {
		if status, _, body := get(t, "http://"+r.addr+path, nil); status != 200 {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if err := r.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	if status, _, body := get(t, "http://"+r.addr+"/readyz", nil); status != 503 || !strings.Contains(string(body), "the ledger does not answer") {
		t.Errorf("with a ledger that is closed: %d %s", status, body)
	}
	if status, _, _ := get(t, "http://"+r.addr+"/healthz", nil); status != 200 {
		t.Errorf("/healthz with a ledger that is closed: %d", status)
	}
}

// A backup needs the token, and a ledger that can be copied.
func TestBackup(t *testing.T) {
	r := start(t, service.Options{AdminToken: "secret"})
	post := func(r *running, token string) (int, string) {
		t.Helper()
		status, _, body := request(t, http.MethodPost, "http://"+r.addr+"/api/v1/backup", http.Header{"Authorization": {"Bearer " + token}})
		return status, string(body)
	}
	if status, _ := post(r, "wrong"); status != 401 {
		t.Errorf("with a wrong token: %d", status)
	}
	if status, body := post(r, "secret"); status != 200 || !strings.HasPrefix(body, "SQLite format 3") {
		t.Errorf("got %d, %d bytes", status, len(body))
	}
	other := start(t, service.Options{Ledger: struct{ service.Ledger }{r.ledger}})
	if status, body := post(other, ""); status != 501 || !strings.Contains(body, "its own tools") {
		t.Errorf("a ledger that can't: %d %s", status, body)
	}
	if err := r.ledger.Close(); err != nil {
		t.Fatal(err)
	}
	if status, _ := post(r, "secret"); status != 500 {
		t.Errorf("a ledger that is closed: %d", status)
	}
}
