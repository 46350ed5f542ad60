package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// serveOptions are the settings of usageflow serve.
type serveOptions struct {
	listen, data, config string
	// mayBeMissing says that the configuration file was not asked for by name.
	mayBeMissing    bool
	tlsCert, tlsKey string
	store           string
	hold, drain     time.Duration
	retention       time.Duration
	connections     int
	exports         exportOptions
	logFormat       string
	logLevel        slog.Level
}

const serveSummary = `serve runs the UsageFlow service until it gets SIGTERM or SIGINT. SIGHUP makes it read the configuration and the certificate again.

Each flag may stand in the environment (--tls-cert as USAGEFLOW_TLS_CERT) or in the configuration's server section (server: {tls-cert: ...});
the flag goes before the environment, and that before the configuration. ` + service.AdminTokenEnv + ` in the environment is the bearer token of
the HTTP API, the page and /metrics; without it the service listens on loopback addresses only.

The ledger and the configuration are in the data folder, which one process at a time has, or with --store in a PostgreSQL database, which
several replicas share: they decide together. There, the HTTP API, the console and usageflow apply change the configuration. An application
of the file is brought there when the file says something else of it than at the last start or SIGHUP; without a file, the service serves
what is there.`

func serveFlags(o *serveOptions, stderr io.Writer) *flag.FlagSet {
	flags := newFlags("serve", stderr)
	flags.StringVar(&o.listen, "listen", "localhost:9000", "`host:port` to listen on; port 0 picks one; the default is for this machine only")
	flags.StringVar(&o.data, "data", defaultData, "`folder` of the ledger, created if absent")
	flags.StringVar(&o.store, "store", "", "postgres:// `URL` of a database that several replicas share, in place of the data folder")
	flags.StringVar(&o.config, "config", defaultConfig, "`file` with applications, keys and policies")
	flags.StringVar(&o.tlsCert, "tls-cert", "", "PEM `file` with the certificate to serve TLS with, and its chain; needs --tls-key")
	flags.StringVar(&o.tlsKey, "tls-key", "", "PEM `file` with the certificate's private key")
	flags.DurationVar(&o.hold, "hold", 5*time.Minute, "`time` after which a reservation expires that nobody settles")
	flags.DurationVar(&o.retention, "retention", sqlite.DefaultRetention, "`time` for which each request is kept, and its id known; sums are kept for ever; 0 keeps all")
	flags.DurationVar(&o.drain, "drain", 30*time.Second, "longest `time` for connections to end after SIGTERM")
	flags.IntVar(&o.connections, "max-connections", 10_000, "`number` of agents' connections at the same time")
	o.exports.flags(flags)
	flags.StringVar(&o.logFormat, "log-format", "json", "`form` of the log on standard error: json or text")
	flags.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least `level` that is logged: DEBUG, INFO, WARN or ERROR")
	return flags
}

// serve is the command.
func serve(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o serveOptions
	flags := serveFlags(&o, stderr)
	if err := parse(flags, args, serveSummary, stdout); err != nil {
		return err
	}
	if err := fromEnvironment(flags); err != nil {
		return err
	}
	o.mayBeMissing = !isSet(flags, "config")
	config, err := o.load(flags)
	if err != nil {
		return err
	}
	log, err := o.check(stderr)
	if err != nil {
		return err
	}
	return o.serve(ctx, config, log, stdout)
}

// load reads the configuration file, and the settings in it that flags do not have yet. It returns nil where there is none and none is
// asked for.
func (o *serveOptions) load(flags *flag.FlagSet) (*service.Config, error) {
	config, err := loadConfig(o.config)
	if errors.Is(err, errNoConfig) && o.mayBeMissing {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return config, fromConfig(flags, o.config, config)
}

// check makes the log, or says what is wrong with the settings.
func (o *serveOptions) check(stderr io.Writer) (*slog.Logger, error) {
	switch {
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return nil, errors.New("--tls-cert and --tls-key go together")
	case o.hold <= 0:
		return nil, errors.New("--hold must be more than nothing")
	case o.retention < 0 || o.retention > 0 && o.retention < 24*time.Hour:
		return nil, errors.New("--retention must be at least 24h, or 0")
	case o.store != "" && !isPostgres(o.store):
		return nil, errors.New("--store is a URL that begins with postgres://")
	case o.drain <= 0:
		return nil, errors.New("--drain must be more than nothing")
	case o.connections < 1:
		return nil, errors.New("--max-connections must be at least 1")
	}
	if err := o.exports.check(); err != nil {
		return nil, err
	}
	return newLog(stderr, o.logFormat, o.logLevel)
}

// serve runs the service until ctx ends, then drains it and closes the ledger: whatever was acknowledged is on disk then.
func (o *serveOptions) serve(ctx context.Context, config *service.Config, log *slog.Logger, stdout io.Writer) (err error) {
	hangups := make(chan os.Signal, 1)
	notifyHangup(hangups) // from the first moment on: one that nobody takes ends the process
	defer signal.Stop(hangups)
	var certificate *certificate
	if o.tlsCert != "" {
		if certificate, err = loadCertificate(o.tlsCert, o.tlsKey); err != nil {
			return err
		}
	}
	ledger, err := o.openStore(ctx, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ledger.Close()) }()
	go tuneCollector(ctx) // from here on: the start is the quicker for collecting less often
	stopExports, err := o.exports.start(ctx, ledger, log)
	if err != nil {
		return err
	}
	defer stopExports()
	s, err := service.New(service.Options{
		Config: config, Documents: ledger, Ledger: ledger, AdminToken: os.Getenv(service.AdminTokenEnv), Logger: log, MaxConnections: o.connections,
	})
	if err != nil {
		return err
	}
	listener, err := s.Listen(o.listen)
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use by another program; choose another address with --listen", o.listen)
	}
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	announce(stdout, listener.Addr(), certificate != nil)
	if certificate != nil {
		listener = tls.NewListener(listener, certificate.config())
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(listener) }()
	log.Info("the service listens", "address", listener.Addr().String(), "tls", certificate != nil, "applications", len(s.Config().Applications), "store", o.place())

	if tcp, ok := listener.Addr().(*net.TCPAddr); ok && certificate == nil && !tcp.IP.IsLoopback() {
		log.Warn("the service listens without TLS where others reach it: keys, the token and usage go over the network as they are, unless a proxy before it does TLS")
	}
	o.advise(s, log)

	for {
		select {
		case err := <-ended:
			return fmt.Errorf("the service ended: %w", err)
		case <-hangups:
			o.reload(s, certificate, log)
			continue
		case <-ctx.Done():
		}
		break
	}
	log.Info("the service drains")
	down, cancel := context.WithTimeout(context.Background(), o.drain)
	defer cancel()
	if err := s.Shutdown(down); err != nil {
		return fmt.Errorf("not all connections had ended after %v: %w", o.drain, err)
	}
	return nil
}

// reload reads the configuration and the certificate again. What can't be read stays as it is.
func (o *serveOptions) reload(s *service.Service, certificate *certificate, log *slog.Logger) {
	config, err := o.load(serveFlags(&serveOptions{}, io.Discard))
	if err == nil && config != nil {
		err = s.Reconfigure(config)
	}
	switch {
	case err != nil:
		log.Error("the configuration was not read again; the last one stays in force", "error", err)
	case config == nil:
		log.Info("there is no configuration file; what is stored stays in force", "file", o.config)
	default:
		log.Info("the configuration was read again", "applications", len(s.Config().Applications))
		o.advise(s, log)
	}
	if certificate == nil {
		return
	}
	if err := certificate.reload(); err != nil {
		log.Error("the certificate was not read again; the last one stays in use", "error", err)
	}
}

// advise says what is probably not meant in the configuration, or how to get one.
func (o *serveOptions) advise(s *service.Service, log *slog.Logger) {
	if len(s.Config().Applications) == 0 {
		log.Warn("no application is configured, so that every agent is refused: make one on the page, or with usageflow init and usageflow apply -f " + defaultConfig)
	}
	for _, warning := range s.Config().Warnings() {
		log.Warn("the configuration may not be what was meant", "warning", warning)
	}
}

// announce says where the service is reached.
func announce(stdout io.Writer, addr net.Addr, secure bool) {
	scheme := ""
	if secure {
		scheme = "s"
	}
	at := reachableAt(addr)
	fmt.Fprintf(stdout, "The page is at http%s://%s/\nAgents connect with USAGEFLOW_URL=ws%s://%s/ws\n", scheme, at, scheme, at)
}
