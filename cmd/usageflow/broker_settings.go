package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// brokerTokenEnv is the environment variable of the token that clients of the broker show.
const brokerTokenEnv = "USAGEFLOW_BROKER_TOKEN"

// maxBrokerToken is the size in bytes of the longest token that a client can show.
const maxBrokerToken = 4 << 10

// brokerOptions are the settings of usageflow broker.
type brokerOptions struct {
	listen, metrics string
	url             string
	poolSize        int
	tokenFile       string
	tlsCert, tlsKey string
	tlsClientCA     string
	connections     int
	streams         int
	memory, window  size
	mesh            meshOptions
	drain           time.Duration
	config          string
	logFormat       string
	logLevel        slog.Level

	secrets struct{ apiKey, token string } // they have no flags, which others could read in the list of processes
}

const brokerSummary = `broker passes requests from consumers to providers of the same channel, until it gets SIGTERM or SIGINT.

With --mesh, requests that find no provider here go to brokers on other hosts that have one, over NATS.

With an API key in ` + core.EnvAPIKey + ` it is a sidecar too: workers on this host reach the UsageFlow service through it, over one pool of
WebSockets that they share. Without a key it is a broker only.

Each flag may stand in the environment (--pool-size as USAGEFLOW_BROKER_POOL_SIZE, but --url as ` + socket.EnvURL + `) or in the configuration's
broker section (broker: {pool-size: 10}); the flag goes before the environment, and that before the configuration. Two settings are no flags,
so that the list of processes does not show them: the API key (` + core.EnvAPIKey + `, or api-key in the section), and the token that clients
must show (` + brokerTokenEnv + `, or token in the section, or the file of --token-file).

Where others than this machine reach it, the broker starts only with a token or with --tls-client-ca. SIGHUP makes it read the token's file,
the certificate and the authorities of clients again, for new connections. SIGTERM lets the running requests end first, and is reported
by /readyz at once.`

func brokerFlags(o *brokerOptions, stderr io.Writer) *flag.FlagSet {
	flags := newFlags("broker", stderr)
	o.memory, o.window = 512<<20, 1<<20
	flags.StringVar(&o.listen, "listen", "127.0.0.1:9090", "`host:port` to listen on; port 0 picks one; the default is for this machine only")
	flags.StringVar(&o.metrics, "metrics", "127.0.0.1:9091", "`host:port` of /healthz, /readyz and /metrics; off, or empty, for none")
	flags.StringVar(&o.url, "url", "ws://localhost:9000/ws", "`URL` of the UsageFlow service; needs a key in "+core.EnvAPIKey)
	flags.IntVar(&o.poolSize, "pool-size", 10, "`number` of WebSockets to the service")
	flags.StringVar(&o.tokenFile, "token-file", "", "`file` with the token that clients must show, in one line")
	flags.StringVar(&o.tlsCert, "tls-cert", "", "PEM `file` with the certificate to serve TLS with, and its chain; needs --tls-key")
	flags.StringVar(&o.tlsKey, "tls-key", "", "PEM `file` with the certificate's private key")
	flags.StringVar(&o.tlsClientCA, "tls-client-ca", "", "PEM `file` with the authorities of clients' certificates: clients without one are refused")
	flags.IntVar(&o.connections, "max-connections", 4096, "`number` of clients at the same time")
	flags.IntVar(&o.streams, "max-streams", 8192, "`number` of requests at the same time on one connection; the sidecar's own is one connection for all workers")
	flags.Var(&o.memory, "max-memory", "`bytes` of all requests that may be on their way, such as 512M; past it, new requests are refused")
	flags.Var(&o.window, "window", "`bytes` of one request that may be on their way in each direction, such as 1M")
	o.mesh.flags(flags)
	flags.DurationVar(&o.drain, "drain", 30*time.Second, "longest `time` for running requests to end after SIGTERM")
	flags.StringVar(&o.config, "config", defaultConfig, "`file` with a broker section")
	flags.StringVar(&o.logFormat, "log-format", "json", "`form` of the log on standard error: json or text")
	flags.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "least `level` that is logged: DEBUG, INFO, WARN or ERROR")
	return flags
}

// secretFlags are the settings that no command line has.
func (o *brokerOptions) secretFlags() *flag.FlagSet {
	flags := newFlags("broker", io.Discard)
	flags.StringVar(&o.secrets.apiKey, "api-key", o.secrets.apiKey, "")
	flags.StringVar(&o.secrets.token, "token", o.secrets.token, "")
	return flags
}

// brokerEnvOf is the environment variable of a setting. Those of the service are the same for every program.
func brokerEnvOf(name string) string {
	switch name {
	case "url":
		return socket.EnvURL
	case "api-key":
		return core.EnvAPIKey
	}
	return envOf("broker-" + name)
}

// load completes the settings of a command line from the environment and the configuration.
func (o *brokerOptions) load(flags *flag.FlagSet) error {
	secrets := o.secretFlags()
	environment := func(name string) (value, source string) { return os.Getenv(brokerEnvOf(name)), brokerEnvOf(name) }
	if err := errors.Join(setRest(flags, environment), setRest(secrets, environment)); err != nil {
		return err
	}
	config, err := loadConfig(o.config)
	switch {
	case errors.Is(err, errNoConfig) && !isSet(flags, "config"):
	case err != nil:
		return err
	default:
		if err := fromSection(o.config, "broker", config.Broker, flags, secrets); err != nil {
			return err
		}
	}
	if o.secrets.apiKey == "" && isSet(flags, "url") {
		return fmt.Errorf("there is a URL of the service (--url, %s) and no key: set %s, or leave out the URL for a broker without the service", socket.EnvURL, core.EnvAPIKey)
	}
	return nil
}

// check says what is wrong with the settings.
func (o *brokerOptions) check() error {
	switch {
	case (o.tlsCert == "") != (o.tlsKey == ""):
		return errors.New("--tls-cert and --tls-key go together")
	case o.tlsClientCA != "" && o.tlsCert == "":
		return errors.New("--tls-client-ca needs --tls-cert and --tls-key: clients show their certificates over TLS only")
	case o.tokenFile != "" && o.secrets.token != "":
		return fmt.Errorf("there are two tokens, one in --token-file and one in %s or the configuration: leave one out", brokerTokenEnv)
	case len(o.secrets.token) > maxBrokerToken:
		return fmt.Errorf("the token has %d bytes: %d are allowed", len(o.secrets.token), maxBrokerToken)
	case o.poolSize < 1:
		return errors.New("--pool-size must be at least 1")
	case o.connections < 1:
		return errors.New("--max-connections must be at least 1")
	case o.streams < 1 || o.streams > math.MaxInt32:
		return errors.New("--max-streams must be at least 1")
	case o.memory < 128<<10:
		return errors.New("--max-memory must be at least 128k")
	case o.window < 64<<10 || o.window > 1<<30:
		return errors.New("--window must be between 64k and 1G")
	case o.drain <= 0:
		return errors.New("--drain must be more than nothing")
	}
	return nil
}

// address is where the broker listens. Where others than this machine reach that, clients must show who they are.
func (o *brokerOptions) address(log *slog.Logger) (string, error) {
	addr, err := net.ResolveTCPAddr("tcp", o.listen)
	if err != nil {
		return "", fmt.Errorf("--listen: %w", err)
	}
	if addr.IP.IsLoopback() {
		return addr.String(), nil
	}
	token := o.tokenFile != "" || o.secrets.token != ""
	if !token && o.tlsClientCA == "" {
		return "", fmt.Errorf("--listen %s: others than this machine could use the broker: make clients show a token (--token-file, %s) or a certificate (--tls-client-ca), or listen on 127.0.0.1", o.listen, brokerTokenEnv)
	}
	if o.tlsCert == "" {
		log.Warn("the broker listens without TLS where others reach it: the token and all requests go over the network as they are")
	}
	return addr.String(), nil
}

// size is a flag for a number of bytes: 65536, 64k, 64M, 2G.
type size int64

var sizeUnits = map[string]int64{"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}

func (s *size) String() string {
	for _, unit := range []string{"G", "M", "k"} {
		if n := sizeUnits[unit]; *s != 0 && int64(*s)%n == 0 {
			return strconv.FormatInt(int64(*s)/n, 10) + unit
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

// Set takes a number with one of the units.
func (s *size) Set(text string) error {
	digits := strings.TrimRight(text, "kMG")
	unit, known := sizeUnits[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n < 0 || n > math.MaxInt64/unit {
		return errors.New("a number of bytes is wanted, also with k, M or G behind it")
	}
	*s = size(n * unit)
	return nil
}
