package usageflow_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
	"github.com/usageflow/usageflow-go-middleware/middleware/middlewaretest"
)

func TestSuite(t *testing.T) {
	middlewaretest.Run(t, middlewaretest.Adapter{New: newRouter})
}

func newRouter(s middlewaretest.Setup) http.Handler {
	r := gin.New()
	r.HandleMethodNotAllowed = true
	r.UseRawPath = true // as the other routers do
	if s.RecoverBefore {
		r.Use(gin.Recovery())
	}
	for _, m := range s.Before {
		r.Use(wrap(m))
	}
	r.Use(flows(s.Flows)...)
	for _, m := range s.Behind {
		r.Use(wrap(m))
	}
	if s.RecoverBehind {
		r.Use(gin.Recovery())
	}
	add(&r.RouterGroup, s.Root())
	return r
}

func add(g *gin.RouterGroup, of middlewaretest.Group) {
	for _, r := range of.Routes {
		handlers := append(flows(r.Flows), func(c *gin.Context) { r.Handler(c.Writer, c.Request) })
		g.Handle(r.Method, strings.Replace(r.Pattern, "/*", "/*rest", 1), handlers...)
	}
	for _, inner := range of.Groups {
		add(g.Group(inner.Prefix, flows(inner.Flows)...), inner)
	}
}

func flows(list []*core.Flow) (all []gin.HandlerFunc) {
	for _, f := range list {
		all = append(all, usageflow.Middleware(f))
	}
	return all
}

// wrap is gin's form of a middleware for net/http.
func wrap(m middlewaretest.Middleware) gin.HandlerFunc {
	return func(c *gin.Context) {
		own, reached := c.Writer, false
		m(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			reached = true
			c.Request = r
			if w != http.ResponseWriter(own) {
				c.Writer = &wrapped{own, w}
			}
			c.Next()
			c.Writer = own
		})).ServeHTTP(own, c.Request)
		if !reached {
			c.Abort()
		}
	}
}

// wrapped is gin's writer over one that a middleware has put before it.
type wrapped struct {
	gin.ResponseWriter
	over http.ResponseWriter
}

func (w *wrapped) Header() http.Header               { return w.over.Header() }
func (w *wrapped) WriteHeader(status int)            { w.over.WriteHeader(status) }
func (w *wrapped) Write(p []byte) (int, error)       { return w.over.Write(p) }
func (w *wrapped) WriteString(s string) (int, error) { return io.WriteString(w.over, s) }
func (w *wrapped) Flush()                            { _ = http.NewResponseController(w.over).Flush() }
func (w *wrapped) FlushError() error                 { return http.NewResponseController(w.over).Flush() }
func (w *wrapped) Unwrap() http.ResponseWriter       { return w.over }
