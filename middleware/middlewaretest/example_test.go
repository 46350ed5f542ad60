package middlewaretest_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// Middleware meters the routes of an http.ServeMux, one by one, as the mux knows a request's route only when it has found it.
func Middleware(flow *core.Flow) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		if flow == nil {
			return next
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			route := route(r)
			if !flow.Applies(r.Method, route) {
				next.ServeHTTP(w, r)
				return
			}
			client, _, err := net.SplitHostPort(r.RemoteAddr)
			if err != nil {
				client = r.RemoteAddr
			}
			flow.Serve(w, &core.Request{Request: r, Route: route, Param: r.PathValue, ClientIP: client}, next)
		})
	}
}

// route is the path of the pattern that the mux has matched, without method and host; "" if no mux has the request.
func route(r *http.Request) string {
	at := strings.IndexByte(r.Pattern, '/')
	if at < 0 {
		return ""
	}
	if strings.HasSuffix(r.Pattern, "/") {
		return r.Pattern[at:] + "*" // it stands for all that is below it
	}
	return r.Pattern[at:]
}

// A fourth adapter, for net/http's own ServeMux, at work. That it is one is what Run tests:
//
//	middlewaretest.Run(t, middlewaretest.Adapter{New: newMux, NoRecovery: true, HeadIsGet: true})
func Example() {
	service, err := sockettest.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer service.Close()
	service.SetPolicies(sockettest.Policy{Method: "GET", URL: "/users/:id", IdentityFieldLocation: "path_params", IdentityFieldName: "id"})
	flow, err := core.New(core.Config{APIKey: "key", URL: service.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	meter := Middleware(flow)
	mux := http.NewServeMux()
	mux.Handle("GET /users/{id}", meter(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		core.FromContext(r.Context()).SetAmount(3)
	})))
	mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/users/ann", nil))
	fmt.Println(flow.Shutdown(context.Background()))
	use := service.Messages(socket.TypeUseAllocation)[0].Use()
	fmt.Println(use.Alias, use.Amount)
	// Output:
	// <nil>
	// GET /users/:id ann 3
}
