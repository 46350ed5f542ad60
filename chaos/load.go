//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// The app's routes.
const (
	routeBare    = "/bare"
	routeMetered = "/metered"
	routeLimited = "/limited"
	routeTight   = "/tight"
)

const (
	clients    = 12
	identities = 6
	// thinkTime is what a client waits between two requests.
	thinkTime = 4 * time.Millisecond
)

// outcome is a request, as its client has seen it.
type outcome struct {
	route, identity string
	status          int // 0: there was no answer
	took            time.Duration
	ended           time.Time
	err             error
}

func (o *outcome) alias() string { return "GET " + o.route + " " + o.identity }

// load is the clients of the app.
type load struct {
	url     string
	client  *http.Client
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex // guards what follows
	outcomes []outcome  // since they were last taken
}

// newLoad starts clients. The identities of the tight route have group in their names: each group has limits of its own to run into.
func newLoad(ctx context.Context, addr, group string, seed uint64) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{
		url: "http://" + addr, cancel: cancel,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}, Timeout: time.Minute},
	}
	for i := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		l.running.Go(func() { l.run(ctx, group, rng) })
	}
	return l
}

// run is one client. Its requests end before it does.
func (l *load) run(ctx context.Context, group string, rng *rand.Rand) {
	for ctx.Err() == nil {
		route := routeMetered
		switch n := rng.IntN(10); {
		case n < 3:
			route = routeBare
		case n < 6:
			route = routeLimited
		case n < 7:
			route = routeTight
		}
		identity := fmt.Sprintf("u%d", rng.IntN(identities))
		if route == routeTight {
			identity = group
		}
		o := l.do(context.WithoutCancel(ctx), route, identity)
		l.mu.Lock()
		l.outcomes = append(l.outcomes, o)
		l.mu.Unlock()
		wait(ctx, time.Duration(rng.Int64N(int64(2*thinkTime))))
	}
}

func (l *load) do(ctx context.Context, route, identity string) outcome {
	o := outcome{route: route, identity: identity}
	start := time.Now()
	o.status, o.err = l.get(ctx, route, identity)
	o.ended = time.Now()
	o.took = o.ended.Sub(start)
	return o
}

func (l *load) get(ctx context.Context, route, identity string) (status int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+route, nil)
	if err != nil {
		return 0, err
	}
	r.Header.Set("X-User", identity)
	resp, err := l.client.Do(r)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// take returns the outcomes since the last time.
func (l *load) take() []outcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := l.outcomes
	l.outcomes = nil
	return list
}

// stop ends the clients, when their requests have ended.
func (l *load) stop() {
	l.cancel()
	l.running.Wait()
	l.client.CloseIdleConnections()
}

// times are the sorted durations of the requests of routes that were answered.
func times(list []outcome, routes ...string) []time.Duration {
	var all []time.Duration
	for _, o := range list {
		if o.err == nil && slices.Contains(routes, o.route) {
			all = append(all, o.took)
		}
	}
	slices.Sort(all)
	return all
}

// quantile is that of sorted durations, 0 where there are none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
