package core

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Delays between tries while there is no configuration yet, or fetching it fails.
const (
	firstRefreshRetry = 500 * time.Millisecond
	lastRefreshRetry  = 10 * time.Second
)

// refresh is the goroutine that keeps the configuration. A refresh that fails leaves the last good one in force.
func (f *Flow) refresh() {
	retry := firstRefreshRetry
	last := refreshed
	for {
		err := f.refreshOnce()
		if f.ctx.Err() != nil {
			return
		}
		f.openGate()
		wait := f.cfg.RefreshInterval
		if err != nil {
			wait, retry = min(retry, f.cfg.RefreshInterval), min(2*retry, lastRefreshRetry)
		} else {
			retry = firstRefreshRetry
		}
		if now := outcome(err); now != last {
			last = now
			f.logRefresh(err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-f.ctx.Done():
			timer.Stop()
			return
		}
	}
}

// refreshOnce fetches the configuration and puts it in force.
func (f *Flow) refreshOnce() error {
	d, err := f.fetchDescription(f.ctx)
	var c *configuration
	if err == nil {
		c, err = f.configure(d)
	}
	if err != nil {
		f.refreshError.Store(&err)
		return err
	}
	f.use(c)
	if f.cfg.SpoolDir != "" && f.keptDigest != c.digest {
		f.keepDescription(d, c.digest)
	}
	return nil
}

// refreshOutcome is how a refresh ended, as far as the log is concerned: it gets a line when that changes.
type refreshOutcome int

const (
	refreshed refreshOutcome = iota
	refreshMalformed
	refreshUnanswered
)

func outcome(err error) refreshOutcome {
	switch {
	case err == nil:
		return refreshed
	case errors.Is(err, errMalformed):
		return refreshMalformed
	}
	return refreshUnanswered
}

func (f *Flow) logRefresh(err error) {
	switch {
	case err == nil:
		f.log.Info("usageflow configuration is current again")
	case f.configuration.Load() == nil:
		f.log.Warn("usageflow has no configuration yet; requests pass unmetered", "error", err)
	default:
		f.log.Warn("usageflow configuration could not be refreshed; the last good one stays in force", "error", err)
	}
}

// use puts a configuration in force, all of it at once.
func (f *Flow) use(c *configuration) {
	f.refusals.clear() // the limits themselves are not part of it: one may have been raised
	old := f.configuration.Load()
	if old != nil && old.digest == c.digest {
		f.observe(Event{Kind: EventConfigured})
		return // what was derived from the old one holds
	}
	if old != nil {
		c.learnRoutes(old)
	}
	f.configuration.Store(c)
	if old == nil {
		close(f.configured)
		f.log.Info("usageflow configuration loaded", "policies", len(c.policies), "blocks", len(c.blocks), "passed_unmetered", f.counters.unmetered.Load())
	}
	if c.paused && (old == nil || !old.paused) {
		f.log.Warn("usageflow: the account has reached its limit; metering pauses and requests pass")
	}
	if f.cfg.VerifyJWT == nil && !f.warnedJWT && c.readsTokens() {
		f.warnedJWT = true
		f.log.Warn("usageflow: a policy takes identities from JWTs, and Config.VerifyJWT is not set: anyone can claim any name")
	}
	f.observe(Event{Kind: EventConfigured})
}

func (c *configuration) readsTokens() bool {
	for _, p := range c.policies {
		if s, ok := newIdentitySource(p, c.secrets, c.raw); ok && s.claim != "" && !p.isFunction() {
			return true
		}
	}
	return false
}

// description is what the service says of an application, in three lists.
type description struct {
	Policies json.RawMessage `json:"policies"`
	Routes   json.RawMessage `json:"routes"`
	Blocks   json.RawMessage `json:"blocks"`
}

// fetchDescription asks the service for the three lists. One that is missing fails all.
func (f *Flow) fetchDescription(ctx context.Context) (d description, err error) {
	for _, part := range []struct {
		typ  string
		into *json.RawMessage
	}{
		{socket.TypeGetPolicies, &d.Policies},
		{socket.TypeGetConfig, &d.Routes},
		{socket.TypeGetBlockedEndpoints, &d.Blocks},
	} {
		if *part.into, err = f.fetch(ctx, part.typ); err != nil {
			return d, err
		}
	}
	return d, nil
}

// configure makes a configuration of what the service says. A list that is malformed fails all.
func (f *Flow) configure(d description) (*configuration, error) {
	var policies struct {
		Policies          []policy `json:"policies"`
		AccountReachLimit bool     `json:"accountReachLimit"`
	}
	var routes struct {
		MonitoringPaths    []endpoint `json:"monitoringPaths"`
		WhitelistEndpoints []endpoint `json:"whitelistEndpoints"`
		AccountReachLimit  bool       `json:"accountReachLimit"`
	}
	var blocked struct {
		Endpoints         []endpoint `json:"endpoints"`
		AccountReachLimit bool       `json:"accountReachLimit"`
	}
	digest := sha256.New()
	for _, part := range []struct {
		typ  string
		text json.RawMessage
		into any
	}{
		{socket.TypeGetPolicies, d.Policies, &policies},
		{socket.TypeGetConfig, d.Routes, &routes},
		{socket.TypeGetBlockedEndpoints, d.Blocks, &blocked},
	} {
		if err := json.Unmarshal(part.text, part.into); err != nil {
			return nil, fmt.Errorf("core: %s: %w: %w", part.typ, errMalformed, err)
		}
		_, _ = digest.Write(part.text) // a hash takes everything
		_, _ = digest.Write([]byte{0})
	}
	c := newConfiguration(policies.Policies, routes.MonitoringPaths, routes.WhitelistEndpoints, blocked.Endpoints, f.secrets)
	c.paused = policies.AccountReachLimit || routes.AccountReachLimit || blocked.AccountReachLimit
	c.raw, c.maxRules = f.cfg.RawIdentity, int(f.cfg.tableSize(maxRules, ruleBytes))
	digest.Sum(c.digest[:0])
	return c, nil
}

var errMalformed = errors.New("the answer is no configuration")

// fetch asks for one list and returns its text, in which the order of an object's members is always the same.
func (f *Flow) fetch(ctx context.Context, typ string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	resp, err := f.transport.Call(ctx, &socket.UsageFlowSocketMessage{Type: typ})
	if resp == nil && err == nil {
		err = errNoReply
	}
	if err != nil {
		return nil, fmt.Errorf("core: %s: %w", typ, err)
	}
	if resp.Refused() {
		return nil, fmt.Errorf("core: %s: %w: the service refused: %s %s", typ, errMalformed, resp.Error, resp.Message)
	}
	payload, ok := resp.Payload.(map[string]any)
	if !ok || payload == nil {
		return nil, fmt.Errorf("core: %s: %w: the payload is no object", typ, errMalformed)
	}
	text, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("core: %s: %w: %w", typ, errMalformed, err)
	}
	return text, nil
}
