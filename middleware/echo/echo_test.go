package usageflow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/echo"
	"github.com/usageflow/usageflow-go-middleware/middleware/middlewaretest"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func ok(c echo.Context) error { return c.String(http.StatusOK, "ok") }

// serve sends a request to an Echo without a server.
func serve(e http.Handler, method, target string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest(method, target, nil))
	return w
}

func TestSuite(t *testing.T) {
	middlewaretest.Run(t, middlewaretest.Adapter{New: newRouter})
}

func newRouter(s middlewaretest.Setup) http.Handler {
	e := echo.New()
	e.Logger.SetOutput(io.Discard)
	if s.RecoverBefore {
		e.Use(middleware.Recover())
	}
	for _, m := range s.Before {
		e.Use(echo.WrapMiddleware(m))
	}
	e.Use(flows(s.Flows)...)
	for _, m := range s.Behind {
		e.Use(echo.WrapMiddleware(m))
	}
	if s.RecoverBehind {
		e.Use(middleware.Recover())
	}
	add(e.Group(""), s.Root())
	return e
}

func add(g *echo.Group, of middlewaretest.Group) {
	for _, r := range of.Routes {
		g.Add(r.Method, r.Pattern, echo.WrapHandler(r.Handler), flows(r.Flows)...)
	}
	for _, inner := range of.Groups {
		add(g.Group(inner.Prefix, flows(inner.Flows)...), inner)
	}
}

func flows(list []*core.Flow) (all []echo.MiddlewareFunc) {
	for _, f := range list {
		all = append(all, usageflow.Middleware(f))
	}
	return all
}

// The error that a handler returns reaches the middleware outside and echo's error handler, each once; the settlement has the
// status, and the amount, of what that one answers.
func TestErrors(t *testing.T) {
	notFound := errors.New("no such order")
	for name, tc := range map[string]struct {
		err     error
		handler echo.HTTPErrorHandler // nil: echo's own
		outer   func(c echo.Context, err error) error
		status  float64
		amount  float64
		handled int
		use     echo.MiddlewareFunc // outside
		alone   float64             // the status that is settled where there is no server to tell when the answer is over
	}{
		"an HTTP error": {err: echo.NewHTTPError(409, map[string]int{"n": 2}), status: 409, amount: 2, handled: 1, alone: 409},
		"another error": {err: notFound, status: 500, amount: 1, handled: 1, alone: 500},
		"a handler of one's own": {err: notFound, status: 404, amount: 3, handled: 1, alone: 500, handler: func(err error, c echo.Context) {
			if !errors.Is(err, notFound) {
				err = fmt.Errorf("got %w", err)
			}
			_ = c.JSON(http.StatusNotFound, map[string]any{"error": err.Error(), "n": 3})
		}},
		"a handler that answers nothing": {err: notFound, status: 500, amount: 1, handled: 1, alone: 500, handler: func(error, echo.Context) {}},
		"middleware that answers itself": {err: notFound, status: 418, amount: 4, handled: 0, alone: 500, outer: func(c echo.Context, _ error) error {
			return c.JSON(http.StatusTeapot, map[string]int{"n": 4})
		}},
		"middleware that has it answered": {err: notFound, status: 500, amount: 1, handled: 1, alone: 500, outer: func(c echo.Context, err error) error {
			c.Error(err)
			return nil
		}},
		"middleware that swallows it": {err: notFound, status: 500, amount: 1, handled: 0, alone: 500, outer: func(echo.Context, error) error { return nil }},
		"a compressor outside": {err: notFound, status: 404, amount: 1, handled: 1, alone: 500, use: middleware.Gzip(), handler: func(_ error, c echo.Context) {
			_ = c.JSON(http.StatusNotFound, map[string]any{"n": 3}) // the compressor has taken the writer away that would see it
		}},
		"a deadline outside":       {err: context.DeadlineExceeded, status: 503, amount: 1, handled: 1, alone: 500, use: middleware.ContextTimeout(time.Nanosecond)},
		"an answer, then an error": {err: nil, status: 202, amount: 5, handled: 1, alone: 202},
	} {
		for _, server := range []bool{true, false} {
			a := middlewaretest.Start(t, func(s *sockettest.Server) {
				s.SetPolicies(sockettest.Policy{Method: "GET", URL: "/x", ResponseTrackingField: "n", IsResponseTrackingEnabled: true})
			})
			e := echo.New()
			e.Logger.SetOutput(io.Discard)
			handled, seen := 0, 0
			answer := tc.handler
			if answer == nil {
				answer = e.DefaultHTTPErrorHandler
			}
			e.HTTPErrorHandler = func(err error, c echo.Context) { handled++; answer(err, c) }
			e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
				return func(c echo.Context) error {
					err := next(c)
					if err != nil {
						seen++
					}
					if err != nil && tc.err != nil && tc.use == nil && !errors.Is(err, tc.err) {
						t.Errorf("%s: the middleware outside got %v", name, err)
					}
					if tc.outer != nil {
						return tc.outer(c, err)
					}
					return err
				}
			})
			if tc.use != nil {
				e.Use(tc.use)
			}
			e.Use(usageflow.Middleware(a.Flow))
			e.GET("/x", func(c echo.Context) error {
				if tc.err == nil {
					_ = c.JSON(http.StatusAccepted, map[string]int{"n": 5})
					return notFound
				}
				return tc.err
			})
			status := tc.status
			if server {
				ts := httptest.NewServer(e)
				resp, err := http.Get(ts.URL + "/x")
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				ts.Close()
			} else {
				status = tc.alone
				serve(e, "GET", "/x")
			}
			use := a.Uses(1)[0]
			if use.Metadata["responseStatusCode"] != status || (server && use.Amount != tc.amount) {
				t.Errorf("%s, server %v: settled %v with status %v, want %v with %v", name, server, use.Amount, use.Metadata["responseStatusCode"], tc.amount, status)
			}
			if handled != tc.handled || seen != 1 {
				t.Errorf("%s: the error handler was called %d times, the middleware outside saw %d errors", name, handled, seen)
			}
			a.Drain(1)
		}
	}
}

