//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// options of a run.
type options struct {
	seed    uint64
	only    string        // part of the names of the faults that are made
	rounds  int           // at least; each makes every fault once
	least   time.Duration // rounds go on for that long
	lasts   time.Duration // a fault, about
	timeout time.Duration // of the app's flow
	log     io.Writer     // of the processes
	out     io.Writer     // progress
}

// row is what was seen of a fault.
type row struct {
	times             int // it was made
	requests          int
	metered, limited  []time.Duration // what they took longer than bare ones at the 99th percentile, each time
	longest           time.Duration   // that a request of ours took
	undecided, denied int64
	recovered         []time.Duration
}

// run is one run, and what it has found.
type run struct {
	options
	world *world
	load  *load
	rows  map[string]*row
	order []string

	answered map[string]int // requests by alias that were answered 200
	unsure   map[string]int // requests that were on their way when the app was killed
	recent   map[string]int // of those answered, the ones that ended in an app's last moments
	dropped  int64          // by the apps that are gone, as far as they could say
	faulty   []string       // what must not be
	baseline report
}

// lastMoments is how long before its death an app may lose what has ended.
const lastMoments = 250 * time.Millisecond

// execute makes the faults, and returns what was seen. The error is of the run itself; what must not be is in faulty.
func execute(ctx context.Context, opts options) (r *run, err error) {
	r = &run{options: opts, rows: make(map[string]*row), answered: make(map[string]int), unsure: make(map[string]int), recent: make(map[string]int)}
	dir, err := os.MkdirTemp("", "usageflow-chaos-*")
	if err != nil {
		return r, err
	}
	if r.world, err = newWorld(ctx, dir, opts.timeout, opts.log); err != nil {
		return r, errors.Join(err, os.RemoveAll(dir))
	}
	defer func() { err = errors.Join(err, r.world.close(), os.RemoveAll(dir)) }()
	if err := r.warmUp(); err != nil {
		return r, err
	}
	rng := rand.New(rand.NewPCG(opts.seed, 0))
	begun := time.Now()
	for round := 0; round < opts.rounds || time.Since(begun) < opts.least; round++ {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if err := r.round(round, rng); err != nil {
			return r, err
		}
	}
	return r, nil
}

// warmUp lets the app come to what it needs in any case, and notes that.
func (r *run) warmUp() error {
	r.load = newLoad(r.world.ctx, r.world.appAddr, "warm", r.seed)
	<-time.After(r.lasts)
	r.load.stop()
	r.note(r.load.take(), time.Time{})
	if err := r.settle(); err != nil {
		return err
	}
	var err error
	r.baseline, err = r.world.report(true)
	return err
}

