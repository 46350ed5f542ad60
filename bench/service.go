package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// serviceBench measures usageflow serve, a process of its own, from this process over real WebSockets, and beside it what the disk
// and, with -postgres, the database can do.
type serviceBench struct {
	rounds   int
	lap      time.Duration
	postgres string
	only     string
	dir      string // of the binary and the data
	binary   string
}

// runService is the benchmark.
func runService(args []string) (err error) {
	flags := flag.NewFlagSet("service", flag.ContinueOnError)
	b := &serviceBench{}
	flags.IntVar(&b.rounds, "rounds", 5, "how often everything is measured; the table shows medians")
	flags.DurationVar(&b.lap, "lap", 3*time.Second, "time of each measurement")
	flags.StringVar(&b.only, "only", "", "measure what has this `text` in its name")
	flags.StringVar(&b.postgres, "postgres", "", "`URL` of an empty database, to measure the service over it too")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if b.rounds < 1 || b.lap <= 0 {
		return errors.New("rounds and lap must be more than nothing")
	}
	if b.dir, b.binary, err = buildProgram("service"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	return b.run()
}

// buildProgram builds usageflow in a folder of its own beside the sources: on a disk, which a temporary folder may not be.
func buildProgram(benchmark string) (dir, binary string, err error) {
	if dir, err = os.MkdirTemp(".", benchmark+"-*.tmp"); err != nil {
		return "", "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", err
	}
	binary = filepath.Join(dir, "usageflow")
	build := exec.Command("go", "build", "-o", binary, "./cmd/usageflow")
	build.Dir, build.Stderr = "..", os.Stderr // the module that has the program
	if err := build.Run(); err != nil {
		return "", "", errors.Join(fmt.Errorf("build usageflow: %w", err), os.RemoveAll(dir))
	}
	return dir, binary, nil
}

// measurement is a row of the table.
type measurement struct {
	name    string
	measure func() (perSecond float64, err error)
	rates   []float64
}

func (b *serviceBench) run() error {
	rows := []*measurement{
		{name: "disk: append and fsync, one at a time", measure: func() (float64, error) { return b.disk(1) }},
		{name: "disk: group commit, 64 callers", measure: func() (float64, error) { return b.disk(64) }},
		{name: "reservations, lock-step", measure: func() (float64, error) { return b.serve(1, 10_000) }},
		{name: "reservations, 10,000 aliases, 64 in flight", measure: func() (float64, error) { return b.serve(64, 10_000) }},
		{name: "reservations, 10,000 aliases, 256 in flight", measure: func() (float64, error) { return b.serve(256, 10_000) }},
		{name: "reservations, one alias, 64 in flight", measure: func() (float64, error) { return b.serve(64, 1) }},
		{name: "reservations, one alias, 256 in flight", measure: func() (float64, error) { return b.serve(256, 1) }},
	}
	if b.postgres != "" {
		store := []string{"--store", b.postgres}
		rows = append(rows,
			&measurement{name: "PostgreSQL: UPDATE … RETURNING of one row, 32 connections", measure: b.plainUpdate},
			&measurement{name: "PostgreSQL: reservations, one alias, 64 in flight", measure: func() (float64, error) { return b.serve(64, 1, store...) }},
			&measurement{name: "PostgreSQL: reservations, one alias, 256 in flight", measure: func() (float64, error) { return b.serve(256, 1, store...) }},
		)
	}
	table.Head(os.Stdout, "durable reservations a second: the client in this process, the service in another, over 8 WebSockets")
	rows = slices.DeleteFunc(rows, func(m *measurement) bool { return !strings.Contains(m.name, b.only) })
	for range b.rounds {
		for _, row := range rows {
			rate, err := row.measure()
			if err != nil {
				return fmt.Errorf("%s: %w", row.name, err)
			}
			row.rates = append(row.rates, rate)
		}
	}
	lines := make([][]string, len(rows))
	for i, row := range rows {
		rate := table.Median(row.rates)
		lines[i] = []string{row.name, fmt.Sprintf("%.0f", rate), table.Spread("%.0f", row.rates), fmt.Sprintf("%.2f", 1e3/rate)}
	}
	printTable([]string{"", "per second", "lowest-highest", "ms each, one after the other"}, lines)
	return nil
}

// disk appends records of 100 bytes to a file, from callers that wait until theirs is on disk.
func (b *serviceBench) disk(callers int) (float64, error) {
	f, err := os.CreateTemp(b.dir, "log")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.Remove(f.Name()) }() // the folder goes at the end
	requests := make(chan chan struct{}, callers)
	ended := make(chan error, 1)
	go func() {
		record := make([]byte, 100)
		var buf []byte
		var waiting []chan struct{}
		var err error
		for first := range requests {
			waiting, buf = append(waiting[:0], first), append(buf[:0], record...)
			for len(requests) > 0 {
				waiting, buf = append(waiting, <-requests), append(buf, record...)
			}
			if err == nil {
				if _, err = f.Write(buf); err == nil {
					err = f.Sync()
				}
			}
			for _, w := range waiting {
				w <- struct{}{}
			}
		}
		ended <- errors.Join(err, f.Close())
	}()
	answers := make([]chan struct{}, callers)
	for i := range answers {
		answers[i] = make(chan struct{}, 1)
	}
	rate, err := perSecond(callers, b.lap, func(caller, _ int) error {
		requests <- answers[caller]
		<-answers[caller]
		return nil
	})
	close(requests)
	return rate, errors.Join(err, <-ended)
}

