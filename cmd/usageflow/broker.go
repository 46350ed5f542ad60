package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// broker is a running broker, with a sidecar where there is a key of the service.
type broker struct {
	options *brokerOptions
	log     *slog.Logger
	access  *brokerAccess
	tls     *brokerTLS // nil without TLS
	server  *socket.Server
	probes  *http.Server // nil without --metrics
	// The sidecar; nil without a key.
	pool     *socket.UsageFlowSocketManager
	provider *socket.Provider

	draining atomic.Bool
}

// runBroker is the command.
func runBroker(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o brokerOptions
	flags := brokerFlags(&o, stderr)
	if err := parse(flags, args, brokerSummary, stdout); err != nil {
		return err
	}
	if err := o.load(flags); err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	log, err := newLog(stderr, o.logFormat, o.logLevel)
	if err != nil {
		return err
	}
	hangups := make(chan os.Signal, 1)
	notifyHangup(hangups) // from the first moment on: one that nobody takes ends the process
	defer signal.Stop(hangups)
	b := &broker{options: &o, log: log}
	if err := b.prepare(); err != nil {
		return err
	}
	return b.run(ctx, hangups, stdout)
}

// prepare makes all that a broker consists of. It opens no port.
func (b *broker) prepare() (err error) {
	o := b.options
	address, err := o.address(b.log)
	if err != nil {
		return err
	}
	if b.access, err = newBrokerAccess(o.tokenFile, o.secrets.token, o.secrets.apiKey != ""); err != nil {
		return err
	}
	limits := socket.Limits{Connections: o.connections, Streams: o.streams, Window: int(o.window), Memory: int64(o.memory)}
	if o.secrets.apiKey != "" {
		limits.Connections++ // the sidecar's own: clients must not be able to take its place
		b.pool, err = socket.NewManager(socket.ManagerConfig{APIKey: o.secrets.apiKey, URL: o.url, PoolSize: o.poolSize, Logger: b.log})
		if err != nil {
			return fmt.Errorf("--url, %s: %w", core.EnvAPIKey, err)
		}
	}
	options := []socket.ServerOption{
		socket.WithAddress(address), socket.WithLogger(b.log), socket.WithLimits(limits), socket.WithAuthorizer(b.access.authorize),
	}
	mesh, err := o.mesh.mesh(b.log)
	if err != nil {
		return err
	}
	if mesh != nil {
		options = append(options, socket.WithMesh(mesh))
	}
	if o.tlsCert != "" {
		if b.tls, err = newBrokerTLS(o.tlsCert, o.tlsKey, o.tlsClientCA); err != nil {
			return err
		}
		options = append(options, socket.WithTLS(b.tls.server()))
	}
	b.server = socket.NewServer("", options...)
	return nil
}

// run serves until ctx ends, then drains: running requests are answered, and what they sent to the service is on its way.
func (b *broker) run(ctx context.Context, hangups <-chan os.Signal, stdout io.Writer) (err error) {
	if err := b.server.Start(); err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s is in use by another program; choose another address with --listen", b.options.listen)
		}
		return fmt.Errorf("--listen: %w", err)
	}
	defer func() { _ = b.server.Stop() }() // where it does not come to draining
	ended := make(chan error, 1)
	probes, err := b.serveProbes(ended)
	if err != nil {
		return err
	}
	defer b.closeProbes()
	if err := b.startSidecar(); err != nil {
		return err
	}
	defer b.closeSidecar()
	b.announce(stdout, probes)

	for {
		select {
		case err := <-ended:
			return fmt.Errorf("the probes ended: %w", err)
		case <-hangups:
			b.reload()
			continue
		case <-ctx.Done():
		}
		break
	}
	b.draining.Store(true)
	b.log.Info("the broker drains")
	down, cancel := context.WithTimeout(context.Background(), b.options.drain)
	defer cancel()
	// The sidecar is closed after that: workers' messages need it until they are answered.
	if err := b.server.Shutdown(down); err != nil {
		return fmt.Errorf("requests were cut off after %v: %w", b.options.drain, err)
	}
	b.log.Info("the broker has ended")
	return nil
}

// startSidecar lets workers reach the service through the broker, if there is a key.
func (b *broker) startSidecar() error {
	if b.pool == nil {
		b.log.Info("there is no key of the service: the broker has no sidecar", "variable", core.EnvAPIKey)
		return nil
	}
	options := []socket.ClientOption{socket.WithToken(b.access.sidecar), socket.WithLogger(slog.New(untilDraining{b.log.Handler(), &b.draining}))}
	if b.tls != nil {
		options = append(options, socket.WithTLS(b.tls.sidecar))
	}
	var err error
	// An address that stands for all of the machine's is this machine's own, when it is dialled.
	if b.provider, err = socket.NewProvider(b.server.Addr().String(), socket.SidecarChannel, options...); err != nil {
		return fmt.Errorf("the sidecar: %w", err)
	}
	return socket.ServeTransport(b.provider, b.pool)
}

// closeSidecar ends the sidecar; what its pool has queued is sent first.
func (b *broker) closeSidecar() {
	if b.pool == nil {
		return
	}
	b.draining.Store(true)
	if err := errors.Join(b.provider.Close(), b.pool.Close()); err != nil {
		b.log.Warn("closing the sidecar failed", "error", err)
	}
}

// untilDraining is a log that falls silent when the broker stops: then its own sidecar's loss of it is no news.
type untilDraining struct {
	slog.Handler
	draining *atomic.Bool
}

func (h untilDraining) Enabled(ctx context.Context, level slog.Level) bool {
	return !h.draining.Load() && h.Handler.Enabled(ctx, level)
}

// serveProbes listens for probes and metrics, where that is wanted, and says where; ended gets the error of a listener that fails.
func (b *broker) serveProbes(ended chan<- error) (net.Addr, error) {
	if b.options.metrics == "" || b.options.metrics == "off" {
		return nil, nil
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", b.options.metrics)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is in use by another program; choose another address with --metrics", b.options.metrics)
	}
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	b.probes = &http.Server{
		Handler: b.handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(b.log.Handler(), slog.LevelWarn),
	}
	go func() {
		if err := b.probes.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			ended <- err
		}
	}()
	return listener.Addr(), nil
}

func (b *broker) closeProbes() {
	if b.probes != nil {
		_ = b.probes.Close() // probes that run ask again elsewhere
	}
}

// reload reads the token and the certificate again. What can't be read stays as it is.
func (b *broker) reload() {
	if b.options.tokenFile != "" {
		if err := b.access.reload(); err != nil {
			b.log.Error("the token was not read again; the last one stays in force", "error", err)
		} else {
			b.log.Info("the token was read again", "file", b.options.tokenFile)
		}
	}
	if b.tls != nil {
		if err := b.tls.reload(); err != nil {
			b.log.Error("the certificate was not read again; the last one stays in use", "error", err)
		} else {
			b.log.Info("the certificate was read again", "file", b.options.tlsCert)
		}
	}
}

// announce says where the broker and its probes are reached, and what clients need.
func (b *broker) announce(stdout io.Writer, probes net.Addr) {
	addr := b.server.Addr()
	fmt.Fprintf(stdout, "The broker is at %s\n", reachableAt(addr))
	if b.pool != nil {
		fmt.Fprintf(stdout, "Workers reach the service through channel %s\n", socket.SidecarChannel)
	} else {
		fmt.Fprintf(stdout, "It has no way to the service, for want of a key in %s\n", core.EnvAPIKey)
	}
	if probes != nil {
		fmt.Fprintf(stdout, "Probes and metrics are at http://%s/healthz, /readyz and /metrics\n", reachableAt(probes))
	}
	b.log.Info("the broker listens", "address", addr.String(), "tls", b.tls != nil, "client_certificates", b.options.tlsClientCA != "",
		"token", b.access.wanted(), "sidecar", b.pool != nil, "mesh", b.options.mesh.url != "")
}

// reachableAt is an address as this machine reaches it.
func reachableAt(addr net.Addr) string {
	if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return fmt.Sprintf("localhost:%d", tcp.Port)
	}
	return addr.String()
}
