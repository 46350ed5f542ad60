package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// reliability measures what it costs that no usage is lost: the spool, the breaker, and leases.
type reliability struct {
	rounds, requests int
	dir              string
}

func runReliability(args []string) (err error) {
	flags := flag.NewFlagSet("reliability", flag.ContinueOnError)
	b := &reliability{}
	flags.IntVar(&b.rounds, "rounds", 5, "how often everything is measured; the table shows medians")
	flags.IntVar(&b.requests, "requests", 200_000, "in each measurement")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if b.rounds < 1 || b.requests < 1000 {
		return errors.New("at least one round, and 1000 requests")
	}
	if b.dir, err = os.MkdirTemp(".", "reliability-*.tmp"); err != nil { // beside the sources: on a disk, which a temporary folder may not be
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	columns := []string{"settlements/s into the spool", "MB/s", "raw append MB/s, fsync each 100 ms", "of raw", "breaker open, p99 µs", "breaker open, p50 µs", "metered, CPU µs", "limited with a lease, CPU µs", "lease of metered"}
	values := make([][]float64, len(columns))
	for range b.rounds {
		row, err := b.round()
		if err != nil {
			return err
		}
		for i, v := range row {
			values[i] = append(values[i], v)
		}
	}
	table.Head(os.Stdout, fmt.Sprintf("Reliability, %d requests in each measurement, medians of %d", b.requests, b.rounds))
	var rows [][]string
	for i, name := range columns {
		list := slices.Sorted(slices.Values(values[i]))
		rows = append(rows, []string{name, fmt.Sprintf("%.2f", list[len(list)/2]), fmt.Sprintf("%.2f-%.2f", list[0], list[len(list)-1])})
	}
	printTable([]string{"", "median", "lowest-highest"}, rows)
	return nil
}

func (b *reliability) round() (row []float64, err error) {
	rate, bytesEach, err := b.spool()
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	raw, err := b.raw(bytesEach)
	if err != nil {
		return nil, fmt.Errorf("raw append: %w", err)
	}
	p50, p99, err := b.breaker()
	if err != nil {
		return nil, fmt.Errorf("breaker: %w", err)
	}
	metered, leased, err := b.lease()
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	mbs := rate * bytesEach / 1e6
	return []float64{rate, mbs, raw, mbs / raw, p99, p50, metered, leased, leased / metered}, nil
}

// server is a service that keeps no record of what it gets.
func server(silent *atomic.Bool) (*sockettest.Server, error) {
	srv, err := sockettest.NewServer(sockettest.WithoutRecording())
	if err != nil {
		return nil, err
	}
	srv.SetPolicies(sockettest.Policy{Method: "GET", URL: "/limited", HasRateLimit: true})
	srv.LimitWindow("GET /limited", 1e12, time.Hour)
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if silent.Load() && (m.Type == socket.TypeRequestForAllocation || m.Type == socket.TypeUseAllocation) {
			return sockettest.Silence()
		}
		return sockettest.Default()
	})
	return srv, nil
}

func flowOf(srv *sockettest.Server, change func(*core.Config)) (*core.Flow, error) {
	cfg := core.Config{APIKey: "key", URL: srv.URL, Logger: slog.New(slog.DiscardHandler)}
	change(&cfg)
	flow, err := core.New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return flow, flow.Ready(ctx)
}

// request is what an adapter does for one, without HTTP.
func request(flow *core.Flow, r *http.Request, route string) error {
	call, denial := flow.Begin(r.Context(), &core.Request{Request: r, Route: route, Param: r.PathValue})
	if denial != nil {
		return errors.New(denial.Message)
	}
	call.End(http.StatusOK)
	return nil
}

// end ends a flow whose service may be silent.
func end(flow *core.Flow, srv *sockettest.Server) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	srv.Close()
	_ = flow.Shutdown(ctx) // what is left does not matter here
}

