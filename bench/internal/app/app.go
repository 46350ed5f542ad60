// Package app is the API whose requests the benchmarks measure: one small Gin application, in the
// variants that are compared.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
	"go.opentelemetry.io/contrib/instrumentation/github.com/gin-gonic/gin/otelgin"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/fake"
	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
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
	Engine *gin.Engine
	Flow   *core.Flow // nil where the variant has none
	close  func(context.Context) error
}

// Options say where the variant's service is: at URL, or behind Transport.
type Options struct {
	URL       string
	Transport socket.Transport
}

// New builds a variant. It returns when the variant has all that it needs from its service.
func New(v Variant, opts Options) (*App, error) {
	gin.SetMode(gin.ReleaseMode)
	a := &App{Engine: gin.New(), close: func(context.Context) error { return nil }}
	switch {
	case v == OTel:
		provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(discard{}))
		a.Engine.Use(otelgin.Middleware("bench", otelgin.WithTracerProvider(provider)))
		a.close = provider.Shutdown
	case v.UsesService():
		flow, err := core.New(core.Config{
			APIKey: "bench", URL: opts.URL, Transport: opts.Transport,
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		})
		if err != nil {
			return nil, err
		}
		a.Engine.Use(usageflow.Middleware(flow))
		a.Flow, a.close = flow, flow.Shutdown
	case v != Bare:
		return nil, fmt.Errorf("no variant %q", v)
	}
	a.Engine.GET(ReadyPath, getUser)
	a.Engine.GET("/api/users/:id", getUser)
	a.Engine.POST("/api/orders", postOrder)
	return a, nil
}

// Close sends what is left to send.
func (a *App) Close(ctx context.Context) error { return a.close(ctx) }

type user struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func getUser(c *gin.Context) {
	c.JSON(http.StatusOK, user{ID: c.Param("id"), Name: "Ada"})
}

func postOrder(c *gin.Context) {
	if _, err := io.Copy(io.Discard, c.Request.Body); err != nil {
		_ = c.AbortWithError(http.StatusBadRequest, errors.New("body"))
		return
	}
	c.JSON(http.StatusOK, user{ID: "1", Name: "order"})
}

// discard is a span exporter to nowhere.
type discard struct{}

func (discard) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (discard) Shutdown(context.Context) error                             { return nil }
