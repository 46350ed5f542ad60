package middlewaretest_test

import (
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/middleware/middlewaretest"
)

// Middleware meters the routes of an http.ServeMux, one by one, as the mux knows a request's route only when it has found it:
//
//	mux.Handle("GET /users/{id}", meter(handler))
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

// newMux builds what the suite asks for. The middleware of groups is wrapped around each of their routes.
func newMux(s middlewaretest.Setup) http.Handler {
	mux := http.NewServeMux()
	var add func(prefix string, before []middlewaretest.Middleware, g middlewaretest.Group)
	add = func(prefix string, before []middlewaretest.Middleware, g middlewaretest.Group) {
		prefix += g.Prefix
		before = with(before, g.Flows)
		for _, r := range g.Routes {
			mux.Handle(r.Method+" "+pattern(prefix+r.Pattern), chain(with(before, r.Flows), r.Handler))
		}
		for _, inner := range g.Groups {
			add(prefix, before, inner)
		}
	}
	add("", append(with(s.Before, s.Flows), s.Behind...), s.Root())
	return mux
}

// with adds a flow's middleware for each of the flows.
func with(before []middlewaretest.Middleware, flows []*core.Flow) []middlewaretest.Middleware {
	before = before[:len(before):len(before)]
	for _, f := range flows {
		before = append(before, Middleware(f))
	}
	return before
}

func chain(middleware []middlewaretest.Middleware, handler http.Handler) http.Handler {
	for i := len(middleware) - 1; i >= 0; i-- {
		handler = middleware[i](handler)
	}
	return handler
}

// pattern is the mux's form of /users/:id and /files/*.
func pattern(p string) string {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, ":"); ok {
			parts[i] = "{" + name + "}"
		} else if part == "*" {
			parts[i] = "{rest...}"
		}
	}
	return strings.Join(parts, "/")
}

// A fourth adapter, for net/http's own ServeMux, and the test that it passes.
func Example() {
	test := func(t *testing.T) {
		middlewaretest.Run(t, middlewaretest.Adapter{New: newMux, NoRecovery: true, HeadIsGet: true})
	}
	_ = test // go test runs it under the name TestServeMux
}

func TestServeMux(t *testing.T) {
	middlewaretest.Run(t, middlewaretest.Adapter{New: newMux, NoRecovery: true, HeadIsGet: true})
}
