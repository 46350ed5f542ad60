package usageflow_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"github.com/go-chi/chi/v5"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/chi"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// One line. This one has no key: it logs an error, and requests pass.
func ExampleChi() {
	r := chi.NewRouter()
	r.Use(usageflow.Chi(""))
	r.Get("/api/users/{id}", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, chi.URLParam(r, "id")) })
	w := httptest.NewRecorder()
	r.ServeHTTP(w, httptest.NewRequest("GET", "/api/users/7", nil))
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
	r := chi.NewRouter()
	r.Use(usageflow.Middleware(flow))
	r.Route("/api", func(r chi.Router) {
		r.Get("/users/{id:[0-9]+}", func(_ http.ResponseWriter, r *http.Request) {
			core.FromContext(r.Context()).SetAmount(3)
		})
	})
	req := httptest.NewRequest("GET", "/api/users/7", nil)
	req.Header.Set("X-User", "acme")
	r.ServeHTTP(httptest.NewRecorder(), req)
	fmt.Println(flow.Shutdown(context.Background()))
	use := srv.Messages(socket.TypeUseAllocation)[0].Use()
	fmt.Println(use.Alias, use.Amount)
	// Output:
	// <nil>
	// GET /api/users/:id acme 3
}
