//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// With this variable set, the test binary is a worker: the variable holds the broker's address.
const runAsWorker = "USAGEFLOW_TEST_WORKER"

func init() {
	if os.Getenv(runAsWorker) != "" {
		os.Exit(runWorker())
	}
}

// The channels of the test's jobs: those of one wait for a decision, those of the other don't.
var jobChannels = map[string]uuid.UUID{
	"limited": uuid.MustParse("6f1d2b1e-53aa-4a0e-8a54-0d6a3a8b5c01"), "metered": uuid.MustParse("6f1d2b1e-53aa-4a0e-8a54-0d6a3a8b5c02"),
}

// The stages of a job at which its worker is killed.
var jobStages = []string{"before it is reserved", "during the work", "during the answer", "after the settlement", "after the answer's last byte", "never"}

// die kills the worker, which says at which stage.
func die(stage string) {
	fmt.Println(stage)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

// runWorker is a worker of jobs that are metered through a broker: until SIGTERM, or until a job kills it.
func runWorker() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	consumer, err := socket.NewConsumer(os.Getenv(runAsWorker), socket.SidecarChannel, silent)
	if err != nil {
		return 1
	}
	transport := socket.NewBrokerTransport(consumer)
	flow, err := core.New(core.Config{Transport: transport, SpoolDir: os.Args[1], SpoolSync: 5 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil || flow.Ready(ctx) != nil {
		return 1
	}
	var served sync.WaitGroup
	for name, channel := range jobChannels {
		provider, err := socket.NewProvider(os.Getenv(runAsWorker), channel, silent)
		if err != nil {
			return 1
		}
		served.Go(func() {
			_ = provider.Serve(ctx, mortal(flow.Handler(name, job)))
			_ = provider.Close()
		})
	}
	fmt.Println("ready")
	served.Wait()
	down, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if flow.Shutdown(down) != nil || transport.Close() != nil {
		return 1
	}
	return 0
}

// stageOf is the stage at which the request wants its worker to die.
func stageOf(r *socket.Request) string { return r.Metadata["die"] }

// job is the work: a stream, where that is what is to be broken.
func job(_ context.Context, r *socket.Request) (io.Reader, error) {
	switch stageOf(r) {
	case "during the work":
		die("during the work")
	case "during the answer":
		return io.MultiReader(strings.NewReader("do"), dying{}), nil
	case "after the answer's last byte":
		return io.MultiReader(strings.NewReader("do"), strings.NewReader("ne")), nil
	}
	return strings.NewReader("done"), nil
}

// mortal is around the metered handler.
func mortal(h socket.Handler) socket.Handler {
	return func(ctx context.Context, r *socket.Request) (io.Reader, error) {
		if stageOf(r) == "before it is reserved" {
			die("before it is reserved")
		}
		answer, err := h(ctx, r)
		switch stageOf(r) {
		case "after the settlement":
			die("after the settlement")
		case "after the answer's last byte":
			return dyingAtEnd{answer.(io.ReadCloser)}, err
		}
		return answer, err
	}
}

type dying struct{}

func (dying) Read([]byte) (int, error) {
	die("during the answer")
	return 0, io.EOF
}

type dyingAtEnd struct{ io.ReadCloser }

func (d dyingAtEnd) Read(p []byte) (int, error) {
	n, err := d.ReadCloser.Read(p)
	if err == io.EOF {
		die("after the answer's last byte")
	}
	return n, err
}

const jobsConfig = `
applications:
  - name: acme
    keys: [uf_key_for_tests]
    policies:
      - {type: FUNCTION, url: limited, hasRateLimit: true, limit: 1000000, window: month}
`

// usedOrHeld asks for what is used and held of a ledger; nothing where there is none.
func usedOrHeld(t *testing.T, page, alias string) (used, held float64) {
	t.Helper()
	resp, err := http.Get(page + "api/v1/ledger?application=acme&alias=" + url.QueryEscape(alias))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var l struct{ Used, Held float64 }
	if err := json.NewDecoder(resp.Body).Decode(&l); err != nil {
		t.Fatal(err)
	}
	return l.Used, l.Held
}

// Workers are killed at every stage of a job. One that is done again until it is answered is charged once; one that is not is charged once or not
// at all, and where it was answered, once.
func TestJobsOfKilledWorkers(t *testing.T) {
	p := newProgram(t)
	p.write("usageflow.yaml", jobsConfig)
	s := p.serve("--listen", "127.0.0.1:0")
	b := newProgram(t, "USAGEFLOW_API_KEY=uf_key_for_tests", "USAGEFLOW_URL="+s.agent).broker()
	b.becomesReady(http.StatusOK, "")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var workers sync.WaitGroup
	died := make(chan string, 1000)
	for i := range 2 {
		spool := filepath.Join(t.TempDir(), fmt.Sprint("worker", i))
		workers.Go(func() { keepWorker(t, ctx, b.addr, spool, died) })
	}
	consumers := map[string]*socket.Consumer{}
	for name, channel := range jobChannels {
		c, err := socket.NewConsumer(b.addr, channel, silent)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		consumers[name] = c
	}
	const each = 4
	var answeredOnce atomic.Int64     // of those that are not done again
	for _, stage := range jobStages { // one after another: who dies early would leave nobody to die late
		var gateways sync.WaitGroup
		for _, c := range consumers {
			gateways.Go(func() {
				for i := range each {
					untilAnswered(t, c, stage, fmt.Sprint(stage, i))
				}
				for i := range each {
					err := socket.ErrNoProvider
					for tick := time.NewTicker(20 * time.Millisecond); socket.Retryable(err) && t.Context().Err() == nil; <-tick.C { // nobody has begun with it
						err = answered(t.Context(), c, stage, "once", fmt.Sprint("once", stage, i))
					}
					if err == nil {
						answeredOnce.Add(1)
					}
				}
			})
		}
		gateways.Wait()
	}
	const quiet = 10 // when no worker dies any more
	for i := range quiet {
		for _, c := range consumers {
			untilAnswered(t, c, "never", fmt.Sprint("quiet", i))
		}
	}
	stop()
	workers.Wait()
	want := float64(each*len(jobStages) + quiet)
	for name := range consumers {
		used, held := 0.0, 0.0
		if !until(func() bool {
			used, held = usedOrHeld(t, s.page, "JOB "+name+" acme")
			return used == want && held == 0
		}) {
			t.Errorf("%s: %v jobs were answered, %v are charged, and %v held", name, want, used, held)
		}
	}
	once := 0.0
	for name := range consumers {
		used, _ := usedOrHeld(t, s.page, "JOB "+name+" once")
		once += used
	}
	if most := float64(2 * each * len(jobStages)); once < float64(answeredOnce.Load()) || once > most {
		t.Errorf("of %v jobs that were sent once %v were answered and %v are charged", most, answeredOnce.Load(), once)
	}
	close(died)
	stages := map[string]int{}
	for stage := range died {
		stages[stage]++
	}
	t.Logf("workers died %v; of %v jobs that were sent once %v were answered and %v are charged", stages, 2*each*len(jobStages), answeredOnce.Load(), once)
	for _, stage := range jobStages {
		if stages[stage] == 0 && stage != "never" {
			t.Errorf("no worker was killed %s", stage)
		}
	}
}

// keepWorker runs a worker until ctx ends, over and over where it is killed.
func keepWorker(t *testing.T, ctx context.Context, addr, spool string, died chan<- string) { //nolint:revive // the test comes first
	for ctx.Err() == nil {
		cmd := exec.Command(os.Args[0], spool)
		cmd.Env = append(os.Environ(), runAsWorker+"="+addr)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Error(err)
			return
		}
		lines := bufio.NewScanner(out)
		lines.Scan() // "ready", or it has died
		ended := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
		stage := ""
		for lines.Scan() {
			stage = lines.Text()
		}
		err = cmd.Wait()
		ended()
		switch status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus); {
		case status.Signaled() && status.Signal() == syscall.SIGKILL:
			died <- stage
		case err != nil:
			t.Errorf("a worker ended with %v", err)
			return
		}
	}
}

// answered sends a job once.
func answered(ctx context.Context, c *socket.Consumer, stage, identity, key string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answer, err := c.SendContext(ctx, strings.NewReader("work"), socket.WithMetadata(map[string]string{
		socket.MetadataIdentity: identity, socket.MetadataIdempotencyKey: key, "die": stage,
	}))
	if err != nil {
		return err
	}
	defer answer.Close()
	text, err := io.ReadAll(answer)
	if err == nil && string(text) != "done" {
		err = errors.New(string(text))
	}
	return err
}

// untilAnswered sends a job again and again, the first time with the stage at which its worker dies.
func untilAnswered(t *testing.T, c *socket.Consumer, stage, key string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := answered(t.Context(), c, stage, "acme", key)
		switch {
		case err == nil:
			return
		case !socket.Retryable(err): // a worker has died of it
			stage = "never"
		}
		if time.Now().After(end) {
			t.Errorf("job %s: %v", key, err)
			return
		}
	}
}
