// Package poolclient is the process whose throughput, CPU time and allocations the pool benchmark
// reports: many goroutines that share one socket manager, or, beside it, prepared frames pushed through
// plain connections.
package poolclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// RoleName is the role under which programs of this module run Role.
const RoleName = "poolclient"

// A Client says what to send and how: Raw frames, all at once or InFlight of them at a time, or SendAsync
// from InFlight goroutines.
type Client struct {
	URL      string
	Conns    int
	Raw      bool
	InFlight int
}

// A Result counts answered messages only; Elapsed and CPU run until the last answer.
type Result struct {
	Messages int
	Elapsed  time.Duration
	CPU      time.Duration
	Mallocs  uint64
	Bytes    uint64
}

// Role is the child's side. It connects at its start; each command, a duration, is one Result.
func Role(arg json.RawMessage) (child.Handler, any, error) {
	var c Client
	if err := json.Unmarshal(arg, &c); err != nil {
		return nil, nil, err
	}
	connect := c.connectManager
	if c.Raw {
		connect = c.connectRaw
	}
	send, err := connect()
	if err != nil {
		return nil, nil, err
	}
	return func(_ string, arg json.RawMessage) (any, error) {
		var d time.Duration
		if err := json.Unmarshal(arg, &d); err != nil {
			return nil, err
		}
		return measure(func() (int, error) { return send(d) })
	}, nil, nil
}

// A sender sends for about d, and returns how many messages were answered when all are.
type sender func(d time.Duration) (int, error)

func (c Client) connectRaw() (sender, error) {
	conns := make([]*rawConn, c.Conns)
	for i := range conns {
		var err error
		if conns[i], err = dialRaw(c.URL); err != nil {
			return nil, err
		}
	}
	unit := c.Conns * framesPerChunk
	perSecond := 100 * unit // a guess; the first run, the warm-up, corrects it
	return func(d time.Duration) (int, error) {
		n := max(1, int(float64(perSecond)*d.Seconds())/unit) * unit
		start := time.Now()
		var err error
		if c.InFlight > 0 {
			err = rawWindow(conns, c.InFlight, n)
		} else {
			err = rawRun(conns, n/unit)
		}
		perSecond = int(float64(n) / time.Since(start).Seconds())
		return n, err
	}, nil
}

func (c Client) connectManager() (sender, error) {
	m, err := socket.NewManager(socket.ManagerConfig{
		APIKey: "bench", URL: c.URL, PoolSize: c.Conns, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		return nil, err
	}
	if err := m.Connect(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return func(d time.Duration) (int, error) { return c.calls(m, d) }, nil
}

// calls runs InFlight loops of SendAsync until d has passed and every call has returned.
func (c Client) calls(m *socket.UsageFlowSocketManager, d time.Duration) (int, error) {
	var (
		wg    sync.WaitGroup
		stop  atomic.Bool
		done  = make([]int, c.InFlight)
		fails = make([]error, c.InFlight)
	)
	timer := time.AfterFunc(d, func() { stop.Store(true) })
	defer timer.Stop()
	for i := range c.InFlight {
		wg.Go(func() {
			n := 0
			for !stop.Load() {
				resp, err := m.SendAsync(message())
				if err != nil {
					fails[i] = err
					return
				}
				if resp.Refused() {
					fails[i] = fmt.Errorf("refused: %s", resp.Message)
					return
				}
				n++
			}
			done[i] = n
		})
	}
	wg.Wait()
	total := 0
	for _, n := range done {
		total += n
	}
	return total, errors.Join(fails...)
}

// measure runs fn, which returns how many messages were answered.
func measure(fn func() (int, error)) (Result, error) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, err := child.CPU()
	if err != nil {
		return Result{}, err
	}
	start := time.Now()
	n, err := fn()
	elapsed := time.Since(start)
	if err != nil {
		return Result{}, err
	}
	used, err := child.CPU()
	if err != nil {
		return Result{}, err
	}
	runtime.ReadMemStats(&after)
	return Result{
		Messages: n, Elapsed: elapsed, CPU: used - cpu,
		Mallocs: after.Mallocs - before.Mallocs, Bytes: after.TotalAlloc - before.TotalAlloc,
	}, nil
}
