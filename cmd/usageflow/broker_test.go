package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// brokerProcess is usageflow broker, running.
type brokerProcess struct {
	*server
	addr   string // host:port
	probes string // http://host:port
	said   string
}

var brokerAnnounced = regexp.MustCompile(`The broker is at (\S+)\n.*\nProbes and metrics are at (\S+)/healthz, /readyz and /metrics\n`)

// broker starts a broker on ports that are free, unless args say otherwise.
func (p *program) broker(args ...string) *brokerProcess {
	p.t.Helper()
	s, m := p.start(brokerAnnounced, append([]string{"broker", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--log-format", "text"}, args...)...)
	return &brokerProcess{server: s, addr: m[1], probes: m[2], said: m[0]}
}

// probe asks for one of the probes' pages.
func (b *brokerProcess) probe(path string) (status int, text string) {
	b.t.Helper()
	resp, err := http.Get(b.probes + path)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// becomesReady waits for an answer of /readyz.
func (b *brokerProcess) becomesReady(status int, text string) {
	b.t.Helper()
	gotStatus, got := 0, ""
	if !until(func() bool {
		gotStatus, got = b.probe("/readyz")
		return gotStatus == status && strings.Contains(got, text)
	}) {
		b.t.Fatalf("/readyz: %d %s, not %d %s\n%s", gotStatus, got, status, text, b.log)
	}
}

// metric waits for a line of /metrics.
func (b *brokerProcess) metric(line string) {
	b.t.Helper()
	page := ""
	if !until(func() bool {
		_, page = b.probe("/metrics")
		return strings.Contains(page, "\n"+line+"\n")
	}) {
		b.t.Errorf("%q is not in\n%s", line, page)
	}
}

func (b *brokerProcess) signal(signal syscall.Signal) {
	b.t.Helper()
	if err := b.cmd.Process.Signal(signal); err != nil {
		b.t.Fatal(err)
	}
}

var silent = socket.WithLogger(slog.New(slog.DiscardHandler))

// worker is a worker's way to the service.
func worker(t *testing.T, addr string, opts ...socket.ClientOption) socket.Transport {
	t.Helper()
	consumer, err := socket.NewConsumer(addr, socket.SidecarChannel, append(opts, silent)...)
	if err != nil {
		t.Fatal(err)
	}
	transport := socket.NewBrokerTransport(consumer)
	t.Cleanup(func() { _ = transport.Close() })
	return transport
}

// ask reserves one unit through a worker's transport.
func ask(transport socket.Transport, alias, id string) (*socket.UsageFlowSocketResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return transport.Call(ctx, &socket.UsageFlowSocketMessage{
		Type: socket.TypeRequestForAllocation, Payload: &socket.RequestForAllocation{Alias: alias, Amount: 1, AllocationID: id},
	})
}

// answering makes a provider that answers with h, on a channel of its own, and a consumer for it.
func answering(t *testing.T, addr string, h socket.Handler) *socket.Consumer {
	t.Helper()
	channel := uuid.New()
	provider, err := socket.NewProvider(addr, channel, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = provider.Close() })
	go func() { _ = provider.Serve(context.Background(), h) }()
	consumer, err := socket.NewConsumer(addr, channel, silent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = consumer.Close() })
	return consumer
}

// sendText sends a request and returns its whole answer.
func sendText(c *socket.Consumer, text string) (string, error) {
	r, err := c.Send(strings.NewReader(text), patience)
	if err != nil {
		return "", err
	}
	answer, err := io.ReadAll(r)
	return string(answer), err
}

func upper(_ context.Context, r *socket.Request) (io.Reader, error) {
	text, err := io.ReadAll(r.Reader)
	return bytes.NewReader(bytes.ToUpper(text)), err
}

// Without a key it is a broker, and says that it is no more.
func TestBrokerAlone(t *testing.T) {
	b := newProgram(t).broker()
	if !strings.Contains(b.said, "It has no way to the service, for want of a key in USAGEFLOW_API_KEY\n") {
		t.Errorf("it says\n%s", b.said)
	}
	b.logged("the broker has no sidecar")
	consumer := answering(t, b.addr, upper)
	if answer, err := sendText(consumer, "hello"); err != nil || answer != "HELLO" {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := ask(worker(t, b.addr), "GET /x", ""); !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("a worker: %v", err)
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if status, text := b.probe(path); status != http.StatusOK {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	for _, line := range []string{
		`usageflow_broker_connections{role="consumer"} 2`, `usageflow_broker_connections{role="provider"} 1`, "usageflow_broker_streams 0",
		`usageflow_broker_requests_total{outcome="completed"} 1`, `usageflow_broker_requests_total{outcome="no_provider"} 1`,
		`usageflow_broker_refused_clients_total{reason="unauthorized"} 0`, "usageflow_broker_reserved_bytes 0", "usageflow_broker_reserved_bytes_limit 5.36870912e+08",
	} {
		b.metric(line)
	}
	if _, page := b.probe("/metrics"); strings.Contains(page, "sidecar_connected ") || !strings.Contains(page, `usageflow_broker_bytes_total{direction="in"} `) {
		t.Errorf("metrics\n%s", page)
	}
	if err := b.stop(syscall.SIGTERM); err != nil || strings.Contains(b.log.String(), "level=WARN") {
		t.Errorf("SIGTERM: %v\n%s", err, b.log)
	}
}

// With a key, workers reach the service, and nobody takes the sidecar's place. The key is shown nowhere.
func TestBrokerWithSidecar(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithAPIKey("uf_secret"))
	srv.Limit("GET /reports", 2)
	b := newProgram(t, "USAGEFLOW_API_KEY=uf_secret", "USAGEFLOW_URL="+srv.URL).broker()
	if !strings.Contains(b.said, "Workers reach the service through channel 75736167-6566-8c6f-b773-696465636172\n") {
		t.Errorf("it says\n%s", b.said)
	}
	b.becomesReady(http.StatusOK, "ready")
	w := worker(t, b.addr)
	for i := range 3 {
		if resp, err := ask(w, "GET /reports", fmt.Sprint("id", i)); err != nil || resp.Refused() != (i == 2) {
			t.Errorf("reservation %d: %+v, %v", i, resp, err)
		}
	}
	if !w.IsConnected() {
		t.Error("the worker is not connected")
	}
	if p, err := socket.NewProvider(b.addr, socket.SidecarChannel, silent); !errors.Is(err, socket.ErrUnauthorized) {
		t.Errorf("a stranger answers the workers: %v, %v", p, err)
	}
	b.metric("usageflow_broker_sidecar_connected 1")
	b.metric(`usageflow_broker_refused_clients_total{reason="unauthorized"} 1`)
	if err := b.stop(syscall.SIGINT); err != nil {
		t.Errorf("SIGINT: %v", err)
	}
	if strings.Contains(b.log.String(), "uf_secret") || strings.Contains(b.log.String(), "the broker is lost") {
		t.Errorf("log\n%s", b.log)
	}
}

// A flag goes before the environment, and that before the configuration; secrets have no flags.
func TestBrokerPrecedence(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithAPIKey("uf_file"))
	p := newProgram(t, "USAGEFLOW_BROKER_POOL_SIZE=3", "USAGEFLOW_BROKER_MAX_MEMORY=2M", "USAGEFLOW_BROKER_TOKEN=from-environment", "USAGEFLOW_LISTEN=:1")
	p.write("usageflow.yaml", "broker: {pool-size: 4, max-memory: 1M, window: 128k, url: '"+srv.URL+"', api-key: uf_file, token: from-file, log-format: json}\n"+config)
	b := p.broker("--pool-size", "2")
	b.becomesReady(http.StatusOK, "ready")
	b.metric("usageflow_broker_reserved_bytes_limit 2.097152e+06")
	if _, err := ask(worker(t, b.addr, socket.WithToken("from-environment")), "GET /x", ""); err != nil {
		t.Error(err)
	}
	if _, err := socket.NewConsumer(b.addr, socket.SidecarChannel, socket.WithToken("from-file"), silent); !errors.Is(err, socket.ErrUnauthorized) {
		t.Errorf("the file's token: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := srv.WaitFor(ctx, func(r *sockettest.Record) bool { return r.Conns() == 2 }); err != nil {
		t.Error(err)
	}
	if err := b.stop(syscall.SIGTERM); err != nil || srv.Handshakes() != 2 {
		t.Errorf("%v, %d connections", err, srv.Handshakes())
	}
}

// What can't be meant is refused in a line that says what to do; no secret is in it.
func TestBrokerRefusals(t *testing.T) {
	taken := newProgram(t)
	running := taken.broker()
	probes := strings.TrimPrefix(running.probes, "http://")
	key, token := "USAGEFLOW_API_KEY=uf_secret", "USAGEFLOW_BROKER_TOKEN=token_secret"
	for name, tc := range map[string]struct {
		env    []string
		args   []string
		status int
		want   string
	}{
		"an unknown flag":               {nil, []string{"--bake"}, 2, "flag provided but not defined: -bake"},
		"an argument":                   {nil, []string{"now"}, 2, `unexpected argument "now"`},
		"a key on the command line":     {nil, []string{"--api-key", "x"}, 2, "flag provided but not defined: -api-key"},
		"a number that is none":         {nil, []string{"--pool-size", "x"}, 2, "invalid value"},
		"a size that is none":           {nil, []string{"--max-memory", "1T"}, 2, "a number of bytes is wanted"},
		"an empty size":                 {nil, []string{"--max-memory", ""}, 2, "a number of bytes is wanted"},
		"a size without a number":       {nil, []string{"--window", "k"}, 2, "a number of bytes is wanted"},
		"a huge size":                   {nil, []string{"--max-memory", "99999999999G"}, 2, "a number of bytes is wanted"},
		"a bad variable":                {[]string{"USAGEFLOW_BROKER_DRAIN=long"}, nil, 1, `USAGEFLOW_BROKER_DRAIN: "long" is no time such as 30s`},
		"a port that is taken":          {nil, []string{"--listen", running.addr}, 1, running.addr + " is in use by another program; choose another address with --listen"},
		"probes where others are":       {nil, []string{"--metrics", probes}, 1, probes + " is in use by another program; choose another address with --metrics"},
		"no port":                       {nil, []string{"--listen", "127.0.0.1"}, 1, "--listen: "},
		"others without a token":        {nil, []string{"--listen", "0.0.0.0:0"}, 1, "make clients show a token (--token-file, USAGEFLOW_BROKER_TOKEN) or a certificate (--tls-client-ca)"},
		"everybody without a token":     {nil, []string{"--listen", ":0"}, 1, "or listen on 127.0.0.1"},
		"TLS alone":                     {nil, []string{"--listen", "0.0.0.0:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem"}, 1, "make clients show a token"},
		"half a certificate":            {nil, []string{"--tls-cert", "x.pem"}, 1, "--tls-cert and --tls-key go together"},
		"no certificate":                {nil, []string{"--tls-cert", "x.pem", "--tls-key", "x.pem"}, 1, "x.pem"},
		"authorities without TLS":       {nil, []string{"--tls-client-ca", "cert.pem"}, 1, "--tls-client-ca needs --tls-cert"},
		"no authorities":                {nil, []string{"--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "empty"}, 1, "holds no certificate in PEM form"},
		"authorities that are gone":     {nil, []string{"--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "gone"}, 1, "--tls-client-ca: open gone"},
		"no token's file":               {nil, []string{"--token-file", "gone"}, 1, "--token-file: open gone"},
		"an empty token":                {nil, []string{"--token-file", "empty"}, 1, "empty holds no token"},
		"two lines":                     {nil, []string{"--token-file", "lines"}, 1, "lines holds more than one line"},
		"a long token":                  {nil, []string{"--token-file", "long"}, 1, "4096 are allowed"},
		"two tokens":                    {[]string{token}, []string{"--token-file", "lines"}, 1, "there are two tokens"},
		"a URL without a key":           {nil, []string{"--url", "ws://127.0.0.1:1/ws"}, 1, "set USAGEFLOW_API_KEY, or leave out the URL"},
		"a variable without a key":      {[]string{"USAGEFLOW_URL=ws://127.0.0.1:1/ws"}, nil, 1, "set USAGEFLOW_API_KEY, or leave out the URL"},
		"a URL that is none":            {[]string{key}, []string{"--url", "http://localhost"}, 1, "not of the form ws://host/path"},
		"no pool":                       {[]string{key}, []string{"--pool-size", "0"}, 1, "--pool-size must be"},
		"no connections":                {nil, []string{"--max-connections", "0"}, 1, "--max-connections must be"},
		"no streams":                    {nil, []string{"--max-streams", "-1"}, 1, "--max-streams must be"},
		"no memory":                     {nil, []string{"--max-memory", "1k"}, 1, "--max-memory must be"},
		"a narrow window":               {nil, []string{"--window", "1k"}, 1, "--window must be"},
		"no drain":                      {nil, []string{"--drain", "0s"}, 1, "--drain must be"},
		"a log of another form":         {nil, []string{"--log-format", "xml"}, 1, "neither json nor text"},
		"a file that is not there":      {nil, []string{"--config", "gone.yaml"}, 1, "there is no gone.yaml"},
		"an unknown setting":            {nil, []string{"--config", "setting.yaml"}, 1, "setting.yaml: broker.bake: there is no such setting"},
		"a file that names another":     {nil, []string{"--config", "config.yaml"}, 1, "config.yaml: broker.config: there is no such setting"},
		"a setting that makes no sense": {nil, []string{"--config", "value.yaml"}, 1, `value.yaml: broker.max-memory: "lots" is no bytes such as 512M`},
	} {
		p := &program{t: t, dir: t.TempDir(), env: tc.env}
		p.pair(1)
		p.write("empty", "\n")
		p.write("lines", "one\ntwo\n")
		p.write("long", strings.Repeat("x", 5000))
		p.write("setting.yaml", "broker: {bake: yes}\n")
		p.write("config.yaml", "broker: {config: other.yaml}\n")
		p.write("value.yaml", "broker: {max-memory: lots}\n")
		args := append([]string{"broker"}, tc.args...)
		if name != "a port that is taken" && !strings.Contains(strings.Join(tc.args, " "), "--listen") {
			args = append([]string{"broker", "--listen", "127.0.0.1:0"}, tc.args...)
		}
		_, errs, status := p.run(args...)
		if status != tc.status || !strings.Contains(errs, tc.want) || strings.Contains(errs, "goroutine ") || strings.Contains(errs, "_secret") {
			t.Errorf("%s: %d %s", name, status, errs)
		}
	}
	p := newProgram(t)
	p.write("setting.yaml", "broker: {bake: yes}\n")
	p.write("usageflow.yaml", "broker: {token: x, api-key: y, pool-size: 3}\n")
	if _, errs, status := p.run("check", "--config", "setting.yaml"); status != 1 || !strings.Contains(errs, "broker.bake: there is no such setting") {
		t.Errorf("check: %d %s", status, errs)
	}
	if out, errs, status := p.run("check"); status != 0 || out != "usageflow.yaml can be used.\n" || errs != "" {
		t.Errorf("check: %d %s%s", status, out, errs)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]struct {
		bytes int64
		text  string
	}{"0": {0, "0"}, "1000": {1000, "1000"}, "64k": {64 << 10, "64k"}, "1024k": {1 << 20, "1M"}, "3G": {3 << 30, "3G"}} {
		var s size
		if err := s.Set(text); err != nil || int64(s) != want.bytes || s.String() != want.text {
			t.Errorf("%s: %d %s, %v", text, int64(s), s.String(), err)
		}
	}
	for _, text := range []string{"", "k", "1kk", "-1", "1.5M", "1 M", "8589934592G"} {
		if s := size(7); s.Set(text) == nil || s != 7 {
			t.Errorf("%q is %d", text, int64(s))
		}
	}
}

// The service goes away and comes back: /readyz says so.
func TestBrokerReadiness(t *testing.T) {
	srv := sockettest.New(t)
	b := newProgram(t, "USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL="+srv.URL).broker()
	b.becomesReady(http.StatusOK, "ready")
	srv.Stop()
	b.becomesReady(http.StatusServiceUnavailable, "the service is not connected")
	b.metric("usageflow_broker_sidecar_connected 0")
	if status, _ := b.probe("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	if err := srv.Start(); err != nil {
		t.Fatal(err)
	}
	b.becomesReady(http.StatusOK, "ready")
	if _, err := ask(worker(t, b.addr), "GET /x", ""); err != nil {
		t.Error(err)
	}
	if err := b.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// A broker without probes is one that listens on nothing else.
func TestBrokerWithoutProbes(t *testing.T) {
	for _, none := range []string{"", "off"} {
		s, m := newProgram(t).start(regexp.MustCompile(`The broker is at (\S+)\n.*\n`), "broker", "--listen", "127.0.0.1:0", "--metrics", none)
		if strings.Contains(m[0], "Probes") {
			t.Errorf("it says %s", m[0])
		}
		if answer, err := sendText(answering(t, m[1], upper), "hello"); err != nil || answer != "HELLO" {
			t.Errorf("%q, %v", answer, err)
		}
		if err := s.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
}
