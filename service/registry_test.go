package service_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/documenttest"
)

// memoryDocuments is a DocumentStore that several services share.
type memoryDocuments struct {
	mu      sync.Mutex
	data    []byte
	version int64
	stale   int // how many saves are to be too late
	fails   error
}

func (m *memoryDocuments) LoadDocument(ctx context.Context) ([]byte, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data, m.version, errors.Join(m.fails, ctx.Err())
}

func (m *memoryDocuments) SaveDocument(ctx context.Context, data []byte, version int64) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := errors.Join(m.fails, ctx.Err()); err != nil {
		return 0, err
	}
	if m.stale > 0 || version != m.version {
		m.stale--
		return 0, service.ErrStale
	}
	m.data, m.version = data, version+1
	return m.version, nil
}

func (m *memoryDocuments) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fails = err
}

// closingDocuments can be closed, as the suite wants.
type closingDocuments struct{ *memoryDocuments }

func (c closingDocuments) Close() error {
	c.fail(errors.New("it is closed"))
	return nil
}

// The store of these tests is one.
func TestMemoryDocuments(t *testing.T) {
	documenttest.Run(t, func(*testing.T) func() documenttest.Store {
		m := &memoryDocuments{}
		return func() documenttest.Store {
			m.fail(nil)
			return closingDocuments{m}
		}
	})
}

// startShared runs a service on a document store that others use too.
func startShared(t *testing.T, documents service.DocumentStore, text string) (*running, *admin) {
	t.Helper()
	opts := service.Options{Documents: documents}
	if text != "" {
		opts.Config = parseConfig(t, text)
	}
	r := start(t, opts)
	return r, &admin{t: t, base: "http://" + r.addr}
}

// What was changed through the API stays over restarts, until the file says something else.
func TestFileAndStore(t *testing.T) {
	documents := &memoryDocuments{}
	r, a := startShared(t, documents, example)
	limit := func(a *admin) any {
		return a.must(200, "GET", "/applications/acme", "").field(t, "policies.0.limits.0.limit")
	}
	if limit(a) != 5.0 || r.Config().Application("uf_next_key") == nil {
		t.Fatal("the file is not in force")
	}
	id := a.must(200, "GET", "/applications/acme", "").text(t, "policies.0.id")
	a.must(200, "PUT", "/applications/acme/policies/"+id, `{"name":"GET /api/reports","method":"GET","url":"/api/reports","hasRateLimit":true,"limit":8,"window":"minute"}`)
	next := a.must(200, "GET", "/applications/acme", "").text(t, "keys.1.id")
	a.must(204, "DELETE", "/applications/acme/keys/"+next, "")
	made := a.must(201, "POST", "/applications/acme/keys", `{"label":"mine"}`)
	a.must(204, "DELETE", "/applications/other", "")
	a.must(201, "POST", "/applications", `{"name":"added"}`)
	r.shutdown(t)

	commented := strings.ReplaceAll("# a comment\n"+example, "[uf_dev_key, uf_next_key]", "[uf_next_key, uf_dev_key]")
	for _, text := range []string{example, commented, ""} {
		r, a = startShared(t, documents, text)
		if limit(a) != 8.0 || r.Config().Application("uf_next_key") != nil || r.Config().Application("uf_dev_key") == nil {
			t.Errorf("an edit is gone after a restart: %s", a.must(200, "GET", "/applications", "").body)
		}
		a.refused(404, "not_found", "GET", "/applications/other", "")
		if err := r.Reconfigure(parseConfig(t, example)); err != nil || limit(a) != 8.0 {
			t.Errorf("SIGHUP without a change: %v, %v", err, limit(a))
		}
		if strings.Contains(r.log.String(), "replaces what was changed") {
			t.Errorf("log:\n%s", r.log)
		}
		r.shutdown(t)
	}

	r, a = startShared(t, documents, strings.Replace(example, "limit: 5,", "limit: 6,", 1))
	got := a.must(200, "GET", "/applications/acme", "")
	if got.field(t, "policies.0.limits.0.limit") != 6.0 || got.text(t, "policies.0.id") != id || len(got.field(t, "keys").([]any)) != 2 || got.text(t, "keys.1.label") != "mine" {
		t.Errorf("the file has changed: %s", got.body)
	}
	if r.Config().Application("uf_next_key") != nil || r.Config().Application(made.text(t, "key")) == nil || !strings.Contains(r.log.String(), "replaces what was changed through the API") ||
		!strings.Contains(r.log.String(), "was revoked through the API, and stays so") {
		t.Errorf("keys, log:\n%s", r.log)
	}
	// A key that was revoked is valid again when the file has been without it.
	for _, keys := range []string{"[uf_dev_key]", "[uf_dev_key, uf_next_key]"} {
		if err := r.Reconfigure(parseConfig(t, strings.Replace(example, "[uf_dev_key, uf_next_key]", keys, 1))); err != nil {
			t.Fatal(err)
		}
	}
	if r.Config().Application("uf_next_key") == nil {
		t.Error("the key can't be made valid again")
	}
	a.refused(404, "not_found", "GET", "/applications/other", "")

	// What the file has no more is removed, and its connections closed; what the API has made is not.
	ws := r.dial(t, "uf_dev_key")
	if err := r.Reconfigure(parseConfig(t, "applications: [{name: other, keys: [uf_new_other]}]")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("the connection of an application that is gone: %v", err)
	}
	a.refused(404, "not_found", "GET", "/applications/acme", "")
	a.must(200, "GET", "/applications/added", "")
	a.must(200, "GET", "/applications/other", "")

	// An application of the API's that the file names becomes the file's; one that is applied is the API's again.
	if err := r.Reconfigure(parseConfig(t, "applications: [{name: other, keys: [uf_new_other]}, {name: added, keys: [uf_added]}]")); err != nil {
		t.Fatal(err)
	}
	if got := a.must(200, "GET", "/applications/added", ""); got.text(t, "source") != "file" || len(got.field(t, "keys").([]any)) != 2 {
		t.Errorf("%s", got.body)
	}
	a.must(200, "POST", "/apply", "applications: [{name: added}]", "Content-Type", "application/yaml")
	if err := r.Reconfigure(parseConfig(t, "applications: [{name: other, keys: [uf_new_other]}]")); err != nil {
		t.Fatal(err)
	}
	if got := a.must(200, "GET", "/applications/added", ""); got.text(t, "source") != "api" {
		t.Errorf("%s", got.body)
	}
	// A key of another application's is refused, and all stays.
	if err := r.Reconfigure(parseConfig(t, "applications: [{name: third, keys: [uf_added]}]")); err == nil || !strings.Contains(err.Error(), "has this key already") {
		t.Errorf("a key that is taken: %v", err)
	}
	a.must(200, "GET", "/applications/other", "")
	if documents.mu.Lock(); strings.Contains(string(documents.data), "uf_dev_key") || strings.Contains(string(documents.data), made.text(t, "key")) {
		t.Errorf("a key is stored: %s", documents.data)
	}
	documents.mu.Unlock()
}

