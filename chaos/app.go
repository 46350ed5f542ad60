//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	usageflow "github.com/usageflow/usageflow-go-middleware/middleware/gin"
)

// runAsApp is set in the environment of the process that is the app.
const runAsApp = "USAGEFLOW_CHAOS_APP"

// report is what the app says of itself.
type report struct {
	Stats       core.Stats
	Goroutines  int
	Descriptors int
	HeapBytes   uint64
}

// runApp is the app: routes with and without the middleware, and a report.
func runApp(args []string) error {
	flags := flag.NewFlagSet("app", flag.ContinueOnError)
	listen := flags.String("listen", "", "")
	url := flags.String("url", "", "")
	spool := flags.String("spool", "", "")
	lease := flags.Bool("lease", false, "")
	timeout := flags.Duration("timeout", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGXFSZ) // the limit on files is one of the faults
	flow, err := core.New(core.Config{
		APIKey: apiKey, URL: *url, Timeout: *timeout, SpoolDir: *spool, Lease: *lease, MaxPendingBytes: 2 << 20,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	answer := func(c *gin.Context) { c.String(http.StatusOK, "ok") }
	router.GET("/bare", answer)
	router.GET("/ready", func(c *gin.Context) {
		ctx, cancel := context.WithTimeout(c.Request.Context(), time.Second)
		defer cancel()
		if err := flow.Ready(ctx); err != nil {
			c.String(http.StatusServiceUnavailable, err.Error())
			return
		}
		answer(c)
	})
	router.GET("/report", func(c *gin.Context) { c.JSON(http.StatusOK, takeReport(flow, c.Query("gc") != "")) })
	metered := router.Group("/", usageflow.Middleware(flow))
	for _, route := range []string{routeMetered, routeLimited, routeTight} {
		metered.GET(route, answer)
	}
	server := &http.Server{Addr: *listen, Handler: router, ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	err = errors.Join(server.Shutdown(last), flow.Shutdown(last))
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(flow.Stats())
}

func takeReport(flow *core.Flow, collect bool) report {
	if collect {
		runtime.GC()
		debug.FreeOSMemory()
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	r := report{Stats: flow.Stats(), Goroutines: runtime.NumGoroutine(), HeapBytes: memory.HeapAlloc}
	if list, err := os.ReadDir("/proc/self/fd"); err == nil {
		r.Descriptors = len(list)
	}
	return r
}

// appMain runs the app in this process, if that is what it is for.
func appMain() {
	if os.Getenv(runAsApp) == "" {
		return
	}
	if err := runApp(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
	os.Exit(0)
}
