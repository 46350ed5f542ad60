// Package app is the API whose requests the benchmarks measure: one small application, in the variants that are
// compared, over Gin or another router.
package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/fake"
	"github.com/usageflow/usageflow-go-middleware/core"
	usagechi "github.com/usageflow/usageflow-go-middleware/middleware/chi"
	usageecho "github.com/usageflow/usageflow-go-middleware/middleware/echo"
	usagegin "github.com/usageflow/usageflow-go-middleware/middleware/gin"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// A Variant is one way to run the API.
type Variant string

// The variants. All serve the same routes with the same handlers.
const (
	Bare        Variant = "bare"        // no middleware
	Whitelisted Variant = "whitelisted" // our middleware, routes on the whitelist
	Unmonitored Variant = "unmonitored" // our middleware, routes not among the monitored ones
	Metered     Variant = "metered"     // reserved and settled off the request's path
	Limited     Variant = "limited"     // the handler waits for the reservation
	OTel        Variant = "otelgin"     // a peer: one span a request, batched, exported to nowhere
)

// A Router is what the API is built with.
type Router string

// The routers. The zero value is Gin.
const (
	Gin  Router = "gin"
	Chi  Router = "chi"
	Echo Router = "echo"
)

// Routers are all of them.
var Routers = []Router{Gin, Chi, Echo}

// UsesService reports whether the variant talks to a UsageFlow service.
func (v Variant) UsesService() bool { return v != Bare && v != OTel }

// Charges reports whether each request becomes one reservation and one settlement.
func (v Variant) Charges() bool { return v == Metered || v == Limited }

// ReadyPath is a route that is metered in every variant that uses a service: a request for it shows that
// the configuration is in force.
const ReadyPath = "/api/ready"

// Service is how a fake service must be configured for the variant.
func (v Variant) Service() fake.Config {
	limited := v == Limited
	cfg := fake.Config{Policies: fmt.Appendf(nil, `{"policies":[`+
		`{"url":"/api/users/:id","method":"GET","type":"API","identityFieldName":"X-User","identityFieldLocation":"headers","hasRateLimit":%t},`+
		`{"url":"/api/orders","method":"POST","type":"API","identityFieldName":"X-User","identityFieldLocation":"headers","hasRateLimit":%t}`+
		`],"total":2,"accountReachLimit":false}`, limited, limited)}
	const config = `{"monitoringPaths":[{"method":%q,"url":%q}],"whitelistEndpoints":[%s],"accountReachLimit":false,"discoveryDisabled":false}`
	switch v {
	case Whitelisted:
		cfg.Config = fmt.Appendf(nil, config, "*", "*",
			`{"method":"GET","url":"/api/users/:id"},{"method":"POST","url":"/api/orders"}`)
	case Unmonitored:
		cfg.Config = fmt.Appendf(nil, config, "GET", ReadyPath, "")
	default:
		cfg.Config = fmt.Appendf(nil, config, "*", "*", "")
	}
	return cfg
}

// An App is a variant, ready to serve.
type App struct {
	Handler http.Handler
	Flow    *core.Flow // nil where the variant has none
	close   func(context.Context) error
}

// Options say what the variant is built with, and where its service is: at URL, or behind Transport.
type Options struct {
	Router    Router
	URL       string
	Transport socket.Transport
}

// New builds a variant. It returns when the variant has all that it needs from its service.
func New(v Variant, opts Options) (*App, error) {
	a := &App{close: func(context.Context) error { return nil }}
	var span gin.HandlerFunc
	switch {
	case v == OTel:
		provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(discard{}))
		span = otelgin.Middleware("bench", otelgin.WithTracerProvider(provider))
		a.close = provider.Shutdown
	case v.UsesService():
		flow, err := core.New(core.Config{
			APIKey: "bench", URL: opts.URL, Transport: opts.Transport,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			return nil, err
		}
		a.Flow, a.close = flow, flow.Shutdown
	case v != Bare:
		return nil, fmt.Errorf("no variant %q", v)
	}
	if span != nil && opts.Router != Gin && opts.Router != "" {
		return nil, fmt.Errorf("%s is for gin only", v)
	}
	switch opts.Router {
	case Gin, "":
		a.Handler = newGin(a.Flow, span)
	case Chi:
		a.Handler = newChi(a.Flow)
	case Echo:
		a.Handler = newEcho(a.Flow)
	default:
		return nil, fmt.Errorf("no router %q", opts.Router)
	}
	return a, nil
}

// Close sends what is left to send.
func (a *App) Close(ctx context.Context) error { return a.close(ctx) }

type user struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func newGin(flow *core.Flow, middleware gin.HandlerFunc) http.Handler {
	gin.SetMode(gin.ReleaseMode)
	r := gin.New()
	if middleware != nil {
		r.Use(middleware)
	}
	if flow != nil {
		r.Use(usagegin.Middleware(flow))
	}
	getUser := func(c *gin.Context) { c.JSON(http.StatusOK, user{ID: c.Param("id"), Name: "Ada"}) }
	r.GET(ReadyPath, getUser)
	r.GET("/api/users/:id", getUser)
	r.POST("/api/orders", func(c *gin.Context) {
		if _, err := io.Copy(io.Discard, c.Request.Body); err != nil {
			_ = c.AbortWithError(http.StatusBadRequest, errors.New("body"))
			return
		}
		c.JSON(http.StatusOK, user{ID: "1", Name: "order"})
	})
	return r
}

func newChi(flow *core.Flow) http.Handler {
	r := chi.NewRouter()
	if flow != nil {
		r.Use(usagechi.Middleware(flow))
	}
	answer := func(w http.ResponseWriter, u user) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_ = json.NewEncoder(w).Encode(u)
	}
	getUser := func(w http.ResponseWriter, r *http.Request) { answer(w, user{ID: chi.URLParam(r, "id"), Name: "Ada"}) }
	r.Get(ReadyPath, getUser)
	r.Get("/api/users/{id}", getUser)
	r.Post("/api/orders", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			http.Error(w, "body", http.StatusBadRequest)
			return
		}
		answer(w, user{ID: "1", Name: "order"})
	})
	return r
}

func newEcho(flow *core.Flow) http.Handler {
	e := echo.New()
	if flow != nil {
		e.Use(usageecho.Middleware(flow))
	}
	getUser := func(c echo.Context) error { return c.JSON(http.StatusOK, user{ID: c.Param("id"), Name: "Ada"}) }
	e.GET(ReadyPath, getUser)
	e.GET("/api/users/:id", getUser)
	e.POST("/api/orders", func(c echo.Context) error {
		if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
			return echo.NewHTTPError(http.StatusBadRequest, "body")
		}
		return c.JSON(http.StatusOK, user{ID: "1", Name: "order"})
	})
	return e
}

// discard is a span exporter to nowhere.
type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }
