package socket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	defaultWSURL          = "ws://localhost:9000/ws"
	defaultPoolSize       = 10
	defaultRequestTimeout = 2 * time.Second
	defaultReadLimit      = 8 << 20
	defaultQueueLimit     = 4 << 20

	handshakeTimeout     = 10 * time.Second
	maxHandshakeResponse = 64 << 10 // bytes
	pingPeriod           = 30 * time.Second
	pongWait             = 60 * time.Second
	writeWait            = 10 * time.Second

	maxReconnectTries = 5
	restPeriod        = 60 * time.Second
	maxRetryAfter     = 10 * time.Minute
	// A connection that lasted this long was a success: the next failure starts at the shortest delay.
	stableAfter = 10 * time.Second

	// Close takes at most a drain and a closing handshake, which is less than closeTimeout.
	closeTimeout    = 5 * time.Second
	maxDrainTimeout = 3 * time.Second
	closeWait       = time.Second
)

// EnvURL names the environment variable that holds the service's URL.
const EnvURL = "USAGEFLOW_URL"

// ManagerConfig configures NewManager. Only APIKey is required.
type ManagerConfig struct {
	// APIKey is sent as the header x-usage-key of the handshake.
	APIKey string
	// URL of the service, ws:// or wss://. Default: the environment's USAGEFLOW_URL, else ws://localhost:9000/ws.
	URL string
	// PoolSize is the number of connections. Default 10.
	PoolSize int
	// RequestTimeout bounds SendAsync, and Call where its context has no deadline. Default 2 s.
	RequestTimeout time.Duration
	// ReadLimit is the size in bytes of the largest message taken from the service, 1 to 16 MiB; a larger
	// one closes its connection. Default 8 MiB.
	ReadLimit int64
	// QueueLimit is the number of bytes that may wait to be written on one connection; past it, calls get ErrQueueFull. A message
	// that is larger by itself can't be sent at all. Default 4 MiB.
	QueueLimit int
	// Logger is told of state changes, never of single messages. Default slog.Default().
	Logger *slog.Logger
	// TLS is used for wss:// URLs. Default: the system's roots.
	TLS *tls.Config
	// Dial opens the network connections. It should return soon after ctx has ended; what it returns later is
	// closed. Default: a net.Dialer, through the proxy that the environment names, if any.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// withDefaults returns cfg with every zero field set, or what is wrong with it. No error holds the key or the URL.
func (cfg ManagerConfig) withDefaults() (ManagerConfig, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.URL == "" {
		cfg.URL = os.Getenv(EnvURL)
	}
	if cfg.URL == "" {
		cfg.URL = defaultWSURL
	}
	if cfg.PoolSize <= 0 {
		cfg.PoolSize = defaultPoolSize
	}
	if cfg.RequestTimeout <= 0 {
		cfg.RequestTimeout = defaultRequestTimeout
	}
	if cfg.ReadLimit == 0 {
		cfg.ReadLimit = defaultReadLimit
	}
	if cfg.QueueLimit <= 0 {
		cfg.QueueLimit = defaultQueueLimit
	}
	if cfg.ReadLimit < 1<<20 || cfg.ReadLimit > 16<<20 {
		return cfg, fmt.Errorf("socket: read limit %d is not between 1 and 16 MiB", cfg.ReadLimit)
	}
	if err := checkKey(cfg.APIKey); err != nil {
		return cfg, err
	}
	return cfg, checkURL(cfg.URL)
}

func checkKey(key string) error {
	if key == "" {
		return errors.New("socket: no API key")
	}
	for _, b := range []byte(key) {
		if b < 0x20 || b == 0x7f {
			return errors.New("socket: the API key holds a control character")
		}
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil || (u.Scheme != "ws" && u.Scheme != "wss") || u.Host == "" {
		return errors.New("socket: the URL is not of the form ws://host/path or wss://host/path")
	}
	if u.User != nil {
		return errors.New("socket: a user and password in the URL are not supported")
	}
	return nil
}

// endpoint is the URL as it may be logged: without the query, which may hold a secret.
func (cfg ManagerConfig) endpoint() string {
	endpoint, _, _ := strings.Cut(cfg.URL, "?")
	return endpoint
}