var agentURL = regexp.MustCompile(`USAGEFLOW_URL=(\S+)`)

// serve starts the service on an empty ledger and reserves, that many at a time.
func (b *serviceBench) serve(inFlight, aliases int, args ...string) (rate float64, err error) {
	dir, err := os.MkdirTemp(b.dir, "data")
	if err != nil {
		return 0, err
	}
	config := filepath.Join(dir, "usageflow.yaml")
	const text = "applications: [{name: bench, keys: [uf_bench_key_1], policies: [{method: GET, url: '*', hasRateLimit: true, limit: 1e9, window: month}]}]"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return 0, err
	}
	cmd := exec.Command(b.binary, append([]string{"serve", "--listen", "127.0.0.1:0", "--config", config, "--data", filepath.Join(dir, "data"), "--log-level", "ERROR"}, args...)...)
	cmd.Env = append(os.Environ(), "USAGEFLOW_ADMIN_TOKEN=")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() {
		err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait(), os.RemoveAll(dir))
	}()
	url := ""
	for lines := bufio.NewScanner(out); url == "" && lines.Scan(); {
		if m := agentURL.FindStringSubmatch(lines.Text()); m != nil {
			url = m[1]
		}
	}
	if url == "" {
		return 0, errors.New("the service did not start")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // until it ends
	m, err := socket.NewManager(socket.ManagerConfig{APIKey: "uf_bench_key_1", URL: url, PoolSize: 8, RequestTimeout: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.Connect(); err != nil {
		return 0, err
	}
	if _, err := b.reserve(m, inFlight, aliases, b.lap/3); err != nil { // warms up
		return 0, err
	}
	return b.reserve(m, inFlight, aliases, b.lap)
}

// reserve has callers wait for each answer before they ask again.
func (b *serviceBench) reserve(m *socket.UsageFlowSocketManager, inFlight, aliases int, d time.Duration) (float64, error) {
	return perSecond(inFlight, d, func(caller, n int) error {
		resp, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: socket.TypeRequestForAllocation, Payload: &socket.RequestForAllocation{
			Alias: "GET /api/users/:id customer-" + strconv.Itoa((caller+n*inFlight)%aliases), Amount: 1, AllocationID: uuid.NewString(),
		}})
		if err == nil && resp.Error != "" {
			err = errors.New(resp.Error)
		}
		return err
	})
}

// perSecond has callers do work, one after the other each, for d, and returns how often it was done. n counts a caller's.
func perSecond(callers int, d time.Duration, work func(caller, n int) error) (float64, error) {
	var done atomic.Int64
	var failed atomic.Pointer[error]
	start := time.Now()
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for n := 0; time.Since(start) < d; n++ {
				if err := work(caller, n); err != nil {
					failed.Store(&err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(done.Load()) / time.Since(start).Seconds(), nil
}

// plainUpdate is what a limiter does that updates its row for each request.
func (b *serviceBench) plainUpdate() (float64, error) {
	const conns = 32
	ctx := context.Background()
	config, err := pgxpool.ParseConfig(b.postgres)
	if err != nil {
		return 0, err
	}
	config.MaxConns = conns
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, `CREATE TABLE IF NOT EXISTS hot (id int PRIMARY KEY, used bigint NOT NULL); INSERT INTO hot VALUES (1, 0) ON CONFLICT DO NOTHING`); err != nil {
		return 0, err
	}
	return perSecond(conns, b.lap, func(int, int) error {
		var used int64
		return pool.QueryRow(ctx, `UPDATE hot SET used = used + 1 WHERE id = 1 AND used < 1000000000 RETURNING used`).Scan(&used)
	})
}
