//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// After SIGTERM what runs is answered, a worker's message to the service as well as a provider's request; then the broker ends.
func TestBrokerDrains(t *testing.T) {
	srv := sockettest.New(t)
	release := make(chan struct{})
	asked := make(chan struct{}, 2)
	srv.Handle(func(sockettest.Message) sockettest.Reply {
		asked <- struct{}{}
		return sockettest.Default().After(release)
	})
	b := newProgram(t, "USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL="+srv.URL).broker()
	consumer := answering(t, b.addr, func(_ context.Context, r *socket.Request) (io.Reader, error) {
		select {
		case asked <- struct{}{}:
		default: // the test has what it waits for
		}
		<-release
		return upper(r.Context, r)
	})
	w := worker(t, b.addr)
	b.becomesReady(http.StatusOK, "ready")
	var answers sync.WaitGroup
	answers.Go(func() {
		if answer, err := sendText(consumer, "hello"); err != nil || answer != "HELLO" {
			t.Errorf("the request: %q, %v", answer, err)
		}
	})
	answers.Go(func() {
		if resp, err := ask(w, "GET /x", "id"); err != nil || resp.Refused() {
			t.Errorf("the message: %+v, %v", resp, err)
		}
	})
	<-asked
	<-asked
	b.signal(syscall.SIGTERM)
	b.becomesReady(http.StatusServiceUnavailable, "the broker drains")
	if status, _ := b.probe("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	var err error
	if !until(func() bool { // /readyz says it first
		_, err = consumer.Send(strings.NewReader("one more"), 50*time.Millisecond)
		return socket.Retryable(err)
	}) {
		t.Errorf("a new request: %v", err)
	}
	select {
	case err := <-b.ended:
		t.Fatalf("it has ended: %v\n%s", err, b.log)
	default:
	}
	close(release)
	if err := <-b.ended; err != nil {
		t.Errorf("the end: %v\n%s", err, b.log)
	}
	answers.Wait()
	if strings.Contains(b.log.String(), "the broker is lost") {
		t.Errorf("the sidecar misses its own broker:\n%s", b.log)
	}
}

// What takes longer than --drain is cut off, which is a failure.
func TestBrokerCutsOff(t *testing.T) {
	b := newProgram(t).broker("--drain", "20ms")
	asked := make(chan struct{})
	consumer := answering(t, b.addr, func(ctx context.Context, _ *socket.Request) (io.Reader, error) {
		close(asked)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ended := make(chan error, 1)
	go func() {
		_, err := sendText(consumer, "hello")
		ended <- err
	}()
	<-asked
	if err := b.stop(syscall.SIGTERM); err == nil || b.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("it ended with %v", err)
	}
	b.logged("usageflow broker: requests were cut off after 20ms")
	if err := <-ended; err == nil {
		t.Error("the request was answered")
	}
}

// A second signal ends the broker at once.
func TestBrokerInAHurry(t *testing.T) {
	b := newProgram(t).broker("--drain", "1h")
	asked, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	consumer := answering(t, b.addr, func(context.Context, *socket.Request) (io.Reader, error) {
		close(asked)
		<-release
		return &bytes.Reader{}, nil
	})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = sendText(consumer, "hello") // it fails, in whichever way
	}()
	<-asked
	b.signal(syscall.SIGTERM)
	b.becomesReady(http.StatusServiceUnavailable, "the broker drains")
	if !until(func() bool { // one that comes too soon after the first is part of it
		_ = b.cmd.Process.Signal(syscall.SIGTERM) // it has ended, or gets it
		select {
		case err := <-b.ended:
			if err == nil {
				t.Error("it ended in peace")
			}
			return true
		default:
			return false
		}
	}) {
		t.Errorf("it goes on\n%s", b.log)
	}
	<-ended
}

const jobs = `
applications:
  - name: acme
    keys: [uf_key]
`

// The broker is killed under load and starts again on its port, several times: all jobs are charged, and each once.
func TestBrokerKilledUnderLoad(t *testing.T) {
	p := newProgram(t)
	p.write("usageflow.yaml", jobs)
	service := p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	p.env = []string{"USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL=" + service.agent}
	b := p.broker()
	b.becomesReady(http.StatusOK, "ready")
	consumer, err := socket.NewConsumer(b.addr, socket.SidecarChannel, silent)
	if err != nil {
		t.Fatal(err)
	}
	transport := socket.NewBrokerTransport(consumer)
	defer transport.Close()
	flow, err := core.New(core.Config{Transport: transport, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := flow.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			pause := time.NewTicker(time.Millisecond)
			defer pause.Stop()
			untilClosed(stop, func(int) bool {
				<-pause.C
				if flow.Stats().Pending > 200 {
					return true // more would only make a slow machine busy for longer
				}
				err := flow.Do(context.Background(), core.Job{Name: "resize", Identity: "acme"}, func(context.Context) error { return nil })
				if err != nil {
					t.Error(err)
				}
				return err == nil
			})
		})
	}
	settles := func() {
		t.Helper()
		want := flow.Stats().Settled + 100
		if !until(func() bool { return flow.Stats().Settled >= want }) {
			t.Fatalf("the workers stand still: %+v\n%s", flow.Stats(), b.log)
		}
	}
	for range 5 {
		settles()
		if err := b.stop(syscall.SIGKILL); err == nil {
			t.Error("SIGKILL ended it in peace")
		}
		b = p.broker("--listen", b.addr)
	}
	settles()
	close(stop)
	workers.Wait()
	if !until(func() bool { return flow.Stats().Pending == 0 }) {
		t.Errorf("not everything is settled: %+v", flow.Stats())
	}
	if err := flow.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	s := flow.Stats()
	if s.Settled != s.Admitted || s.Dropped != 0 || s.Admitted < 600 {
		t.Errorf("stats %+v", s)
	}
	if used := usedOn(t, service.page, "JOB resize acme"); used != float64(s.Admitted) {
		t.Errorf("%v are charged, %d jobs were admitted", used, s.Admitted)
	}
	if err := b.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// A thousand workers on one sidecar have ten WebSockets to the service.
func TestThousandWorkersOverTenWebSockets(t *testing.T) {
	srv := sockettest.New(t)
	b := newProgram(t, "USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL="+srv.URL).broker()
	b.becomesReady(http.StatusOK, "ready")
	const workers = 1000
	var connected, done sync.WaitGroup
	connected.Add(workers)
	for i := range workers {
		done.Go(func() {
			c, err := socket.NewConsumer(b.addr, socket.SidecarChannel, silent)
			connected.Done()
			if err != nil {
				t.Error(err)
				return
			}
			transport := socket.NewBrokerTransport(c)
			defer transport.Close()
			connected.Wait() // all are there at once
			if resp, err := ask(transport, "JOB resize", fmt.Sprint("id", i)); err != nil || resp.Refused() {
				t.Errorf("worker %d: %+v, %v", i, resp, err)
			}
		})
	}
	done.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := srv.WaitFor(ctx, func(r *sockettest.Record) bool { return r.Conns() == 10 }); err != nil {
		t.Error(err)
	}
	if srv.Handshakes() != 10 || srv.Count(socket.TypeRequestForAllocation) != workers {
		t.Errorf("%d connections, %d messages", srv.Handshakes(), srv.Count(socket.TypeRequestForAllocation))
	}
	b.metric(fmt.Sprintf(`usageflow_broker_requests_total{outcome="completed"} %d`, workers))
	if err := b.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}
