// Command example-app is a real API that is metered and limited per customer, with the UsageFlow service
// embedded, and a worker process behind it: one command shows everything.
//
//	go run ./example-app
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/service"
)

const (
	// exampleKey is a key of usageflow.yaml.
	exampleKey = "uf_dev_key"
	// drainTimeout bounds each step of the way down.
	drainTimeout = 10 * time.Second
	// defaultBroker is where the broker listens.
	defaultBroker = "127.0.0.1:9090"
)

type options struct {
	listen  string
	service string
	broker  string
	data    string
	config  string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == workerCommand {
		os.Exit(runWorker(os.Args[2:], os.Stdin, os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program; it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	opts, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2 // the flag package has said why
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := serve(ctx, opts, stdout, stderr); err != nil {
		fmt.Fprintln(stderr, "example-app:", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (options, error) {
	var opts options
	flags := flag.NewFlagSet("example-app", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opts.listen, "listen", "127.0.0.1:8080", "`address` of the API")
	flags.StringVar(&opts.service, "service", "127.0.0.1:9000", "`address` of the embedded UsageFlow service; off: use the one at USAGEFLOW_URL. The API's key is USAGEFLOW_API_KEY, or the example's own")
	flags.StringVar(&opts.broker, "broker", defaultBroker, "`address` of the broker, through which a worker process does the jobs of POST /api/jobs")
	folder := "usageflow-example-app in the user's cache folder"
	if cache, err := os.UserCacheDir(); err == nil {
		folder = filepath.Join(cache, "usageflow-example-app")
	}
	flags.StringVar(&opts.data, "data", "", "`folder` of the service's data (default "+folder+")")
	flags.StringVar(&opts.config, "config", "", "`file` with the service's policies (default the example's own usageflow.yaml)")
	flags.Usage = func() {
		fmt.Fprintln(stderr, "example-app runs an API that UsageFlow meters and limits, with the service embedded\nand a worker process that does its jobs (POST /api/jobs).\n\nFlags:")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(stderr, "example-app: unexpected argument %q\n", flags.Arg(0))
		return opts, errors.New("unexpected argument")
	}
	return opts, nil
}

// serve runs the API and the service until ctx ends, then drains both: the API first, then what is to be
// settled and the worker, then the service that they tell.
func serve(ctx context.Context, opts options, stdout, stderr io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	apiListener, err := listen(opts.listen, "-listen")
	if err != nil {
		return err
	}
	defer func() { _ = apiListener.Close() }() // Serve may have closed it before

	folder, err := dataFolder(opts.data)
	if err != nil {
		return err
	}
	cfg := core.Config{APIKey: exampleKey, SpoolDir: filepath.Join(folder, "spool"), Logger: log}
	consoleURL := ""
	var embedded *embeddedService
	if key := os.Getenv("USAGEFLOW_API_KEY"); key != "" {
		cfg.APIKey = key
	}
	if opts.service != "off" {
		if embedded, err = startService(opts, log); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, embedded.stop()) }()
		cfg.URL = "ws://" + reachable(embedded.listener.Addr()) + "/ws"
		consoleURL = "http://" + reachable(embedded.listener.Addr()) + "/"
	}

	side, err := startSidecar(opts.broker, &cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, side.stop()) }()
	worker, err := startWorker(side.address(), folder, stderr, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, worker.stop()) }()

	flow, err := core.New(cfg)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
		defer cancel()
		err = errors.Join(err, flow.Shutdown(ctx))
	}()

	gin.SetMode(gin.ReleaseMode)
	server := &http.Server{Handler: newRouter(flow, side.jobs), ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn)}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(apiListener) }()
	fmt.Fprintln(stdout, tryThis("http://"+reachable(apiListener.Addr()), consoleURL, os.Getenv(service.AdminTokenEnv) != ""))

	select {
	case err := <-failed:
		return fmt.Errorf("the API ended: %w", err)
	case err := <-embedded.failed():
		return fmt.Errorf("the service ended: %w", err)
	case <-ctx.Done():
	}
	fmt.Fprintln(stdout, "Draining.")
	down, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := server.Shutdown(down); err != nil {
		return fmt.Errorf("the API did not drain: %w", errors.Join(err, server.Close()))
	}
	return nil
}

// listen opens a port, and says so plainly where another program has it.
func listen(address, flagName string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	return l, explain(err, address, flagName)
}

// explain says in a line why nothing listens on the address.
func explain(err error, address, flagName string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("port %s is in use (%s); choose another with %s", port(address), address, flagName)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", flagName, address, err)
	}
	return nil
}

// reachable is an address at which this machine reaches a listener: one on all interfaces has none of its own.
func reachable(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return a.String()
}

func port(address string) string {
	return address[strings.LastIndexByte(address, ':')+1:]
}
