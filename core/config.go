package core

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

const (
	defaultTimeout         = 2 * time.Second
	defaultRefreshInterval = 30 * time.Second
	defaultMaxBodyBytes    = 1 << 20
	defaultMaxMemoryBytes  = 256 << 20
	minMaxMemoryBytes      = 1 << 20
	defaultMaxSpoolBytes   = 1 << 30
	minMaxSpoolBytes       = 8 * minSpoolSegment
	defaultSpoolSync       = 100 * time.Millisecond
	defaultCaptureBytes    = 4 << 10
)

// EnvAPIKey names the environment variable that holds the API key, where Config has none.
const EnvAPIKey = "USAGEFLOW_API_KEY"

// Config configures a Flow. The zero value plus a key, or a Transport, works.
type Config struct {
	// APIKey names the application at the service. Default: the environment's USAGEFLOW_API_KEY. Required unless Transport is set.
	APIKey string
	// URL of the service. Default: the environment's USAGEFLOW_URL, else ws://localhost:9000/ws.
	URL string
	// PoolSize is the number of WebSockets. Default 10.
	PoolSize int
	// Transport replaces the pool that the flow makes. The flow does not close it.
	Transport socket.Transport
	// Timeout is the longest that a request waits for a decision of the service. Default 2 s.
	Timeout time.Duration
	// Logger is told of state changes and of what is lost. Default slog.Default().
	Logger *slog.Logger

	// Identify names the customer of a request, "" for none. Where it reports false, the policies decide.
	Identify func(*Request) (string, bool)
	// Skip exempts a request from everything: blocks, limits and metering.
	Skip func(*Request) bool
	// VerifyJWT checks a token and returns its claims. Without it, claims are read unverified: a name that anyone can claim.
	VerifyJWT func(token string) (claims map[string]any, err error)
	// VoidStatus says which response statuses are not charged, unless the handler set an amount or the response told
	// it. It is called when a call ends, on any goroutine, and must not block. Default: none.
	VoidStatus func(status int) bool
	// CutOff says what is charged for a request whose client went away before it was answered in full. Default CutOffObserved.
	CutOff CutOff
	// FailClosed answers rate-limited requests with 503 when the service gives no decision. By default they pass. A policy may
	// say otherwise for its routes.
	FailClosed bool
	// Lease reserves amounts ahead, in slices, on limited ledgers that are busy (8 requests a second and more), so that most of their requests wait for
	// no round trip. A slice is at most a quarter of what the service says is left, and 16 requests' where it does not say; it is spent for a second at
	// most, and never past the window's reset. What is not spent goes back when its last request has ended, or a second or two later; until then it is
	// not there for other processes, which may be denied meanwhile. No limit is exceeded by that. The requests of one slice have one
	// AllocationID, and are settled together, without a path, client and status of their own; EventSettled comes once for them.
	Lease bool
	// OnDeny answers in place of the flow, with whatever status; d says what the flow would (d.ServeHTTP answers so). The
	// denial's header fields are set before it is called, on the request's own goroutine, and many calls may run at the same
	// time. Where it writes nothing, or panics before it does, the flow answers as if it had not been called; after a panic
	// in the middle of its answer the connection is aborted.
	OnDeny func(w http.ResponseWriter, r *http.Request, d *Denial)
	// RateLimitHeaders says which fields tell of the limit in a 429. Default RateLimitIETF. Retry-After is always there.
	RateLimitHeaders RateLimitHeaders
	// Shadow lets every request pass: what would have been refused is decided, counted and logged all the same. It is for
	// trying limits out. What passes is metered.
	Shadow bool

	// Capture says what of a request goes out beside its amount. By default nothing.
	Capture Capture
	// Secrets names further headers, query parameters and JSON fields that are masked wherever they are captured.
	Secrets []string
	// RawIdentity sends an identity from a secret place (a plain cookie, Authorization, an x-*key header) as it is, not as a short hash.
	RawIdentity bool

	// MaxBodyBytes bounds how much of a request's body is read for an identity in it. A larger body has no
	// identity. Default 1 MiB.
	MaxBodyBytes int64
	// MaxMemoryBytes bounds the memory of all that the flow holds, as it estimates it: requests that run (2 KiB each, with what is captured of them and
	// the bodies that an identity is looked for in), settlements, and what it remembers of the service's answers. A request for which there is no
	// room passes, without a decision too, unless it is to fail closed; its usage is dropped, counted and logged. Default 256 MiB, or four times MaxPendingBytes where that is more.
	MaxMemoryBytes int64
	// MaxPendingBytes is the part of it for settlements that the service has not confirmed. With SpoolDir, those that come when half of it is taken go to
	// disk alone. Past it, new ones are dropped, counted and logged. Default: a quarter, 64 MiB; at most half.
	MaxPendingBytes int64
	// SpoolDir is a folder, made if it is not there, in which settlements are kept until the service has confirmed them, over the end of the
	// process too. One flow at a time can have it: New returns an error where another has. New reads what an earlier process has left there, about
	// a second for each GiB; it is sent under this flow's key, whatever key it was left under (the log warns), so that keys can be rotated. A process that is killed loses what has ended in
	// its last moments, before it was written: mostly less than a millisecond's, a few where the disk is slow.
	SpoolDir string
	// MaxSpoolBytes bounds the size of the settlements' files in SpoolDir. Past it, settlements are kept in memory, up to MaxPendingBytes. Default 1 GiB, at least 512 KiB.
	MaxSpoolBytes int64
	// SpoolSync is how often SpoolDir is synced. When the machine fails, at most what has ended in the last SpoolSync, and
	// during the sync under way, is lost. Default 100 ms.
	SpoolSync time.Duration
	// RefreshInterval is how often policies, routes and blocks are fetched. Default 30 s.
	RefreshInterval time.Duration
	// Observe is told of every Event. It is called from many goroutines, the request's own among them, and must not block.
	Observe func(Event)
}