// A change through one replica takes effect in the others, and no change is lost.
func TestReplicas(t *testing.T) {
	documents := &memoryDocuments{stale: 3}
	first, a := startShared(t, documents, example)
	second, b := startShared(t, documents, "")
	ws := second.dial(t, "uf_dev_key")
	id := a.must(200, "GET", "/applications/acme", "").text(t, "keys.0.id")
	a.must(204, "DELETE", "/applications/acme/keys/"+id, "")
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("a key that another replica has revoked: %v", err)
	}
	var all sync.WaitGroup
	for name, admin := range map[string]*admin{"a": a, "b": b} {
		all.Go(func() {
			for i := range 10 {
				if got := admin.do("POST", "/applications", fmt.Sprintf(`{"name":"%s%d"}`, name, i)); got.status != 201 {
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	all.Wait()
	for _, r := range []*running{first, second} {
		if err := r.Refresh(); err != nil || len(r.Config().Applications) != 22 {
			t.Errorf("%d applications, %v", len(r.Config().Applications), err)
		}
	}
}

// A store that fails changes nothing, and is told of once.
func TestDocumentsFail(t *testing.T) {
	documents := &memoryDocuments{}
	r, a := startShared(t, documents, example)
	documents.fail(errors.New("no disk"))
	a.refused(503, "unavailable", "POST", "/applications", `{"name":"n"}`)
	a.refused(503, "unavailable", "POST", "/apply?dry_run=true", example, "Content-Type", "application/yaml")
	if err := r.Reconfigure(parseConfig(t, example)); err == nil {
		t.Error("Reconfigure says nothing")
	}
	for deadline := time.Now().Add(patience); !strings.Contains(r.log.String(), "can't be read; the last one stays"); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("log:\n%s", r.log)
		}
	}
	a.must(200, "GET", "/applications/acme", "")
	documents.fail(nil)
	a.must(201, "POST", "/applications", `{"name":"n"}`)

	ledger := openStore(t)
	for name, data := range map[string]string{"no JSON": "{", "another format": `{"format":2}`, "a bad value": `{"format":1,"applications":[{"name":"a","policies":[{}]}]}`} {
		if _, err := service.New(service.Options{Ledger: ledger, Documents: &memoryDocuments{data: []byte(data), version: 1}}); err == nil {
			t.Errorf("%s is read", name)
		}
	}
	if _, err := service.New(service.Options{Ledger: ledger}); err == nil {
		t.Error("a service without a configuration is made")
	}
}
