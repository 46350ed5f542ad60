// Package usageflow meters and limits chi routes:
//
//	r := chi.NewRouter()
//	r.Use(usageflow.Chi(key))
//
// All behaviour is in package core; this is what core needs to know of chi. In a handler, core.FromContext(r.Context())
// is the request's call.
package usageflow

import (
	"log/slog"
	"net"
	"net/http"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/chiroute"
)

// Chi returns middleware that meters with the given key, over the service at USAGEFLOW_URL. Where the key can't be used it
// logs an error, and requests pass through. To drain settlements when the process ends, make the flow with core.New,
// give it to Middleware, and call its Shutdown.
func Chi(key string) func(http.Handler) http.Handler {
	flow, err := core.New(core.Config{APIKey: key})
	if err != nil {
		slog.Error("usageflow is off; requests pass unmetered", "error", err)
	}
	return Middleware(flow)
}

// Middleware returns middleware over a flow, which may have several. It goes on a router (Use), a group or a route
// (With), or several of them, where it meters once; and behind middleware that chooses another route, such as
// middleware.StripSlashes or middleware.GetHead. A nil flow lets requests pass.
//
// chi routes behind its middleware, so this one looks the route up first; routes are to be added before the first request. It can't
// look into a router that stands behind a handler which is none, as in Mount("/api", auth(router)): there it goes into that
// router's groups or before its routes (With). What it did not foresee is counted in Stats.Missed, and logged.
func Middleware(flow *core.Flow) func(http.Handler) http.Handler {
	if flow == nil {
		return func(next http.Handler) http.Handler { return next }
	}
	finder := &chiroute.Finder{}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			route := finder.Find(r)
			defer finder.Release(route)
			if flow.Applies(r.Method, route.Pattern) {
				flow.Serve(w, &core.Request{Request: r, Route: route.Pattern, Param: route.Param, ParamsEscaped: true, ClientIP: clientIP(r)}, next)
			} else {
				next.ServeHTTP(w, r)
			}
			if ran := finder.Ran(route); ran != route.Pattern {
				flow.ReportMissed(r.Method, ran)
			}
		})
	}
}

// clientIP is the address of the connection, or that which middleware has put in its place, without a port for one.
func clientIP(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}
