package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// metered is an application's process: a flow that has made some requests, and its counts.
func metered(t *testing.T, url, dir string) (request func(), stats string, flow *core.Flow) {
	t.Helper()
	flow, err := core.New(core.Config{APIKey: "uf_key", URL: url, SpoolDir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	if err := flow.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(flow.StatsHandler())
	t.Cleanup(server.Close)
	t.Cleanup(func() { _ = flow.Shutdown(ctx) })
	return func() {
		call, _ := flow.Begin(t.Context(), &core.Request{Request: httptest.NewRequest(http.MethodGet, "/x", nil), Route: "/x"})
		call.SetAmount(2.5)
		call.End(http.StatusOK)
	}, server.URL, flow
}

// traffic makes a request every 10 ms, until it is stopped.
func traffic(request func()) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				request()
			case <-over:
				return
			}
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// The doctor says what is well, and what is wrong, in words; it ends with 1 where anything is.
func TestDoctor(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_ADMIN_TOKEN=secret", "USAGEFLOW_API_KEY=uf_key")
	p.write("usageflow.yaml", config)
	s := p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	spool := t.TempDir()
	request, stats, _ := metered(t, s.agent, spool)
	request()
	stop := traffic(request)
	out, errs, status := p.run("doctor", "--url", s.agent, "--stats", stats, "--for", "300ms", "--spool", spool)
	stop()
	if status != 0 || errs != "" {
		t.Errorf("status %d: %s%s", status, out, errs)
	}
	for _, line := range []string{"takes the key", "the clocks agree", "an answer takes", "the application has 1 policies", "belongs to a process that runs", "admitted = ", "in 300ms the service has charged acme"} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	if strings.Contains(out, "charged acme 0,") {
		t.Errorf("nothing was charged:\n%s", out)
	}

	wrong := func(want string, env []string, args ...string) {
		t.Helper()
		q := &program{t: t, dir: p.dir, env: env}
		if out, errs, status := q.run(append([]string{"doctor", "--for", "100ms"}, args...)...); status != 1 || !strings.Contains(out, "WRONG") || !strings.Contains(out, want) || errs != "usageflow doctor: something is wrong\n" {
			t.Errorf("%v: status %d, want %q in\n%s%s", args, status, want, out, errs)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	t.Cleanup(other.Close)
	skewed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"Admitted":10,"Settled":9,"Breaker":"closed"}`)
	}))
	t.Cleanup(skewed.Close)
	var settled atomic.Int64
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n := settled.Add(100) // which the service knows nothing of
		_, _ = io.WriteString(w, strings.ReplaceAll(`{"Admitted":N,"Settled":N,"Amount":N,"Dropped":0,"Breaker":"open"}`, "N", string('0'+rune(n/100%10))+"00"))
	}))
	t.Cleanup(liar.Close)
	key, token := "USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_ADMIN_TOKEN=secret"
	wrong("does not know the key", []string{"USAGEFLOW_API_KEY=uf_other"}, "--url", s.agent)
	wrong("there is no key", nil, "--url", s.agent)
	wrong("nobody listens", []string{key}, "--url", "ws://"+nobody+"/ws")
	wrong("does not begin with ws://", []string{key}, "--url", s.page)
	wrong("is no URL", []string{key}, "--url", "localhost")
	wrong("not as a UsageFlow service", []string{key}, "--url", "ws"+strings.TrimPrefix(other.URL, "http")+"/ws")
	wrong("the service wants its admin token", []string{key}, "--url", s.agent, "--stats", stats)
	wrong("10 requests were admitted, and 9 accounted for", []string{key, token}, "--url", s.agent, "--stats", skewed.URL)
	wrong("its answer is not what was expected", []string{key, token}, "--url", s.agent, "--stats", other.URL)
	wrong("is none of the service's: acme", []string{key, token}, "--url", s.agent, "--stats", stats, "--application", "nope")
	wrong("the breaker is open", []string{key, token}, "--url", s.agent, "--stats", liar.URL)
	wrong("there is no such folder", []string{key}, "--url", s.agent, "--spool", "/nowhere/at/all")
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}

// Another process with the same key, of which the doctor was told nothing, is found.
func TestDoctorFindsAnotherProcess(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_API_KEY=uf_key")
	p.write("usageflow.yaml", config)
	s := p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	_, stats, _ := metered(t, s.agent, "")
	request, _, flow := metered(t, s.agent, "")
	stop := traffic(request)
	if !until(func() bool { return flow.Stats().Settled > 10 }) {
		t.Fatal("nothing was settled")
	}
	out, _, status := p.run("doctor", "--url", s.agent, "--stats", stats, "--for", "500ms")
	stop()
	if status != 1 || !strings.Contains(out, "another process has this application's key") {
		t.Errorf("status %d\n%s", status, out)
	}
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
}
