package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/service"
)

// spool says what a process has left on disk.
func (f *findings) spool(dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*.wal"))
	if _, statErr := os.Stat(dir); err != nil || statErr != nil {
		f.fail("--spool %s: there is no such folder", dir)
		return
	}
	size := int64(0)
	for _, name := range files {
		if info, err := os.Stat(name); err == nil {
			size += info.Size()
		}
	}
	aside, _ := filepath.Glob(filepath.Join(dir, "damaged-*")) // the pattern is good
	if len(aside) > 0 {
		f.warn("the spool was damaged, and its files put aside: %s", strings.Join(aside, ", "))
	}
	unlock, err := wal.Lock(dir)
	switch {
	case errors.Is(err, wal.ErrInUse):
		f.ok("the spool belongs to a process that runs, and takes %d MiB; that one's Stats say how many settlements are in it", size>>20)
	case err != nil:
		f.fail("--spool %s: %v", dir, err)
	default:
		_ = unlock() // nothing was done
		if len(files) > 0 {
			f.warn("no process has the spool, which takes %d MiB: what is in it is sent when one is started with this SpoolDir", size>>20)
		} else {
			f.ok("the spool is empty")
		}
	}
}

// comparison is of what processes have counted with what the service has charged.
type comparison struct {
	*findings
	api, application string
	stats            []string
}

// counted is what the processes say at about one time, added up.
type counted struct {
	low, high float64 // what the service has charged of theirs is between these
	charged   float64 // what it says
	exact     bool    // nothing was on its way meanwhile
	admitted  int64
}

func (c *comparison) run(ctx context.Context, watch time.Duration) {
	healthy := true
	for _, from := range c.stats {
		s, err := fetchStats(ctx, from)
		if err != nil {
			c.fail("--stats %s: %v", redacted(from), err)
			healthy = false
			continue
		}
		c.look(redacted(from), s)
	}
	if !healthy || !c.findApplication(ctx) {
		return
	}
	first, err := c.sample(ctx)
	if err == nil {
		select {
		case <-time.After(watch):
		case <-ctx.Done():
		}
		var second counted
		if second, err = c.sample(ctx); err == nil {
			c.compare(first, second, watch)
			return
		}
	}
	c.fail("the counts can't be compared: %v", err)
}

// look says what a process's own counts tell.
func (c *comparison) look(from string, s core.Stats) {
	sum := s.Settled + s.Voided + s.Pending + s.Spooled + s.Dropped
	if sum != s.Admitted {
		c.fail("%s: %d requests were admitted, and %d accounted for", from, s.Admitted, sum)
		return
	}
	c.ok("%s: %d admitted = %d settled + %d voided + %d pending + %d spooled + %d dropped", from, s.Admitted, s.Settled, s.Voided, s.Pending, s.Spooled, s.Dropped)
	for _, finding := range []struct {
		n    int64
		text string
	}{
		{s.Dropped, "requests' usage is lost: memory, or the spool's disk, was full, or the process ended before it was confirmed"},
		{s.Missed, "requests of metered or blocked routes were served behind the middleware's back: its place in the chain is wrong"},
	} {
		if finding.n > 0 {
			c.fail("%s: %d %s", from, finding.n, finding.text)
		}
	}
	for _, finding := range []struct {
		n    int64
		text string
	}{
		{s.FailedOpen, "requests passed without a decision, since the process began"},
		{s.FailedClosed, "requests were refused because there was no decision"},
		{s.Unmetered, "requests passed before there was a configuration; SpoolDir keeps the last good one"},
		{s.UnknownAmounts, "responses did not tell the amount that their policy tracks"},
		{s.InvalidAmounts, "amounts were no numbers, or out of range"},
		{s.LateAmounts, "amounts were set after their request had ended"},
		{s.SkippedBodies, "bodies were not looked at for an identity: MaxMemoryBytes was reached"},
	} {
		if finding.n > 0 {
			c.warn("%s: %d %s", from, finding.n, finding.text)
		}
	}
	if s.Breaker == core.BreakerOpen {
		c.fail("%s: the breaker is open: this process gets no answers", from)
	}
}

// findApplication finds out which application it is, where that is not said.
func (c *comparison) findApplication(ctx context.Context) bool {
	var list struct{ Applications []struct{ Name string } }
	if err := c.fetchAPI(ctx, "/api/v1/applications", &list); err != nil {
		c.fail("the service's HTTP API: %v; --admin-url names it", err)
		return false
	}
	if c.application == "" && len(list.Applications) == 1 {
		c.application = list.Applications[0].Name
	}
	for _, a := range list.Applications {
		if a.Name == c.application {
			return true
		}
	}
	var names []string
	for _, a := range list.Applications {
		names = append(names, a.Name)
	}
	c.fail("--application %q is none of the service's: %s", c.application, strings.Join(names, ", "))
	return false
}