// spool measures settlements a second until all are on disk, and how many bytes each takes there, while the service is down.
func (b *reliability) spool() (rate, bytesEach float64, err error) {
	var silent atomic.Bool
	srv, err := server(&silent)
	if err != nil {
		return 0, 0, err
	}
	dir, err := os.MkdirTemp(b.dir, "spool")
	if err != nil {
		return 0, 0, err
	}
	flow, err := flowOf(srv, func(c *core.Config) { c.SpoolDir, c.MaxSpoolBytes, c.MaxMemoryBytes = dir, 4<<30, 512<<20 })
	if err != nil {
		return 0, 0, err
	}
	srv.Stop()
	r := httptest.NewRequest(http.MethodGet, "/metered", nil)
	start := time.Now()
	for i := range b.requests {
		if err := request(flow, r, "/metered"); err != nil {
			return 0, 0, err
		}
		for i%1000 == 0 && flow.Stats().Pending > 20_000 {
			time.Sleep(time.Millisecond)
		}
	}
	for flow.Stats().Spooled < int64(b.requests) {
		if flow.Stats().Dropped > 0 {
			return 0, 0, fmt.Errorf("it does not keep up: %+v", flow.Stats())
		}
		time.Sleep(time.Millisecond)
	}
	took := time.Since(start)
	files, err := filepath.Glob(dir + "/*.wal")
	if err != nil {
		return 0, 0, err
	}
	size := int64(len(files)) * 8 << 20
	end(flow, srv)
	return float64(b.requests) / took.Seconds(), float64(size) / float64(b.requests), os.RemoveAll(dir)
}

// raw is how many MB a second the disk takes of such records, in pieces of a hundred, with an fsync each 100 ms.
func (b *reliability) raw(bytesEach float64) (mbs float64, err error) {
	f, err := os.Create(filepath.Join(b.dir, "raw"))
	if err != nil {
		return 0, err
	}
	piece := make([]byte, int(100*bytesEach))
	start, synced := time.Now(), time.Now()
	for range b.requests / 100 {
		if _, err := f.Write(piece); err != nil {
			return 0, errors.Join(err, f.Close())
		}
		if time.Since(synced) >= 100*time.Millisecond {
			if err := f.Sync(); err != nil {
				return 0, errors.Join(err, f.Close())
			}
			synced = time.Now()
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return 0, err
	}
	took := time.Since(start)
	return float64(b.requests) * bytesEach / 1e6 / took.Seconds(), os.Remove(f.Name())
}

// breaker measures how long a limited request takes in the flow while the breaker is open, in µs.
func (b *reliability) breaker() (p50, p99 float64, err error) {
	var silent atomic.Bool
	srv, err := server(&silent)
	if err != nil {
		return 0, 0, err
	}
	flow, err := flowOf(srv, func(c *core.Config) { c.Timeout = 50 * time.Millisecond })
	if err != nil {
		return 0, 0, err
	}
	silent.Store(true)
	r := httptest.NewRequest(http.MethodGet, "/limited", nil)
	for flow.Stats().Breaker != core.BreakerOpen {
		if err := request(flow, r, "/limited"); err != nil {
			return 0, 0, err
		}
	}
	took := make([]time.Duration, b.requests/10)
	for i := range took {
		start := time.Now()
		if err := request(flow, r, "/limited"); err != nil {
			return 0, 0, err
		}
		took[i] = time.Since(start)
		time.Sleep(20 * time.Microsecond) // a busy API, not a loop
	}
	if s := flow.Stats(); s.Breaker != core.BreakerOpen {
		return 0, 0, errors.New("the breaker has closed")
	}
	end(flow, srv)
	slices.Sort(took)
	return micros(took[len(took)/2]), micros(took[len(took)*99/100]), nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// lease measures the processor time of a metered request and of a limited one under a lease, the service's in this process included.
func (b *reliability) lease() (metered, leased float64, err error) {
	var silent atomic.Bool
	srv, err := server(&silent)
	if err != nil {
		return 0, 0, err
	}
	flow, err := flowOf(srv, func(c *core.Config) { c.Lease = true })
	if err != nil {
		return 0, 0, err
	}
	measure := func(route string) (float64, error) {
		r := httptest.NewRequest(http.MethodGet, route, nil)
		for range 1000 { // until its lease is up
			if err := request(flow, r, route); err != nil {
				return 0, err
			}
		}
		start := cpu()
		before := flow.Stats()
		for i := range b.requests {
			if err := request(flow, r, route); err != nil {
				return 0, err
			}
			for i%1000 == 0 && flow.Stats().Pending > 5_000 {
				time.Sleep(time.Millisecond)
			}
		}
		for flow.Stats().Pending > 0 {
			time.Sleep(time.Millisecond)
		}
		if s := flow.Stats(); s.Dropped > before.Dropped || s.FailedOpen > before.FailedOpen {
			return 0, fmt.Errorf("requests were lost: %+v", s)
		}
		return micros(cpu()-start) / float64(b.requests), nil
	}
	if metered, err = measure("/metered"); err == nil {
		leased, err = measure("/limited")
	}
	end(flow, srv)
	return metered, leased, err
}

// cpu is the processor time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
