package usageflow_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/labstack/echo/v4"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/echo"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// One line. This one has no key: it logs an error, and requests pass.
func ExampleEcho() {
	e := echo.New()
	e.Use(usageflow.Echo(""))
	e.GET("/api/users/:id", func(c echo.Context) error { return c.String(http.StatusOK, c.Param("id")) })
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest("GET", "/api/users/7", nil))
	fmt.Println(w.Body)
	// Output: 7
}

// A flow of one's own, to configure it and to drain it at the end; here against a fake service.
func ExampleMiddleware() {
	srv, err := sockettest.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	flow, err := core.New(core.Config{
		APIKey:   "key",
		URL:      srv.URL,
		Identify: func(r *core.Request) (string, bool) { return r.Header.Get("X-User"), true },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	e := echo.New()
	e.Use(usageflow.Middleware(flow))
	e.GET("/api/users/:id", func(c echo.Context) error {
		core.FromContext(c.Request().Context()).SetAmount(3)
		return c.String(http.StatusOK, "ok")
	})
	req := httptest.NewRequest("GET", "/api/users/7", nil)
	req.Header.Set("X-User", "acme")
	e.ServeHTTP(httptest.NewRecorder(), req)
	fmt.Println(flow.Shutdown(context.Background()))
	use := srv.Messages(socket.TypeUseAllocation)[0].Use()
	fmt.Println(use.Alias, use.Amount)
	// Output:
	// <nil>
	// GET /api/users/:id acme 3
}
