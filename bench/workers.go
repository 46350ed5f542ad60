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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// workersBench measures jobs of workers beside those of a flow with a pool of its own, the mesh beside one broker, and the memory of a
// sidecar with idle workers.
type workersBench struct {
	rounds, jobs, idle int
	dir, binary        string
}

var quietBroker = socket.WithLogger(slog.New(slog.DiscardHandler))

func runWorkers(args []string) (err error) {
	flags := flag.NewFlagSet("workers", flag.ContinueOnError)
	b := &workersBench{}
	flags.IntVar(&b.rounds, "rounds", 5, "how often everything is measured; the table shows medians")
	flags.IntVar(&b.jobs, "jobs", 3000, "one after another, in each measurement")
	flags.IntVar(&b.idle, "idle", 1000, "workers that do nothing, of which the sidecar's memory is measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if b.rounds < 1 || b.jobs < 100 || b.idle < 1 {
		return errors.New("at least one round, 100 jobs, one worker")
	}
	if b.dir, b.binary, err = buildProgram("workers"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	columns := []string{
		"limited job, pool, µs", "limited job, sidecar, µs", "sidecar of pool", "durable job, pool, µs", "durable job, sidecar, µs", "sidecar of pool",
		"metered job, pool, µs", "metered job, sidecar, µs", "request, one broker, µs", "request, over the mesh, µs", "mesh of one broker",
		fmt.Sprintf("sidecar with %d idle workers, MiB", b.idle),
	}
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
	table.Head(os.Stdout, fmt.Sprintf("Workers: %d jobs one after another, medians of their times, medians of %d rounds", b.jobs, b.rounds))
	var rows [][]string
	for i, name := range columns {
		rows = append(rows, []string{name, fmt.Sprintf("%.2f", table.Median(values[i])), table.Spread("%.2f", values[i])})
	}
	printTable([]string{"", "median", "lowest-highest"}, rows)
	return nil
}

const workersConfig = `applications:
  - name: bench
    keys: [bench]
    policies:
      - {type: FUNCTION, url: limited, hasRateLimit: true, limit: 900000000000, window: day}
`

// program is usageflow, running.
type program struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func (b *workersBench) start(env []string, args ...string) (*program, error) {
	cmd := exec.Command(b.binary, args...)
	cmd.Env, cmd.Stderr = append(os.Environ(), env...), os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &program{cmd, bufio.NewScanner(out)}, cmd.Start()
}

// said returns what follows prefix in the first line that has it.
func (p *program) said(prefix string) (string, error) {
	for p.lines.Scan() {
		if _, rest, ok := strings.Cut(p.lines.Text(), prefix); ok {
			return rest, nil
		}
	}
	return "", fmt.Errorf("%v did not say %q", p.cmd.Args, prefix)
}

func (p *program) stop() {
	_ = p.cmd.Process.Signal(os.Interrupt)
	_ = p.cmd.Wait() // what it was good for is over
}

// round measures everything once.
func (b *workersBench) round() (row []float64, err error) {
	config := filepath.Join(b.dir, "usageflow.yaml")
	if err := os.WriteFile(config, []byte(workersConfig), 0o600); err != nil {
		return nil, err
	}
	data, err := os.MkdirTemp(b.dir, "data")
	if err != nil {
		return nil, err
	}
	service, err := b.start(nil, "serve", "--listen", "127.0.0.1:0", "--data", data, "--config", config, "--log-level", "ERROR")
	if err != nil {
		return nil, err
	}
	defer service.stop()
	url, err := service.said("USAGEFLOW_URL=")
	if err != nil {
		return nil, err
	}
	broker, err := b.start([]string{"USAGEFLOW_API_KEY=bench", "USAGEFLOW_URL=" + url}, "broker", "--listen", "127.0.0.1:0", "--metrics", "off", "--log-level", "ERROR")
	if err != nil {
		return nil, err
	}
	defer broker.stop()
	addr, err := broker.said("The broker is at ")
	if err != nil {
		return nil, err
	}
	var times [2][3]float64 // pool, sidecar; limited, durable, metered
	for i := range times {
		if times[i], err = b.jobTimes(url, addr, i == 1); err != nil {
			return nil, err
		}
	}
	near, far, err := b.lockSteps()
	if err != nil {
		return nil, fmt.Errorf("mesh: %w", err)
	}
	memory, err := b.memory(broker.cmd.Process.Pid, addr)
	if err != nil {
		return nil, fmt.Errorf("idle workers: %w", err)
	}
	pool, side := times[0], times[1]
	return []float64{pool[0], side[0], side[0] / pool[0], pool[1], side[1], side[1] / pool[1], pool[2], side[2], near, far, far / near, memory}, nil
}

// jobTimes measures the median time of a limited, a durable and a metered job, in µs.
func (b *workersBench) jobTimes(url, addr string, sidecar bool) (times [3]float64, err error) {
	cfg := core.Config{APIKey: "bench", URL: url, Logger: slog.New(slog.DiscardHandler)}
	if sidecar {
		consumer, err := socket.NewConsumer(addr, socket.SidecarChannel, quietBroker)
		if err != nil {
			return times, err
		}
		transport := socket.NewBrokerTransport(consumer)
		defer func() { err = errors.Join(err, transport.Close()) }()
		cfg.Transport, cfg.APIKey = transport, ""
	}
	flow, err := core.New(cfg)
	if err != nil {
		return times, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer func() { err = errors.Join(err, flow.Shutdown(ctx)) }()
	if err := flow.Ready(ctx); err != nil {
		return times, err
	}
	for i, job := range []core.Job{{Name: "limited", Identity: "acme"}, {Name: "durable", Identity: "acme", Durable: true}, {Name: "metered", Identity: "acme"}} {
		took := make([]time.Duration, b.jobs)
		for j := range took {
			start := time.Now()
			if err := flow.Do(ctx, job, func(context.Context) error { return nil }); err != nil {
				return times, err
			}
			took[j] = time.Since(start)
		}
		times[i] = middle(took)
	}
	if s := flow.Stats(); s.FailedOpen+s.Dropped+s.LateDenials > 0 {
		return times, fmt.Errorf("jobs were not decided or lost: %+v", s)
	}
	return times, nil
}

// middle is the median in µs.
func middle(took []time.Duration) float64 {
	slices.Sort(took)
	return micros(took[len(took)/2])
}

// lockSteps measures the median time of a small request to a provider of the same broker, and to one of another broker of a mesh. The brokers are
// processes of their own, NATS is in this one.
func (b *workersBench) lockSteps() (near, far float64, err error) {
	nats, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		return 0, 0, err
	}
	nats.Start()
	defer nats.Shutdown()
	if !nats.ReadyForConnections(10 * time.Second) {
		return 0, 0, errors.New("nats-server does not listen")
	}
	var addrs [2]string
	for i := range addrs {
		p, err := b.start(nil, "broker", "--listen", "127.0.0.1:0", "--metrics", "off", "--mesh", nats.ClientURL(), "--log-level", "ERROR")
		if err != nil {
			return 0, 0, err
		}
		defer p.stop()
		if addrs[i], err = p.said("The broker is at "); err != nil {
			return 0, 0, err
		}
	}
	if near, err = b.lockStep(addrs[0], addrs[0]); err == nil {
		far, err = b.lockStep(addrs[0], addrs[1])
	}
	return near, far, err
}

func (b *workersBench) lockStep(consumerAddr, providerAddr string) (us float64, err error) {
	channel := uuid.New()
	provider, err := socket.NewProvider(providerAddr, channel, quietBroker)
	if err != nil {
		return 0, err
	}
	go func() {
		_ = provider.Serve(context.Background(), func(_ context.Context, r *socket.Request) (io.Reader, error) { return r.Reader, nil })
	}()
	defer func() { err = errors.Join(err, provider.Close()) }()
	consumer, err := socket.NewConsumer(consumerAddr, channel, quietBroker)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, consumer.Close()) }()
	took := make([]time.Duration, b.jobs)
	for i := range took {
		start := time.Now()
		answer, err := consumer.Send(strings.NewReader("a small request, and its answer"), 10*time.Second)
		if err == nil {
			_, err = io.Copy(io.Discard, answer)
		}
		if err != nil {
			return 0, err
		}
		took[i] = time.Since(start)
	}
	return middle(took), nil
}

// memory is what a sidecar takes with idle workers, each of which has sent one message: its resident memory in MiB.
func (b *workersBench) memory(pid int, addr string) (mib float64, err error) {
	transports := make([]socket.Transport, 0, b.idle)
	defer func() {
		for _, t := range transports {
			err = errors.Join(err, t.Close())
		}
	}()
	for range b.idle {
		consumer, err := socket.NewConsumer(addr, socket.SidecarChannel, quietBroker)
		if err != nil {
			return 0, err
		}
		t := socket.NewBrokerTransport(consumer)
		transports = append(transports, t)
		if _, err := t.Call(context.Background(), &socket.UsageFlowSocketMessage{Type: socket.TypeGetConfig}); err != nil {
			return 0, err
		}
	}
	if runtime.GOOS != "linux" {
		return 0, errors.New("the memory of a process is read from /proc")
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			return kb / 1024, err
		}
	}
	return 0, errors.New("no VmRSS")
}
