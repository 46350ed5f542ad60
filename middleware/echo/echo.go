// Package usageflow meters and limits echo routes:
//
//	e := echo.New()
//	e.Use(usageflow.Echo(key))
//
// All behaviour is in package core; this is what core needs to know of echo. In a handler,
// core.FromContext(c.Request().Context()) is the request's call.
package usageflow

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"github.com/labstack/echo/v4"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// Echo returns middleware that meters with the given key, over the service at USAGEFLOW_URL. Where the key can't be used it
// logs an error, and requests pass through. To drain settlements when the process ends, make the flow with core.New,
// give it to Middleware, and call its Shutdown.
func Echo(key string) echo.MiddlewareFunc {
	flow, err := core.New(core.Config{APIKey: key})
	if err != nil {
		slog.Error("usageflow is off; requests pass unmetered", "error", err)
	}
	return Middleware(flow)
}

// Middleware returns middleware over a flow, which may have several. It goes on the Echo (Use, not Pre, which runs before
// echo has chosen a route), a group or a route, or several of them, where it meters once. Routes are to be added before the first
// request. A nil flow lets requests pass.
func Middleware(flow *core.Flow) echo.MiddlewareFunc {
	if flow == nil {
		return func(next echo.HandlerFunc) echo.HandlerFunc { return next }
	}
	known := &tables{}
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			route, method := known.matched(c), c.Request().Method
			if flow.Applies(method, route) {
				return serve(flow, c, route, next)
			}
			err := next(c)
			if route == "" {
				flow.ReportMissed(method, known.matched(c))
			}
			return err
		}
	}
}

type tables struct{ sync.Map } // *echo.Router -> map[string][]string, the methods of its routes by pattern

// matched is the pattern of the route that echo has found, "" where it has found none: echo has a pattern for a wrong method too, and
// for what a group or RouteNotFound catches.
func (t *tables) matched(c echo.Context) string {
	router := c.Echo().Router()
	if host, ok := c.Echo().Routers()[c.Request().Host]; ok {
		router = host
	}
	table, ok := t.Load(router)
	if !ok {
		patterns := make(map[string][]string)
		for _, r := range router.Routes() {
			patterns[r.Path] = append(patterns[r.Path], r.Method)
		}
		table, _ = t.LoadOrStore(router, patterns)
	}
	methods := table.(map[string][]string)[c.Path()]
	if method := c.Request().Method; method != echo.RouteNotFound && slices.Contains(methods, method) {
		return c.Path()
	}
	if slices.Contains(methods, echo.RouteNotFound) || c.Get(echo.ContextKeyHeaderAllow) != nil {
		return ""
	}
	return c.Path()
}

func serve(flow *core.Flow, c echo.Context, route string, next echo.HandlerFunc) error {
	r, w := c.Request(), c.Response()
	call, denial := flow.Begin(r.Context(), &core.Request{Request: r, Route: route, Param: c.Param, ParamsEscaped: true, ClientIP: c.RealIP()})
	if denial != nil {
		denial.ServeHTTP(w, r)
		return nil
	}
	if call == nil {
		return next(c)
	}
	tap := call.Writer(w.Writer)
	w.Writer = tap
	c.SetRequest(call.Request(r))
	var err error
	call.Run(func() int {
		if err = next(c); err == nil || tap.Status() != 0 || errors.Is(err, context.Canceled) {
			return tap.Status() // 0 where nobody is there to be answered
		}
		// Echo's error handler answers when all middleware has returned, and the server ends the context then.
		release := call.Hold()
		w.Before(func() { call.Answered(w.Status) }) // also where the writer is not the tap any more
		switch ctx := r.Context(); {
		case ctx.Value(http.ServerContextKey) == nil:
			release() // nobody would say when the answer is over
		case ctx.Err() == nil:
			context.AfterFunc(ctx, release)
		default: // a deadline of the middleware outside has passed
			w.Before(release)
		}
		if he, ok := err.(*echo.HTTPError); ok { //nolint:errorlint // echo's own does not unwrap
			return he.Code
		}
		return http.StatusInternalServerError // unless the error handler says otherwise
	})
	return err
}