// Capture says what of a request and its response goes out with the settlement. Secrets in it are masked.
type Capture struct {
	Headers, Query, PathParams bool
	// RequestBody and ResponseBody send JSON and form bodies of up to MaxBytes; of others, only the size is sent.
	RequestBody, ResponseBody bool
	// MaxBytes is the size of the largest body that is captured. Default 4 KiB.
	MaxBytes int
}

func (c Capture) any() bool {
	return c.Headers || c.Query || c.PathParams || c.RequestBody || c.ResponseBody
}

// withDefaults returns cfg with every zero field set, or what is wrong with it.
func (cfg Config) withDefaults() (Config, error) {
	if cfg.APIKey == "" && cfg.Transport == nil {
		cfg.APIKey = os.Getenv(EnvAPIKey)
	}
	if cfg.APIKey == "" && cfg.Transport == nil {
		return cfg, errors.New("core: no API key, neither in Config nor in " + EnvAPIKey)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Timeout", cfg.Timeout}, {"RefreshInterval", cfg.RefreshInterval}, {"SpoolSync", cfg.SpoolSync}} {
		if d.value < 0 {
			return cfg, fmt.Errorf("core: %s %s is negative", d.name, d.value)
		}
	}
	if cfg.CutOff < CutOffObserved || cfg.CutOff > CutOffVoid {
		return cfg, fmt.Errorf("core: CutOff %d is none of the CutOff constants", cfg.CutOff)
	}
	if cfg.RateLimitHeaders < RateLimitIETF || cfg.RateLimitHeaders > RateLimitNone {
		return cfg, fmt.Errorf("core: RateLimitHeaders %d is none of the RateLimit constants", cfg.RateLimitHeaders)
	}
	cfg.Timeout = orDefault(cfg.Timeout, defaultTimeout)
	cfg.RefreshInterval = orDefault(cfg.RefreshInterval, defaultRefreshInterval)
	cfg.MaxBodyBytes = orDefault(cfg.MaxBodyBytes, defaultMaxBodyBytes)
	cfg.MaxMemoryBytes = orDefault(cfg.MaxMemoryBytes, max(defaultMaxMemoryBytes, 4*cfg.MaxPendingBytes))
	cfg.MaxPendingBytes = orDefault(cfg.MaxPendingBytes, cfg.MaxMemoryBytes/4)
	if cfg.MaxMemoryBytes < minMaxMemoryBytes {
		return cfg, fmt.Errorf("core: MaxMemoryBytes %d is less than %d", cfg.MaxMemoryBytes, minMaxMemoryBytes)
	}
	if cfg.MaxPendingBytes > cfg.MaxMemoryBytes/2 {
		return cfg, fmt.Errorf("core: MaxPendingBytes %d is more than half of MaxMemoryBytes %d", cfg.MaxPendingBytes, cfg.MaxMemoryBytes)
	}
	cfg.MaxSpoolBytes = max(orDefault(cfg.MaxSpoolBytes, defaultMaxSpoolBytes), minMaxSpoolBytes)
	cfg.SpoolSync = orDefault(cfg.SpoolSync, defaultSpoolSync)
	cfg.Capture.MaxBytes = orDefault(cfg.Capture.MaxBytes, defaultCaptureBytes)
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return cfg, nil
}

func orDefault[T ~int | ~int64](value, def T) T {
	if value <= 0 {
		return def
	}
	return value
}