// A compressor outside that buffers says that it has written more than it was given.
func TestCompressorThatBuffers(t *testing.T) {
	a := middlewaretest.Start(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "GET", URL: "/x", ResponseTrackingField: "n", IsResponseTrackingEnabled: true})
	})
	e := echo.New()
	e.Use(middleware.GzipWithConfig(middleware.GzipConfig{MinLength: 1000}), usageflow.Middleware(a.Flow))
	e.GET("/x", func(c echo.Context) error {
		for range 3 {
			if _, err := io.WriteString(c.Response(), "{\"n\":5}"+strings.Repeat(" ", 600)); err != nil {
				return err
			}
		}
		return nil
	})
	r := httptest.NewRequest("GET", "/x", nil)
	r.Header.Set("Accept-Encoding", "gzip")
	e.ServeHTTP(httptest.NewRecorder(), r)
	if u := a.Uses(1)[0]; u.Amount != 5 {
		t.Errorf("amount %v", u.Amount)
	}
}

// A client that has stopped sending may still be reading: the error that it gets is an answer, and charged like one.
func TestErrorToAClientThatListens(t *testing.T) {
	a := middlewaretest.Start(t, nil)
	e := echo.New()
	e.Logger.SetOutput(io.Discard)
	e.Use(usageflow.Middleware(a.Flow))
	e.GET("/x", func(c echo.Context) error {
		<-c.Request().Context().Done()
		return echo.NewHTTPError(http.StatusConflict)
	})
	e.GET("/gone", func(c echo.Context) error {
		<-c.Request().Context().Done()
		return c.Request().Context().Err()
	})
	ts := httptest.NewServer(e)
	defer ts.Close()
	for i, path := range []string{"/x", "/gone"} {
		conn, err := net.Dial("tcp", ts.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path)
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		_ = conn.Close()
		use := a.Uses(i + 1)[i]
		if path == "/x" && (!bytes.HasPrefix(answer, []byte("HTTP/1.1 409")) || use.Amount != 1 || use.Metadata["responseStatusCode"] != 409.0) {
			t.Errorf("got %.20s, settlement %+v", answer, use)
		}
		if path == "/gone" && use.Amount != 0 {
			t.Errorf("settlement %+v", use)
		}
	}
	a.Drain(2)
}

// echo has a pattern also for what it has no route for: a wrong method, OPTIONS, and what a group or RouteNotFound catches.
func TestUnmatched(t *testing.T) {
	a := middlewaretest.Start(t, nil)
	e := echo.New()
	e.Use(usageflow.Middleware(a.Flow))
	g := e.Group("/api", usageflow.Middleware(a.Flow))
	g.GET("/users/:id", ok)
	g.POST("/*", ok)
	e.RouteNotFound("/*", func(c echo.Context) error { return c.String(http.StatusNotFound, "nothing here") })
	e.Host("other.example").GET("/api/*", ok)
	for _, request := range [][2]string{{"GET", "/nowhere"}, {echo.RouteNotFound, "/api/nowhere"}, {"GET", "/api"}, {"GET", "/api/nowhere"}, {"PUT", "/api/users/7"}, {"OPTIONS", "/api/users/7"}, {"DELETE", "/api/x"}} {
		if w := serve(e, request[0], request[1]); w.Code == 200 {
			t.Errorf("%v: got %d", request, w.Code)
		}
	}
	if s := a.Flow.Stats(); s.Admitted != 0 {
		t.Errorf("stats %+v", s)
	}
	serve(e, "GET", "/api/users/7")
	serve(e, "POST", "/api/x")
	r := httptest.NewRequest("GET", "/api/nowhere", nil)
	r.Host = "other.example"
	e.ServeHTTP(httptest.NewRecorder(), r)
	e.Router().Add("GET", "/added", ok) // which echo does not list
	serve(e, "GET", "/added")
	for i, alias := range []string{"GET /api/users/:id", "POST /api/*", "GET /api/*", "GET /added"} {
		if got := a.Uses(4)[i].Alias; got != alias {
			t.Errorf("alias %q, want %q", got, alias)
		}
	}
	a.Drain(4)
}

