package service_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

const adminToken = "an admin token"

// openStore opens an embedded store until the test ends.
func openStore(t *testing.T) *sqlite.Store {
	t.Helper()
	store, err := sqlite.Open(sqlite.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

// startEditable runs a service whose configuration is stored, and an admin of it. text is the configuration file, or empty.
func startEditable(t *testing.T, text string) (*running, *admin) {
	t.Helper()
	store := openStore(t)
	opts := service.Options{Ledger: store, Documents: store, AdminToken: adminToken}
	if text != "" {
		opts.Config = parseConfig(t, text)
	}
	r := start(t, opts)
	return r, &admin{t: t, base: "http://" + r.addr, header: http.Header{"Authorization": {"Bearer " + adminToken}}}
}

// admin is a client of /api/v1 that holds every answer against openapi.json.
type admin struct {
	t      *testing.T
	base   string
	header http.Header
}

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// field returns a value in a JSON answer, by its path: application.keys.0.id
func (r reply) field(t *testing.T, path string) any {
	t.Helper()
	value := decode[any](t, r.body)
	for name := range strings.SplitSeq(path, ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[name]
		case []any:
			if i := int(name[0] - '0'); i < len(v) {
				value = v[i]
				continue
			}
			t.Fatalf("%s is not in %s", path, r.body)
		default:
			t.Fatalf("%s is not in %s", path, r.body)
		}
	}
	return value
}

func (r reply) text(t *testing.T, path string) string {
	t.Helper()
	text, ok := r.field(t, path).(string)
	if !ok {
		t.Fatalf("%s is no text in %s", path, r.body)
	}
	return text
}

// do sends a request, with headers as name, value, name, value.
func (a *admin) do(method, path, body string, headers ...string) reply {
	a.t.Helper()
	r, err := http.NewRequestWithContext(a.t.Context(), method, a.base+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for name, values := range a.header {
		r.Header[name] = values
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	got := reply{resp.StatusCode, resp.Header, data}
	a.conform(method, path, r.Header.Get("Content-Type"), body, got)
	return got
}

// must is do for a request that has a certain status.
func (a *admin) must(status int, method, path, body string, headers ...string) reply {
	a.t.Helper()
	got := a.do(method, path, body, headers...)
	if got.status != status {
		a.t.Fatalf("%s %s: %d %s, want %d", method, path, got.status, got.body, status)
	}
	return got
}

// refused is must for an error; it returns nothing but checks the error's code.
func (a *admin) refused(status int, code, method, path, body string, headers ...string) {
	a.t.Helper()
	got := a.do(method, path, body, headers...)
	if e := (answer{}); got.status != status || json.Unmarshal(got.body, &e) != nil || e.Error != code || e.Message == "" {
		a.t.Errorf("%s %s %s: %d %s, want %d %s", method, path, body, got.status, got.body, status, code)
	}
}

// document is openapi.json.
var document = sync.OnceValues(func() (*openapi3.T, error) {
	data, err := os.ReadFile("openapi.json")
	if err != nil {
		return nil, err
	}
	doc, err := openapi3.NewLoader().LoadFromData(data)
	if err != nil {
		return nil, err
	}
	return doc, doc.Validate(context.Background())
})

func openAPI(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// driven are the operations that tests have sent, by whether they succeeded.
var driven sync.Map // of "METHOD /path", then true or false

type drivenKey struct {
	operation string
	succeeded bool
}

// conform holds an answer, and the request where it succeeded, against the document.
func (a *admin) conform(method, path, kind, body string, got reply) {
	a.t.Helper()
	path, _, _ = strings.Cut(path, "?")
	template, op := find(openAPI(a.t), method, path)
	if op == nil {
		return
	}
	name := method + " " + template
	driven.Store(drivenKey{name, got.status < 300}, true)
	response := op.Responses.Status(got.status)
	if response == nil {
		a.t.Errorf("%s answers %d, which openapi.json does not know: %s", name, got.status, got.body)
		return
	}
	for header := range response.Value.Headers {
		if got.header.Get(header) == "" && header != "Retry-After" && header != "Set-Cookie" {
			a.t.Errorf("%s %d has no %s", name, got.status, header)
		}
	}
	if len(response.Value.Content) == 0 {
		if len(got.body) > 0 {
			a.t.Errorf("%s %d has a body: %s", name, got.status, got.body)
		}
		return
	}
	mime, _, _ := strings.Cut(got.header.Get("Content-Type"), ";")
	media := response.Value.Content[mime]
	if media == nil {
		a.t.Errorf("%s %d has the type %q", name, got.status, mime)
		return
	}
	if mime == "application/json" {
		if err := media.Schema.Value.VisitJSON(decode[any](a.t, got.body), openapi3.VisitAsResponse()); err != nil {
			a.t.Errorf("%s %d: %v in %s", name, got.status, err, got.body)
		}
	}
	if got.status < 300 && body != "" && kind == "application/json" {
		if err := op.RequestBody.Value.Content[kind].Schema.Value.VisitJSON(decode[any](a.t, []byte(body)), openapi3.VisitAsRequest()); err != nil {
			a.t.Errorf("%s takes %s: %v", name, body, err)
		}
	}
}

var parameter = regexp.MustCompile(`\\\{\w+\\\}`)

// find returns the operation that a path belongs to.
func find(doc *openapi3.T, method, path string) (template string, op *openapi3.Operation) {
	for template, item := range doc.Paths.Map() {
		pattern := "^" + parameter.ReplaceAllString(regexp.QuoteMeta(template), "[^/]+") + "$"
		if regexp.MustCompile(pattern).MatchString(path) {
			return template, item.GetOperation(method)
		}
	}
	return "", nil
}
