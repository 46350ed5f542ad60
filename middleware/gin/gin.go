// Package usageflow meters and limits gin routes:
//
//	r := gin.Default()
//	r.Use(usageflow.Gin(key))
//
// All behaviour is in package core; this is what core needs to know of gin. In a handler,
// core.FromContext(c.Request.Context()) is the request's call.
package usageflow

import (
	"bufio"
	"errors"
	"log/slog"
	"net"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// Gin returns middleware that meters with the given key, over the service at USAGEFLOW_URL. Where the key can't
// be used it logs an error, and requests pass through. To drain settlements when the process ends, make the
// flow with core.New, give it to Middleware, and call its Shutdown.
func Gin(key string) gin.HandlerFunc {
	flow, err := core.New(core.Config{APIKey: key})
	if err != nil {
		slog.Error("usageflow is off; requests pass unmetered", "error", err)
	}
	return Middleware(flow)
}

// Middleware returns middleware over a flow, which may have several. It goes before the routes, on the engine or on a
// group; on both, it meters once. A nil flow lets requests pass.
func Middleware(flow *core.Flow) gin.HandlerFunc {
	if flow == nil {
		return func(*gin.Context) {}
	}
	return func(c *gin.Context) {
		if !flow.Applies(c.Request.Method, c.FullPath()) {
			return // gin goes on by itself
		}
		serve(flow, c)
	}
}

func serve(flow *core.Flow, c *gin.Context) {
	call, denial := flow.Begin(c.Request.Context(), &core.Request{
		Request: c.Request, Route: c.FullPath(), Param: c.Param, ClientIP: c.ClientIP(),
	})
	if denial != nil {
		c.Abort()
		denial.ServeHTTP(c.Writer, c.Request)
		return
	}
	if call == nil {
		return
	}
	c.Request = call.Request(c.Request)
	w := c.Writer
	c.Writer = &responseWriter{w, call}
	call.Run(func() int {
		c.Next()
		return status(w)
	})
}

// status is 0 where the handler has answered nothing, which gin makes a 200 later.
func status(w gin.ResponseWriter) int {
	if w.Status() == http.StatusOK && !w.Written() {
		return 0
	}
	return w.Status()
}

// responseWriter is gin's own, but for what the call has to see.
type responseWriter struct {
	gin.ResponseWriter
	call *core.Call
}

func (w *responseWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.wrote(err)
	w.call.Wrote(w.Header(), p[:written(n, len(p))])
	return n, err
}

func (w *responseWriter) WriteString(s string) (int, error) {
	n, err := w.ResponseWriter.WriteString(s)
	w.wrote(err)
	w.call.WroteString(w.Header(), s[:written(n, len(s))])
	return n, err
}

// wrote notes that http.TimeoutHandler has answered in the handler's place, whatever gin takes the status for.
func (w *responseWriter) wrote(err error) {
	if errors.Is(err, http.ErrHandlerTimeout) {
		w.call.Answered(http.StatusServiceUnavailable)
	}
}

// written is how much of a write counts: a writer that buffers may say that it has written more than it was given.
func written(n, given int) int { return min(max(n, 0), given) }

func (w *responseWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.call.Hijack(w.ResponseWriter)
}

// Unwrap is for http.ResponseController.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
