package usageflow_test

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
	"github.com/usageflow/usageflow-go-middleware/middleware/middlewaretest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	gin.DefaultErrorWriter, gin.DefaultWriter = io.Discard, io.Discard
	os.Exit(m.Run())
}

// serve sends a request to an engine.
func serve(r http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

// What gin itself offers for answers: each is seen, and charged what it tells.
func TestAnswers(t *testing.T) {
	a := middlewaretest.Start(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "*", URL: "/x", ResponseTrackingField: "n", IsResponseTrackingEnabled: true})
	})
	file := t.TempDir() + "/f.json"
	if err := os.WriteFile(file, []byte(`{"n":9}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, tc := range []struct {
		handler gin.HandlerFunc
		status  float64
		body    string
		amount  float64
	}{
		{func(*gin.Context) {}, 200, "", 1},
		{func(c *gin.Context) { c.Status(http.StatusAccepted) }, 202, "", 1},
		{func(c *gin.Context) { c.JSON(http.StatusTeapot, gin.H{"n": 6}) }, 418, `{"n":6}`, 6},
		{func(c *gin.Context) { c.AbortWithStatusJSON(http.StatusConflict, gin.H{"n": 2}) }, 409, `{"n":2}`, 2},
		{func(c *gin.Context) { c.File(file) }, 200, `{"n":9}`, 9},
		{func(c *gin.Context) { c.Redirect(http.StatusNotModified, "/y") }, 304, "", 1},
		{func(c *gin.Context) { c.SSEvent("end", gin.H{"n": 7}) }, 200, "event:end\ndata:{\"n\":7}\n\n", 7},
		{func(c *gin.Context) {
			c.Stream(func(w io.Writer) bool { _, _ = io.WriteString(w, `{"n":3}`); return false })
		}, 200, `{"n":3}`, 3},
	} {
		r := gin.New()
		r.Use(usageflow.Middleware(a.Flow))
		r.GET("/x", tc.handler)
		ts := httptest.NewServer(r) // Stream needs a connection
		resp, err := http.Get(ts.URL + "/x")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		ts.Close()
		if float64(resp.StatusCode) != tc.status || string(body) != tc.body {
			t.Errorf("answer %d: got %d %s", i, resp.StatusCode, body)
		}
		if u := a.Uses(i + 1)[i]; u.Amount != tc.amount || u.Metadata["responseStatusCode"] != tc.status {
			t.Errorf("answer %d: amount %v, metadata %v", i, u.Amount, u.Metadata)
		}
	}
	a.Drain(8)
}

// boaster says that it has written more than it was given, as writers do that buffer.
type boaster struct{ gin.ResponseWriter }

func (b boaster) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p)
	return n + 1000, err
}

func (b boaster) WriteString(s string) (int, error) {
	n, err := b.ResponseWriter.WriteString(s)
	return n + 1000, err
}

// What a handler has written is what it gave, whatever the writer below says.
func TestWriterThatBoasts(t *testing.T) {
	a := middlewaretest.Start(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "*", URL: "/x", ResponseTrackingField: "n", IsResponseTrackingEnabled: true})
	})
	r := gin.New()
	r.Use(func(c *gin.Context) { c.Writer = boaster{c.Writer} }, usageflow.Middleware(a.Flow))
	r.GET("/x", func(c *gin.Context) {
		_, _ = c.Writer.Write([]byte(`{"n":5}{"n":900000}`)[:7])
		_, _ = c.Writer.WriteString(" ")
	})
	serve(r, "GET", "/x")
	if u := a.Uses(1)[0]; u.Amount != 5 {
		t.Errorf("amount %v", u.Amount)
	}
}

// gin by default matches the decoded path: what it matches is what counts.
func TestEncodedSlashByDefault(t *testing.T) {
	a := middlewaretest.Start(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "GET", URL: "/users/:id", IdentityFieldLocation: "path_params", IdentityFieldName: "id"})
	})
	r := gin.New()
	r.Use(usageflow.Middleware(a.Flow))
	r.GET("/users/:id", func(c *gin.Context) { c.String(http.StatusOK, c.Param("id")) })
	if w := serve(r, "GET", "/users/a%2Fb"); w.Code != 404 {
		t.Errorf("got %d", w.Code)
	}
	if w := serve(r, "GET", "/users/a%20b"); w.Body.String() != "a b" {
		t.Errorf("got %s", w.Body)
	}
	if u := a.Uses(1); u[0].Alias != "GET /users/:id a b" {
		t.Errorf("alias %q", u[0].Alias)
	}
}

// Where the key can't be used, an error is logged and requests pass.
func TestGinWithoutKey(t *testing.T) {
	var logs bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logs, nil)))
	defer slog.SetDefault(old)
	r := gin.New()
	r.Use(usageflow.Gin(""), usageflow.Middleware(nil))
	r.GET("/x", func(c *gin.Context) { c.String(http.StatusOK, "ok") })
	if w := serve(r, "GET", "/x"); w.Code != 200 || w.Body.String() != "ok" || !strings.Contains(logs.String(), "level=ERROR") {
		t.Errorf("got %d %s, log %s", w.Code, w.Body, &logs)
	}
}

// Where the service can't be reached, Gin returns at once and requests pass.
func TestGinPassesWithoutService(t *testing.T) {
	t.Setenv(socket.EnvURL, "ws://127.0.0.1:1/ws") // nothing listens there
	old := slog.Default()
	slog.SetDefault(slog.New(slog.DiscardHandler))
	defer slog.SetDefault(old)
	r := gin.New()
	r.Use(usageflow.Gin("key"))
	r.GET("/x", func(c *gin.Context) { c.String(http.StatusOK, "ok") })
	for range 10 {
		if w := serve(r, "GET", "/x"); w.Code != 200 {
			t.Errorf("got %d", w.Code)
		}
	}
}