// Before echo has chosen a route there is nothing to meter: that is counted, and logged as an error.
func TestPre(t *testing.T) {
	a := middlewaretest.Start(t, nil)
	e := echo.New()
	e.Pre(usageflow.Middleware(a.Flow))
	e.GET("/x", ok)
	for range 2 {
		if w := serve(e, "GET", "/x"); w.Body.String() != "ok" {
			t.Errorf("got %s", w.Body)
		}
	}
	serve(e, "GET", "/nowhere")
	if s := a.Flow.Stats(); s.Missed != 2 || s.Admitted != 0 || strings.Count(a.Log(), "served behind its back") != 1 {
		t.Errorf("stats %+v, log:\n%s", s, a.Log())
	}
}

// A handler that has taken over its connection and then returns an error is settled when that is closed, like any other.
func TestErrorAfterHijack(t *testing.T) {
	a := middlewaretest.Start(t, nil)
	e := echo.New()
	e.Logger.SetOutput(io.Discard)
	e.Use(usageflow.Middleware(a.Flow))
	e.GET("/x", func(c echo.Context) error {
		conn, _, err := c.Response().Hijack()
		if err != nil {
			t.Error(err)
			return err
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		return errors.New("the peer has gone")
	})
	ts := httptest.NewServer(e)
	defer ts.Close()
	resp, err := http.Get(ts.URL + "/x")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if use := a.Uses(1)[0]; use.Metadata["responseStatusCode"] != 101.0 || use.Amount != 1 {
		t.Errorf("settlement %+v", use)
	}
	a.Drain(1)
}

// What echo itself offers for answers is seen; a colon that begins no parameter has its one form.
func TestAnswers(t *testing.T) {
	a := middlewaretest.Start(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Method: "*", URL: "*", ResponseTrackingField: "n", IsResponseTrackingEnabled: true})
	})
	e := echo.New()
	e.Use(middleware.Gzip(), usageflow.Middleware(a.Flow), middleware.Gzip())
	handlers := []echo.HandlerFunc{
		func(c echo.Context) error { return c.JSON(http.StatusTeapot, map[string]int{"n": 6}) },
		func(c echo.Context) error { return c.Stream(200, "application/json", strings.NewReader(`{"n":7}`)) },
		func(c echo.Context) error { return c.NoContent(204) },
		func(c echo.Context) error { return c.Redirect(302, "/y") },
		func(echo.Context) error { return nil },
	}
	for i, h := range handlers {
		e.GET(fmt.Sprintf("/x%d/:id\\:undo", i), h)
	}
	for i, want := range []struct{ status, amount float64 }{{418, 6}, {200, 7}, {204, 1}, {302, 1}, {200, 1}} {
		r := httptest.NewRequest("GET", fmt.Sprintf("/x%d/7:undo", i), nil)
		r.Header.Set("Accept-Encoding", "gzip")
		e.ServeHTTP(httptest.NewRecorder(), r)
		if use := a.Uses(i + 1)[i]; use.Amount != want.amount || use.Metadata["responseStatusCode"] != want.status || use.Alias != fmt.Sprintf("GET /x%d/:id:undo", i) {
			t.Errorf("%d: settlement %+v, want %+v", i, use, want)
		}
	}
	a.Drain(5)
}

// Where the key can't be used, an error is logged and requests pass.
func TestEchoWithoutKey(t *testing.T) {
	var logs bytes.Buffer
	old := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&logs, nil)))
	defer slog.SetDefault(old)
	e := echo.New()
	e.Use(usageflow.Echo(""), usageflow.Middleware(nil))
	e.GET("/x", ok)
	if w := serve(e, "GET", "/x"); w.Body.String() != "ok" || !strings.Contains(logs.String(), "level=ERROR") {
		t.Errorf("got %s, log %s", w.Body, &logs)
	}
}