// sample reads the counts before and after the service's, and tries a few times to find a moment in which nothing is on its way.
func (c *comparison) sample(ctx context.Context) (s counted, err error) {
	for range 20 {
		before, _, admitted, err := c.sum(ctx)
		if err != nil {
			return s, err
		}
		if s.charged, err = c.charged(ctx); err != nil {
			return s, err
		}
		after, way, _, err := c.sum(ctx)
		if err != nil {
			return s, err
		}
		s.admitted = admitted
		s.low, s.high, s.exact = before, after+way, before == after && way == 0
		if s.exact {
			break
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
	return s, nil
}

// sum is what all processes have settled, about what is on its way, and how many requests they have admitted.
func (c *comparison) sum(ctx context.Context) (settled, way float64, admitted int64, err error) {
	for _, from := range c.stats {
		s, err := fetchStats(ctx, from)
		if err != nil {
			return 0, 0, 0, fmt.Errorf("--stats %s: %w", redacted(from), err)
		}
		admitted += s.Admitted
		settled += s.Amount
		each := 1.0
		if s.Settled > 0 {
			each = max(1, 2*s.Amount/float64(s.Settled))
		}
		way += each * float64(s.Pending+s.Spooled)
	}
	return settled, way, admitted, nil
}

// charged is what the service has charged the application in these hours.
func (c *comparison) charged(ctx context.Context) (float64, error) {
	now := time.Now().UTC()
	query := url.Values{
		"group_by": {"application"}, "bucket": {"day"}, "application": {c.application},
		"from": {now.AddDate(0, 0, -1).Format(time.RFC3339)}, "to": {now.AddDate(0, 0, 2).Format(time.RFC3339)},
	}
	var usage struct {
		Usage []struct {
			Application string
			Amount      float64
		}
	}
	if err := c.fetchAPI(ctx, "/api/v1/usage?"+query.Encode(), &usage); err != nil {
		return 0, err
	}
	sum := 0.0
	for _, row := range usage.Usage {
		if row.Application == c.application {
			sum += row.Amount
		}
	}
	return sum, nil
}

// compare says whether both have counted the same between two samples.
func (c *comparison) compare(first, second counted, watch time.Duration) {
	charged := second.charged - first.charged
	low, high := second.low-first.high, second.high-first.low
	const rounding = 1e-3
	switch {
	case charged >= low-rounding && charged <= high+rounding && first.exact && second.exact:
		c.ok("in %v the service has charged %s %.6g, and the processes say the same", watch, c.application, charged)
	case charged >= low-rounding && charged <= high+rounding:
		c.ok("in %v the service has charged %s %.6g, which agrees with the processes, as far as can be told while requests are on their way (%.6g to %.6g)", watch, c.application, charged, math.Max(low, 0), high)
	case second.admitted < first.admitted:
		c.warn("a process has begun anew meanwhile: the counts can't be compared; try again")
	case !first.exact || !second.exact:
		c.warn("in %v the service has charged %s %.6g, and the processes have settled %.6g to %.6g: whether these agree can't be told while requests are on their way; try again with a longer --for", watch, c.application, charged, math.Max(low, 0), high)
	case charged > high:
		c.fail("in %v the service has charged %s %.6g, and the processes have settled %.6g at most: another process has this application's key, which --stats does not name", watch, c.application, charged, high)
	default:
		c.fail("in %v the service has charged %s %.6g, and the processes have settled %.6g at least: do they use another service, or another application's key?", watch, c.application, charged, low)
	}
}

func fetchStats(ctx context.Context, from string) (core.Stats, error) {
	var s core.Stats
	err := fetchJSON(ctx, from, "", &s)
	return s, err
}

// redacted is a URL without the password in it.
func redacted(text string) string {
	if u, err := url.Parse(text); err == nil {
		return u.Redacted()
	}
	return "(no URL)"
}

// fetchAPI reads what the service's HTTP API has at a path.
func (c *comparison) fetchAPI(ctx context.Context, path string, v any) error {
	return fetchJSON(ctx, c.api+path, os.Getenv(service.AdminTokenEnv), v)
}

// fetchJSON reads JSON from a URL.
func fetchJSON(ctx context.Context, from, token string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusUnauthorized:
		return tokenError()
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("it answers %s", resp.Status)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("its answer is not what was expected: %w", err)
	}
	return nil
}
