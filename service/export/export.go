// Package export pushes settled usage to other systems: as CloudEvents to any HTTP receiver, or as meter events to Stripe.
//
// What is settled waits in the ledger's outbox until the receiver has taken it. Deliveries are repeated for ever, so a
// receiver may see one twice; each carries an id that never changes, by which it is known.
package export

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/wait"
)

// A Receiver is where usage is pushed to.
type Receiver interface {
	// Deliver returns how many of the settlements the receiver has, the first ones, and why it has not all of them. What it
	// had already counts.
	Deliver(ctx context.Context, settled []service.Settled) (int, error)
}

// Exporter pushes what an outbox holds to one receiver.
type Exporter struct {
	// Name names the export in the outbox; what it has seen is kept under it.
	Name     string
	Outbox   service.Outbox
	Receiver Receiver
	// Logger is told when deliveries begin to fail and when they work again.
	Logger *slog.Logger
	// Poll is how long an empty outbox is left alone; 1 second by default. MaxDelay bounds the time between two attempts; 1
	// minute by default.
	Poll, MaxDelay time.Duration

	delivered, failures atomic.Uint64
}

// batchSize is how many settlements are read at a time.
const batchSize = 100

// noteTimeout bounds the note of what was delivered.
const noteTimeout = 5 * time.Second

// minDelay is the time before the second attempt.
const minDelay = 200 * time.Millisecond

// Delivered is how many settlements the receiver has taken, and Failures how many attempts have failed, since the start.
func (e *Exporter) Delivered() uint64 { return e.delivered.Load() }

// Failures is how many attempts have failed since the start.
func (e *Exporter) Failures() uint64 { return e.failures.Load() }

// Run pushes until ctx ends. Of several processes with the same export, one does.
func (e *Exporter) Run(ctx context.Context) {
	delay := minDelay
	failing := false
	for ctx.Err() == nil {
		err := e.Outbox.Exclusively(ctx, e.Name, func(ctx context.Context) error {
			for ctx.Err() == nil {
				n, err := e.push(ctx)
				if n > 0 || err == nil {
					delay = minDelay
				}
				if err != nil {
					return err
				}
				if failing {
					failing = false
					e.Logger.Info("the export works again", "export", e.Name)
				}
				if n == 0 && !wait.For(ctx, orDefault(e.Poll, time.Second)) {
					return nil
				}
			}
			return nil
		})
		if err == nil || ctx.Err() != nil {
			continue
		}
		e.failures.Add(1)
		if !failing {
			failing = true
			e.Logger.Error("the export is failing, and is tried until it works", "export", e.Name, "error", err)
		}
		next := time.Duration((0.5 + rand.Float64()) * float64(delay)) //nolint:gosec // jitter is no secret
		var busy *busyError
		if errors.As(err, &busy) {
			next = max(next, busy.after)
		}
		wait.For(ctx, next)
		delay = min(2*delay, orDefault(e.MaxDelay, time.Minute))
	}
}

// push delivers what there is, up to a batch, and returns how many settlements the receiver has taken.
func (e *Exporter) push(ctx context.Context) (int, error) {
	settled, err := e.Outbox.Undelivered(ctx, e.Name, batchSize)
	if err != nil || len(settled) == 0 {
		return 0, err
	}
	n, err := e.Receiver.Deliver(ctx, settled)
	if n == 0 {
		return 0, err
	}
	// The receiver has them, so this is noted although the process may be stopping.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	if failed := e.Outbox.Delivered(ctx, e.Name, settled[n-1].N); failed != nil {
		return n, errors.Join(err, failed)
	}
	e.delivered.Add(uint64(n))
	return n, err
}

func orDefault(d, other time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return other
}

// busyError is an answer that says when to come back.
type busyError struct {
	status string
	after  time.Duration
}

func (e *busyError) Error() string { return fmt.Sprintf("the receiver answers %s", e.status) }

// statusError is the error of an answer that is no success.
func statusError(resp *http.Response, text []byte) error {
	if after, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && after > 0 {
		return &busyError{resp.Status, min(time.Duration(after)*time.Second, time.Hour)}
	}
	return fmt.Errorf("the receiver answers %s: %s", resp.Status, text)
}

// send does a request. An error does not name the URL, which may hold a secret.
func send(c *http.Client, r *http.Request) (*http.Response, error) {
	resp, err := c.Do(r)
	var at *url.Error
	if errors.As(err, &at) {
		err = fmt.Errorf("the receiver can't be reached: %w", at.Err)
	}
	return resp, err
}

// id is the id of a settlement for receivers: no two have the same, whatever the application.
func id(s *service.Settled) string { return s.Application + "/" + s.ID }

// client does not follow redirects: they would take secrets and usage somewhere else.
func client() *http.Client {
	return &http.Client{
		Timeout:       30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
