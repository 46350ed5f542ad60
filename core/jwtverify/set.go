package jwtverify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	maxSetBytes = 1 << 20
	// unknownKeyInterval is the least time between two reads that tokens with unknown key ids cause.
	unknownKeyInterval = 10 * time.Second
	firstRetryDelay    = time.Second
	// fetchTimeout is how long a read of a URL may take.
	fetchTimeout = 10 * time.Second
)

// polledSet is a set of keys that is read again and again.
type polledSet struct {
	// Static after construction.
	source   string // for the log
	read     func(context.Context) ([]byte, error)
	secrets  bool
	interval time.Duration
	timeout  time.Duration
	log      *slog.Logger
	cancel   context.CancelFunc
	wanted   chan struct{} // asks for a read; of size 1
	done     sync.WaitGroup

	keys atomic.Pointer[[]key] // nil before the first good read

	mu      sync.Mutex    // guards what follows
	reading chan struct{} // closed when the read is over that is going on, or about to; nil: none is
	slow    bool          // a read has been waited for in vain: nobody waits any more, until one succeeds
	closed  bool
	askedAt time.Time // of the last read that a token caused
	failed  bool      // the last read failed
}

func newPolledSet(cfg Config) (*polledSet, error) {
	s := &polledSet{source: cfg.JWKSFile, interval: cfg.RefreshInterval, timeout: cfg.Timeout, log: cfg.Logger, wanted: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.Default()
	}
	if s.timeout <= 0 {
		s.timeout = defaultTimeout
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	interval := defaultRefreshInterval
	if cfg.JWKSURL != "" {
		u, err := url.Parse(cfg.JWKSURL)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
			cancel()
			return nil, errors.New("jwtverify: JWKSURL is no https:// or http:// URL")
		}
		s.source = u.Redacted()
		if u.Scheme == "http" && !isLoopback(u.Hostname()) {
			s.log.Warn("the keys for JWTs are fetched without TLS: who can answer in their place can make tokens for anyone", "source", s.source)
		}
		client := cfg.Client
		if client == nil {
			client = &http.Client{CheckRedirect: staySecure}
		}
		s.read = func(ctx context.Context) ([]byte, error) { return fetch(ctx, client, cfg.JWKSURL) }
	} else {
		interval, s.secrets = defaultFileInterval, true
		s.read = func(context.Context) ([]byte, error) { return readFile(cfg.JWKSFile) }
		if err := s.refresh(ctx); err != nil {
			cancel()
			return nil, fmt.Errorf("jwtverify: %w", err)
		}
	}
	if s.interval <= 0 {
		s.interval = interval
	}
	if s.keys.Load() == nil {
		s.begin() // the first tokens wait for the first read
	}
	s.done.Go(func() { s.run(ctx) })
	return s, nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || (err == nil && addr.IsLoopback())
}

// staySecure follows redirects as http.Client does, but for those from https to http.
func staySecure(r *http.Request, via []*http.Request) error {
	switch {
	case r.URL.Scheme != "https" && via[len(via)-1].URL.Scheme == "https":
		return errors.New("it redirects from https to http")
	case len(via) >= 10:
		return errors.New("it redirects too often")
	}
	return nil
}

func fetch(ctx context.Context, client *http.Client, target string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", resp.Status)
	}
	return readAll(resp.Body)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return readAll(f)
}

func readAll(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxSetBytes+1))
	if err == nil && len(text) > maxSetBytes {
		err = errors.New("the set is longer than 1 MiB")
	}
	return text, err
}

// run reads the set every interval, when a token asks for it, and after a failure with growing delays.
func (s *polledSet) run(ctx context.Context) {
	delay := firstRetryDelay
	wait := s.interval
	if s.keys.Load() == nil {
		wait = 0
	}
	for {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			s.begin()
		case <-s.wanted:
		case <-ctx.Done():
		}
		timer.Stop()
		err := ctx.Err()
		if err == nil {
			err = s.refresh(ctx)
		}
		if ctx.Err() == nil {
			s.logOutcome(err) // before those who wait are told that there are no keys
		}
		s.end(err == nil)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			wait, delay = s.interval, firstRetryDelay
			continue
		}
		wait = min(delay, s.interval)
		delay = min(2*delay, time.Minute)
	}
}

// begin says that a read is going on, for others to wait for.
func (s *polledSet) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.beginLocked()
}

func (s *polledSet) beginLocked() {
	if s.reading == nil {
		s.reading = make(chan struct{})
	}
}

// end wakes those who wait for the read.
func (s *polledSet) end(good bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reading != nil {
		close(s.reading)
		s.reading = nil
	}
	s.slow = s.slow && !good
}

// tooSlow says that a read took longer than a token can wait.
func (s *polledSet) tooSlow(reading <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow = s.slow || s.reading == reading
}

// refresh reads the set once. After an error the old keys stay.
func (s *polledSet) refresh(ctx context.Context) error {
	text, err := s.read(ctx)
	if err == nil {
		var list []key
		if list, err = parseSet(text, s.secrets); err == nil {
			s.keys.Store(&list)
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.source, err)
	}
	return nil
}

// logOutcome logs a read's outcome where it differs from the last one's.
func (s *polledSet) logOutcome(err error) {
	s.mu.Lock()
	changed := s.failed != (err != nil)
	s.failed = err != nil
	s.mu.Unlock()
	switch {
	case !changed:
	case err == nil:
		s.log.Info("the keys for JWTs can be read again", "source", s.source)
	default:
		s.log.Warn("the keys for JWTs can't be read; the last ones stay in use", "error", err)
	}
}

// find returns the keys that fit a token. Where its key id is unknown, the issuer may have a new key: the set is read again, and
// waited for. Where no read is going on, and it is too early for another, it returns at once.
func (s *polledSet) find(id string, method jwt.SigningMethod) (jwt.VerificationKeySet, error) {
	if found := s.look(id, method); len(found.Keys) > 0 {
		return found, nil
	}
	s.renew()
	if s.keys.Load() == nil {
		return jwt.VerificationKeySet{}, fmt.Errorf("jwtverify: %w", ErrKeysUnavailable)
	}
	return s.look(id, method), nil
}

// renew has the set read again, and waits for it; false if it is as it was.
func (s *polledSet) renew() bool {
	before := s.keys.Load()
	if reading := s.ask(); reading != nil {
		timer := time.NewTimer(s.timeout)
		defer timer.Stop()
		select {
		case <-reading:
		case <-timer.C:
			s.tooSlow(reading)
		}
	}
	return s.keys.Load() != before
}

// look looks among the keys that were read.
func (s *polledSet) look(id string, method jwt.SigningMethod) jwt.VerificationKeySet {
	list := s.keys.Load()
	if list == nil {
		return jwt.VerificationKeySet{}
	}
	return choose(*list, id, method)
}

// ask asks for a read, unless one is going on or the last one that a token caused was a moment ago. It returns what is closed
// when the read is over; nil where there is none.
func (s *polledSet) ask() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.reading == nil && !s.closed && now.Sub(s.askedAt) >= unknownKeyInterval {
		s.askedAt = now
		s.beginLocked()
		select {
		case s.wanted <- struct{}{}:
		default: // run has not taken the last one yet
		}
	}
	if s.slow {
		return nil
	}
	return s.reading
}

func (s *polledSet) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.done.Wait()
	s.end(false)
}
