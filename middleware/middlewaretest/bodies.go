package middlewaretest

import (
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// ordersByCustomer finds the identity in a request's body.
func ordersByCustomer(s *sockettest.Server) { s.SetPolicies(policy("POST", "/x", "body", "customer")) }

// testBodies: where the identity is in the body, the handler still reads all of it, and its own limit holds.
func testBodies(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, ordersByCustomer)
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
		most := int64(8 << 20)
		if r.Header.Get("X-Limit") != "" {
			most = 10
		}
		r.Body = http.MaxBytesReader(w, r.Body, most)
		body, err := io.ReadAll(r.Body)
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			http.Error(w, fmt.Sprint("over ", tooLarge.Limit), http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = fmt.Fprintf(w, "%d %v %.40s", len(body), err, body)
	})})
	long := `{"customer":"acme","x":"` + strings.Repeat("x", 2<<20) + `"}`
	for i, tc := range []struct {
		body, limit string
		want, alias string
	}{
		{`{"customer":"acme"}`, "", `19 <nil> {"customer":"acme"}`, "POST /x acme"},
		{`{"customer":7}`, "", `14 <nil> {"customer":7}`, "POST /x 7"},
		{"", "", "0 <nil> ", "POST /x"},
		{`[1,2]`, "", "5 <nil> [1,2]", "POST /x"},
		{`{"customer":"acme"`, "", `18 <nil> {"customer":"acme"`, "POST /x"},  // it is no JSON
		{long, "", fmt.Sprintf("%d <nil> %.40s", len(long), long), "POST /x"}, // it is longer than MaxBodyBytes
		{`{"customer":"acme"}`, "1", "over 10\n", "POST /x acme"},
	} {
		for _, chunked := range []bool{false, true} {
			body := io.Reader(strings.NewReader(tc.body))
			if chunked {
				body = struct{ io.Reader }{body}
			}
			var fields []string
			if tc.limit != "" {
				fields = []string{"X-Limit", tc.limit}
			}
			if got := a.send(ts, "POST", "/x", body, fields...); got.body != tc.want {
				t.Errorf("body %d, chunked %v: got %s", i, chunked, got)
			}
			n := 2*i + 1
			if chunked {
				n++
			}
			if use := a.use(n); use.Alias != tc.alias {
				t.Errorf("body %d, chunked %v: alias %q, want %q", i, chunked, use.Alias, tc.alias)
			}
		}
	}
	a.Drain(14)
}

// zeros is a long JSON string.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

// testLongUpload sends 100 MiB, of which only the beginning is ever in memory, and gets as much back.
func testLongUpload(t *testing.T, adapter Adapter) {
	const size = 100 << 20
	a := newApp(t, adapter, func(s *sockettest.Server) {
		s.SetPolicies(policy("POST", "/x", "body", "customer"), sockettest.Policy{Method: "*", URL: "*", ResponseTrackingField: "n", IsResponseTrackingEnabled: true})
	})
	ts := a.serve(Setup{Routes: at("/x", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		n, err := io.Copy(w, r.Body)
		_, _ = fmt.Fprintf(w, `","n":%d}`, n)
		if err != nil {
			t.Error(err)
		}
	})})
	a.send(ts, "POST", "/x", strings.NewReader(`{"a":"`)) // what is made once is made
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	body := io.MultiReader(strings.NewReader(`{"customer":"acme","x":"`), io.LimitReader(zeros{}, size))
	resp, err := ts.Client().Do(a.request(ts, "POST", "/x", body))
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	runtime.ReadMemStats(&after)
	if n < size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 {
		t.Errorf("%d bytes were allocated for an upload of %d", used, size)
	}
	if use := a.use(2); use.Alias != "POST /x" || use.Amount < size { // the body is too long to look for an identity
		t.Errorf("settlement %+v", use)
	}
	a.Drain(2)
}

// testUploadedFiles: the files of an upload are removed when its request has ended, if they are without the middleware.
func testUploadedFiles(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, nil)
	left := func(serve func(Setup) *httptest.Server) bool {
		name := ""
		ts := serve(Setup{Routes: at("/x", func(_ http.ResponseWriter, r *http.Request) {
			if err := r.ParseMultipartForm(0); err != nil {
				t.Error(err)
				return
			}
			f, err := r.MultipartForm.File["f"][0].Open()
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if file, ok := f.(*os.File); ok {
				name = file.Name()
			}
		})})
		body, upload := io.Pipe()
		form := multipart.NewWriter(upload)
		go func() {
			part, _ := form.CreateFormFile("f", "f")
			_, _ = io.CopyN(part, zeros{}, 11<<20) // more than is kept in memory
			_ = form.Close()
			_ = upload.Close()
		}()
		a.send(ts, "POST", "/x", body, "Content-Type", form.FormDataContentType())
		ts.Close() // waits until the request is over
		_, err := os.Stat(name)
		_ = os.Remove(name)
		if name == "" {
			t.Error("the upload was in no file")
		}
		return err == nil
	}
	if with, without := left(a.serve), left(a.bare); with != without {
		t.Errorf("the file is left: %v; without the middleware: %v", with, without)
	}
	a.Drain(1)
}

// testTraffic sends 2,000 requests, many at once, on many routes: all are settled, each behind its reservation.
func testTraffic(t *testing.T, adapter Adapter) {
	a := newApp(t, adapter, func(s *sockettest.Server) {
		s.SetPolicies(policy("*", "/users/:id", "path_params", "id"), limited(policy("*", "/limited/:id", "path_params", "id")))
	})
	ts := a.serve(Setup{Routes: append(at("/users/:id", ok), at("/limited/:id", ok)...), Groups: []Group{{Prefix: "/v1", Routes: at("/users/:id", ok)}}})
	ts.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			for j := range 50 {
				path := fmt.Sprintf("/%s/%d", []string{"users", "limited", "v1/users"}[j%3], i)
				resp, err := ts.Client().Get(ts.URL + path)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode != 200 || string(body) != "ok" || err != nil {
					t.Errorf("%s: got %d %s, %v", path, resp.StatusCode, body, err)
				}
			}
		})
	}
	all.Wait()
	ledgers := make(map[string]int)
	for _, use := range a.Uses(2_000) {
		ledgers[use.Alias]++
	}
	for i := range 40 {
		if u, l := ledgers[fmt.Sprintf("GET /users/:id %d", i)], ledgers[fmt.Sprintf("GET /limited/:id %d", i)]; u != 17 || l != 17 {
			t.Errorf("caller %d: %d and %d settlements, want 17 of each", i, u, l)
		}
	}
	if n := ledgers["GET /v1/users/:id"]; n != 16*40 {
		t.Errorf("%d settlements in the group", n)
	}
	a.Drain(2_000)
}