// round makes every fault once, with leases in every second round, and checks the sums.
func (r *run) round(n int, rng *rand.Rand) error {
	if lease := n%2 == 1; lease != r.world.lease {
		r.world.lease = lease
		if err := r.restartApp(); err != nil {
			return err
		}
	}
	for i, f := range schedule(rng, r.only) {
		lasts := r.lasts/2 + time.Duration(rng.Int64N(int64(r.lasts)))
		_, _ = fmt.Fprintf(r.out, "round %d, fault %d: %s, for %v\n", n+1, i+1, f.name, lasts.Round(time.Millisecond))
		if err := r.suffer(f, fmt.Sprintf("r%d-%d", n+1, i+1), lasts, rng.Uint64()); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return r.rest()
}

// restartApp ends the app in its own way, and starts it anew.
func (r *run) restartApp() error {
	var last report
	if err := r.world.app.stop(); err != nil {
		return fmt.Errorf("the app does not end well: %w", err)
	}
	if err := json.Unmarshal(r.world.app.stdout.Bytes(), &last.Stats); err != nil {
		return fmt.Errorf("what the app says at its end: %w", err)
	}
	r.forget(last.Stats)
	return r.world.startApp()
}

// forget adds up what is lost with an app.
func (r *run) forget(s core.Stats) { r.dropped += s.Dropped }

// suffer makes a fault under load, and waits until all is well again.
func (r *run) suffer(f fault, group string, lasts time.Duration, seed uint64) error {
	before, err := r.world.report(false)
	if err != nil {
		return err
	}
	r.load = newLoad(r.world.ctx, r.world.appAddr, group, seed)
	<-time.After(r.lasts / 4)
	if f.appKilled {
		r.forget(before.Stats)
	}
	if err := f.begin(r.world); err != nil {
		r.load.stop()
		return err
	}
	broken := time.Now()
	<-time.After(lasts)
	during := r.load.take()
	if err := f.end(r.world); err != nil {
		r.load.stop()
		return err
	}
	mended := time.Now()
	recovered, err := r.recover(mended)
	<-time.After(r.lasts / 4)
	r.load.stop()
	if err != nil {
		return err
	}
	list := slices.Concat(during, r.load.take())
	after, err := r.world.report(false)
	if err != nil {
		return err
	}
	if f.appKilled {
		before = report{}
	}
	died := time.Time{}
	if f.appKilled {
		died = broken
	}
	r.note(list, died)
	r.judge(f, list, broken, mended)
	row := r.row(f)
	row.times++
	row.requests += len(list)
	row.recovered = append(row.recovered, recovered)
	row.undecided += after.Stats.FailedOpen + after.Stats.FailedClosed - before.Stats.FailedOpen - before.Stats.FailedClosed
	row.denied += after.Stats.Denied - before.Stats.Denied
	return nil
}

// recover waits until requests get decisions again, and returns how long that took.
func (r *run) recover(since time.Time) (time.Duration, error) {
	undecided := func() (int64, error) {
		s, err := r.world.report(false)
		if err == nil && s.Stats.Breaker != core.BreakerClosed {
			err = errors.New("the breaker is open")
		}
		return s.Stats.FailedOpen + s.Stats.FailedClosed, err
	}
	var took time.Duration
	err := until(r.world.ctx, "there are decisions again", func() error {
		took = time.Since(since)
		was, err := undecided()
		if err != nil {
			return err
		}
		<-time.After(100 * time.Millisecond)
		is, err := undecided()
		if err == nil && is != was {
			err = fmt.Errorf("%d requests passed without a decision", is-was)
		}
		return err
	})
	return took, err
}

func (r *run) row(f fault) *row {
	key := f.name
	if r.rows[key] == nil {
		r.rows[key] = &row{}
		r.order = append(r.order, key)
	}
	return r.rows[key]
}

// note counts what the service has to charge. died is when the app was killed, if it was.
func (r *run) note(list []outcome, died time.Time) {
	for _, o := range list {
		if o.route == routeBare {
			continue
		}
		began := o.ended.Add(-o.took)
		switch {
		case o.status == 200 && o.err == nil:
			r.answered[o.alias()]++
			if !died.IsZero() && o.ended.After(died.Add(-lastMoments)) && o.ended.Before(died.Add(lastMoments)) {
				r.recent[o.alias()]++
			}
		case o.status == 0 && !died.IsZero() && began.Before(died.Add(lastMoments)) && o.ended.After(died.Add(-lastMoments)):
			r.unsure[o.alias()]++
		}
	}
}

// wrong notes something that must not be.
func (r *run) wrong(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	_, _ = fmt.Fprintln(r.out, "WRONG:", text)
	r.faulty = append(r.faulty, text)
}

// judge looks at how requests fared.
func (r *run) judge(f fault, list []outcome, broken, mended time.Time) {
	row := r.row(f)
	during := slices.DeleteFunc(slices.Clone(list), func(o outcome) bool { return o.ended.Before(broken) || o.ended.Add(-o.took).After(mended) })
	bare := times(during, routeBare)
	if !f.appGone {
		row.metered = append(row.metered, quantile(times(during, routeMetered), .99)-quantile(bare, .99))
		row.limited = append(row.limited, quantile(times(during, routeLimited), .99)-quantile(bare, .99))
	}
	longest := time.Duration(0)
	for _, o := range list {
		allowed := o.status == 200 || o.route == routeTight && (o.status == 429 || o.status == 503)
		switch {
		case f.appGone: // it is not ours that the app does not answer
		case o.err != nil || !allowed:
			r.wrong("%s: a request of %s got %d, %v", f.name, o.route, o.status, o.err)
			return
		case o.route != routeBare:
			longest = max(longest, o.took)
		}
	}
	// A request takes no longer than Timeout for our sake; what the machine is slow by, bare requests show.
	if slack := quantile(bare, 1) + 250*time.Millisecond; !f.appGone && longest > r.timeout+slack {
		r.wrong("%s: a request took %v, and Timeout is %v", f.name, longest, r.timeout)
	}
	row.longest = max(row.longest, longest)
}
