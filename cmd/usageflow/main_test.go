package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// With this variable set, the test binary is the program itself: the tests run it as a process of its own.
const runAsProgram = "USAGEFLOW_TEST_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runAsProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience bounds every wait of these tests; none of them waits that long on a healthy machine.
const patience = 30 * time.Second

// program is the program in a folder of its own, and in an environment without the user's settings.
type program struct {
	t   *testing.T
	dir string
	env []string
}

func newProgram(t *testing.T, env ...string) *program {
	return &program{t: t, dir: t.TempDir(), env: env}
}

func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Dir = p.dir
	cmd.Env = append([]string{runAsProgram + "=1", "HOME=" + p.dir, "PATH=" + os.Getenv("PATH")}, p.env...)
	return cmd
}

// run runs the program to its end.
func (p *program) run(args ...string) (stdout, stderr string, status int) {
	p.t.Helper()
	var out, errs bytes.Buffer
	cmd := p.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// write writes a file into the program's folder.
func (p *program) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// server is usageflow serve, or another command that goes on, running.
type server struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   *logtest.Buffer
	page  string // http://host:port/
	agent string // ws://host:port/ws
	ended chan error
}

var announced = regexp.MustCompile(`The page is at (\S+)\nAgents connect with USAGEFLOW_URL=(\S+)\n`)

// serve starts the service, and returns when it has said where it listens.
func (p *program) serve(args ...string) *server {
	p.t.Helper()
	s, m := p.start(announced, append([]string{"serve"}, args...)...)
	s.page, s.agent = m[1], m[2]
	return s
}

// start starts the program, and returns when it has said on its standard output what is announced.
func (p *program) start(announced *regexp.Regexp, args ...string) (*server, []string) {
	p.t.Helper()
	s := &server{t: p.t, cmd: p.command(args...), log: &logtest.Buffer{}, ended: make(chan error, 1)}
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	lines := make(chan string, 16)
	go func() {
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- scanner.Text()
		}
		s.ended <- s.cmd.Wait()
	}()
	text := ""
	for timeout := time.After(patience); ; {
		select {
		case line := <-lines:
			text += line + "\n"
		case err := <-s.ended:
			p.t.Fatalf("the program ended: %v\n%s", err, s.log)
		case <-timeout:
			p.t.Fatalf("the program did not start\n%s", s.log)
		}
		if m := announced.FindStringSubmatch(text); m != nil {
			return s, m
		}
	}
}

// stop sends a signal and returns how the service ended.
func (s *server) stop(signal os.Signal) error {
	s.t.Helper()
	if err := s.cmd.Process.Signal(signal); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.ended:
		return err
	case <-time.After(patience):
		s.t.Fatalf("the service did not end\n%s", s.log)
		return nil
	}
}

// logged waits for a line of the log.
func (s *server) logged(text string) {
	s.t.Helper()
	if !until(func() bool { return strings.Contains(s.log.String(), text) }) {
		s.t.Fatalf("%q is not in the log:\n%s", text, s.log)
	}
}

// until waits for what another process does; false says that it has not come.
func until(done func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(patience); !done(); {
		select {
		case <-tick.C:
		case <-timeout:
			return false
		}
	}
	return true
}

const config = `
applications:
  - name: acme
    keys: [uf_key]
    policies:
      - {method: GET, url: /reports, hasRateLimit: true, limit: 5, window: day}
`

// pool is a client of the service.
func pool(t *testing.T, url, key string, change ...func(*socket.ManagerConfig)) *socket.UsageFlowSocketManager {
	t.Helper()
	cfg := socket.ManagerConfig{APIKey: key, URL: url, PoolSize: 2, RequestTimeout: patience, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	m, err := socket.NewManager(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func reserve(t *testing.T, m *socket.UsageFlowSocketManager, alias, id string) *socket.UsageFlowSocketResponse {
	t.Helper()
	resp, err := m.Call(t.Context(), &socket.UsageFlowSocketMessage{
		Type: socket.TypeRequestForAllocation, Payload: &socket.RequestForAllocation{Alias: alias, Amount: 1, AllocationID: id},
	})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// What a new user does: init, check, serve, and an agent with the key that init has printed.
func TestFirstSteps(t *testing.T) {
	p := newProgram(t)
	out, errs, status := p.run("init")
	key := regexp.MustCompile(`USAGEFLOW_API_KEY=(uf_[0-9a-f]{40})`).FindStringSubmatch(out)
	if status != 0 || key == nil {
		t.Fatalf("init: %d\n%s%s", status, out, errs)
	}
	if info, err := os.Stat(filepath.Join(p.dir, "usageflow.yaml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the configuration: %v, %v", info, err)
	}
	if _, errs, status := p.run("init"); status != 1 || !strings.Contains(errs, "is left as it is") {
		t.Errorf("init once more: %d %s", status, errs)
	}
	if out, errs, status := p.run("check"); status != 0 || out != "default: 3 policies, 0 blocked endpoints\nusageflow.yaml can be used.\n" || errs != "" {
		t.Errorf("check: %d %s%s", status, out, errs)
	}
	s := p.serve("--listen", "127.0.0.1:0")
	m := pool(t, s.agent, key[1])
	for i := range 101 {
		if resp := reserve(t, m, "GET /api/reports ann", fmt.Sprint(i)); (resp.Error == "") != (i < 100) {
			t.Fatalf("reservation %d: %+v", i, resp)
		}
	}
	for path, want := range map[string]string{"": "<!doctype html>", "healthz": `{"status":"ok"}`, "readyz": `{"status":"ready"}`, "metrics": "usageflow_reservations_total", "api/v1/ledgers": `"alias":"GET /api/reports ann"`} {
		resp, err := http.Get(s.page + path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 200 || !strings.Contains(strings.ToLower(string(body)), strings.ToLower(want)) {
			t.Errorf("/%s: %d %.200s", path, resp.StatusCode, body)
		}
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, s.log)
	}
	if line, _, _ := strings.Cut(s.log.String(), "\n"); !strings.HasPrefix(line, `{"time":`) {
		t.Errorf("the log is not JSON: %s", line)
	}
}

// Bad command lines, settings and surroundings: what is wrong is said in a line, and nothing is touched.
func TestRefusals(t *testing.T) {
	taken := newProgram(t)
	taken.write("usageflow.yaml", config)
	running := taken.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	address := strings.TrimSuffix(strings.TrimPrefix(running.page, "http://"), "/")
	for name, tc := range map[string]struct {
		env    []string
		args   []string
		status int
		want   string
	}{
		"no command":               {nil, nil, 0, ""},
		"an unknown command":       {nil, []string{"bake"}, 2, `there is no command "bake"`},
		"an unknown flag":          {nil, []string{"serve", "--bake"}, 2, "flag provided but not defined: -bake"},
		"an argument":              {nil, []string{"serve", "now"}, 2, `unexpected argument "now"`},
		"a number that is none":    {nil, []string{"serve", "--max-connections", "x"}, 2, "invalid value"},
		"nothing to back up to":    {nil, []string{"backup"}, 2, "FILE is missing"},
		"a service that is not":    {nil, []string{"backup", "x.db", "--url", "http://127.0.0.1:1"}, 1, "the service can't be reached"},
		"nothing to apply":         {nil, []string{"apply"}, 2, "-f FILE is missing"},
		"applied from nowhere":     {nil, []string{"apply", "-f", "nowhere.yaml"}, 1, "nowhere.yaml"},
		"applied to nobody":        {nil, []string{"apply", "-f", "usageflow.yaml", "--url", "http://127.0.0.1:1"}, 1, "the service can't be reached"},
		"applied to no service":    {nil, []string{"apply", "-f", "usageflow.yaml", "--url", running.page + "elsewhere"}, 1, "which is no answer of UsageFlow's"},
		"applied and broken":       {nil, []string{"apply", "-f", "broken.yaml", "--url", running.page}, 1, "apply: broken.yaml:2: "},
		"no backup":                {nil, []string{"restore", "nowhere.db", "--data", "new"}, 1, "nowhere.db"},
		"something else":           {nil, []string{"restore", "usageflow.yaml", "--data", "new"}, 1, "is no backup of a ledger"},
		"no connections":           {nil, []string{"serve", "--max-connections", "0"}, 1, "--max-connections must be"},
		"no hold":                  {nil, []string{"serve", "--hold", "0s"}, 1, "--hold must be"},
		"no configuration":         {nil, []string{"serve", "--config", "nowhere.yaml"}, 1, "there is no nowhere.yaml: usageflow init writes one"},
		"a broken configuration":   {nil, []string{"check", "--config", "broken.yaml"}, 1, "broken.yaml:2: "},
		"an unknown setting":       {nil, []string{"check", "--config", "setting.yaml"}, 1, "server.bake: there is no such setting"},
		"a bad setting":            {nil, []string{"serve", "--config", "value.yaml"}, 1, `server.hold: "long" is no time such as 5m0s`},
		"a bad variable":           {[]string{"USAGEFLOW_HOLD=long"}, []string{"serve"}, 1, `USAGEFLOW_HOLD: "long" is no time`},
		"half a certificate":       {nil, []string{"serve", "--tls-cert", "x.pem"}, 1, "--tls-cert and --tls-key go together"},
		"no certificate":           {nil, []string{"serve", "--tls-cert", "x.pem", "--tls-key", "x.pem"}, 1, "x.pem"},
		"a log of another form":    {nil, []string{"serve", "--log-format", "xml"}, 1, "neither json nor text"},
		"a port that is taken":     {nil, []string{"serve", "--data", "other", "--listen", address}, 1, address + " is in use by another program"},
		"a folder that is taken":   {nil, []string{"serve", "--listen", "127.0.0.1:0"}, 1, "the data folder usageflow-data is in use by another process"},
		"a folder that is a file":  {nil, []string{"serve", "--listen", "127.0.0.1:0", "--data", "usageflow.yaml"}, 1, "--data usageflow.yaml"},
		"others without a token":   {nil, []string{"serve", "--listen", "0.0.0.0:0", "--data", "other"}, 1, "USAGEFLOW_ADMIN_TOKEN"},
		"init over something else": {nil, []string{"init", "--config", "usageflow.yaml"}, 1, "usageflow.yaml exists"},
	} {
		p := &program{t: t, dir: taken.dir, env: tc.env}
		p.write("broken.yaml", "applications:\n  - bake: 1\n")
		p.write("setting.yaml", "server: {bake: yes}\n"+config)
		p.write("value.yaml", "server: {hold: long}\n"+config)
		_, errs, status := p.run(tc.args...)
		if status != tc.status || !strings.Contains(errs, tc.want) || strings.Contains(errs, "goroutine ") {
			t.Errorf("%s: %d %s", name, status, errs)
		}
	}
	if err := running.stop(syscall.SIGINT); err != nil {
		t.Error(err)
	}
}

func TestHelp(t *testing.T) {
	p := newProgram(t)
	for _, args := range [][]string{{"help"}, {"--help"}, {"serve", "--help"}, {"init", "-h"}, {"check", "--help"}, {"broker", "--help"}, {"apply", "--help"}, {"backup", "x", "--help"}, {"restore", "-help"}} {
		out, errs, status := p.run(args...)
		if status != 0 || errs != "" || !strings.Contains(out, "Usage: usageflow") {
			t.Errorf("%q: %d %s%s", args, status, out, errs)
		}
	}
	out, _, _ := p.run("serve", "--help")
	for _, want := range []string{"--listen host:port", "--data folder", "--config file", "USAGEFLOW_TLS_CERT", "USAGEFLOW_ADMIN_TOKEN"} {
		if !strings.Contains(out, want) {
			t.Errorf("%s is not in\n%s", want, out)
		}
	}
	if out, _, status := p.run("version"); status != 0 || !strings.HasPrefix(out, "usageflow ") {
		t.Errorf("version: %d %s", status, out)
	}
}

// A flag goes before the environment, and that before the configuration.
func TestPrecedence(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_DATA=from-environment", "USAGEFLOW_LOG_FORMAT=text")
	p.write("usageflow.yaml", "server: {listen: '127.0.0.1:0', data: from-file, log-format: json}\n"+config)
	s := p.serve("--data", "from-flag")
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(p.dir, "from-flag")); err != nil || !strings.Contains(s.log.String(), "level=INFO") {
		t.Errorf("%v, log:\n%s", err, s.log)
	}
	for _, other := range []string{"from-environment", "from-file"} {
		if _, err := os.Stat(filepath.Join(p.dir, other)); err == nil {
			t.Errorf("the folder %s was made", other)
		}
	}
}

// SIGTERM tells agents to go elsewhere, and what was acknowledged is there after the next start; so it is after SIGKILL.
func TestStopAndStartAgain(t *testing.T) {
	p := newProgram(t)
	p.write("usageflow.yaml", config)
	n := 0
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL, syscall.SIGTERM} {
		s := p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
		ws, _, err := websocket.DefaultDialer.Dial(s.agent, http.Header{"x-usage-key": {"uf_key"}})
		if err != nil {
			t.Fatal(err)
		}
		m := pool(t, s.agent, "uf_key")
		for range 2 {
			n++
			if resp := reserve(t, m, "GET /reports", fmt.Sprint("id", n)); (resp.Error == "") != (n <= 5) {
				t.Errorf("reservation %d: %+v", n, resp)
			}
		}
		if err := s.stop(signal); (err == nil) != (signal == syscall.SIGTERM) {
			t.Errorf("%v: %v\n%s", signal, err, s.log)
		}
		if _, _, err := ws.ReadMessage(); websocket.IsCloseError(err, websocket.CloseGoingAway) != (signal == syscall.SIGTERM) {
			t.Errorf("%v: the connection ended with %v", signal, err)
		}
		_ = ws.Close()
	}
}

// SIGHUP puts a changed configuration in force; a broken one changes nothing.
func TestReload(t *testing.T) {
	p := newProgram(t)
	p.write("usageflow.yaml", config)
	s := p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	hangup := func(text, logged string) {
		t.Helper()
		p.write("usageflow.yaml", text)
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.logged(logged)
	}
	m := pool(t, s.agent, "uf_key")
	if resp := reserve(t, m, "GET /reports", "a"); resp.Payload.(map[string]any)["limit"] != 5.0 {
		t.Errorf("got %+v", resp)
	}
	hangup("applications: {", "the last one stays in force")
	hangup(strings.Replace(config, "limit: 5", "limit: 9", 1), "was read again")
	if resp := reserve(t, m, "GET /reports", "b"); resp.Payload.(map[string]any)["limit"] != 9.0 {
		t.Errorf("got %+v", resp)
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// A backup of a running service becomes a data folder, in which everything that was acknowledged before is known.
func TestBackupAndRestore(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_ADMIN_TOKEN=secret")
	p.write("usageflow.yaml", config)
	s := p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	m := pool(t, s.agent, "uf_key")
	for i := range 4 {
		reserve(t, m, "GET /reports", fmt.Sprint("id", i))
	}
	p.write("ledger.backup", "an older one")
	stranger := &program{t: t, dir: p.dir, env: []string{"USAGEFLOW_ADMIN_TOKEN=wrong"}}
	if _, errs, status := stranger.run("backup", "ledger.backup", "--url", s.page); status != 1 || !strings.Contains(errs, "USAGEFLOW_ADMIN_TOKEN") {
		t.Errorf("with a wrong token: %d %s", status, errs)
	}
	if text, err := os.ReadFile(filepath.Join(p.dir, "ledger.backup")); err != nil || string(text) != "an older one" {
		t.Errorf("a backup that failed has changed the file: %q, %v", text, err)
	}
	if out, errs, status := p.run("backup", "ledger.backup", "--url", s.page); status != 0 || !strings.HasPrefix(out, "ledger.backup holds the ledger, ") {
		t.Fatalf("backup: %d %s%s", status, out, errs)
	}
	for i := range 2 {
		reserve(t, m, "GET /reports", fmt.Sprint("later", i))
	}
	if err := s.stop(syscall.SIGKILL); err == nil {
		t.Error("SIGKILL ended it in peace")
	}
	if _, errs, status := p.run("restore", "ledger.backup"); status != 1 || !strings.Contains(errs, "usageflow-data is not empty") {
		t.Errorf("over the folder that is there: %d %s", status, errs)
	}
	if out, errs, status := p.run("restore", "--data", "restored", "ledger.backup"); status != 0 || !strings.Contains(out, "usageflow serve --data restored") {
		t.Fatalf("restore: %d %s%s", status, out, errs)
	}
	s = p.serve("--listen", "127.0.0.1:0", "--data", "restored", "--log-format", "text")
	m = pool(t, s.agent, "uf_key")
	for _, id := range []string{"id3", "new", "newer"} {
		if resp := reserve(t, m, "GET /reports", id); (resp.Error == "") != (id != "newer") { // 4 of 5 are held
			t.Errorf("%s: %+v", id, resp)
		}
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(p.dir, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// pair writes a self-signed certificate for 127.0.0.1 and returns what trusts it.
func (p *program) pair(serial int64) *x509.CertPool {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		p.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	p.write("key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(certificate)
	return trusted
}

// Over TLS, agents are served as without; a new certificate is used after SIGHUP, for new connections.
func TestTLS(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_ADMIN_TOKEN=secret")
	p.write("usageflow.yaml", config)
	trusted := p.pair(1)
	s := p.serve("--listen", "127.0.0.1:0", "--tls-cert", "cert.pem", "--tls-key", "key.pem", "--log-format", "text")
	if !strings.HasPrefix(s.agent, "wss://") || !strings.HasPrefix(s.page, "https://") {
		t.Fatalf("it listens at %s and %s", s.page, s.agent)
	}
	check := func(trusted *x509.CertPool) error {
		config := &tls.Config{RootCAs: trusted, ServerName: "localhost"}
		m := pool(t, s.agent, "uf_key", func(c *socket.ManagerConfig) { c.TLS = config })
		if err := m.Connect(); err != nil {
			return err
		}
		reserve(t, m, "GET /x", fmt.Sprint(time.Now().UnixNano()))
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, s.page+"metrics", nil)
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer secret")
		resp, err := client.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return errors.New(resp.Status)
		}
		return nil
	}
	if err := check(trusted); err != nil {
		t.Error(err)
	}
	renewed := p.pair(2)
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.logged("was read again")
	for deadline := time.Now().Add(patience); ; {
		err := check(renewed)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the new certificate is not used: %v", err)
		}
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// What is applied to a running service is in force, and stays over a restart, without a file too.
func TestApply(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_ADMIN_TOKEN=secret")
	s := p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	s.logged("no application is configured")
	p.write("acme.yaml", config)
	p.write("stricter.yaml", strings.Replace(config, "limit: 5", "limit: 1", 1))
	if out, errs, status := p.run("apply", "-f", "acme.yaml", "--url", s.page, "--dry-run"); status != 0 || out != "acme: created\n  key uf_… added\n  policy GET /reports (5/day) added\nThis was a dry run: nothing has changed.\n" || errs != "" {
		t.Errorf("a dry run: %d %s%s", status, out, errs)
	}
	agents := &program{t: t, dir: p.dir, env: append([]string{"USAGEFLOW_URL=" + s.agent}, p.env...)}
	if out, errs, status := agents.run("apply", "-f", "acme.yaml"); status != 0 || !strings.HasPrefix(out, "acme: created\n") {
		t.Errorf("apply: %d %s%s", status, out, errs)
	}
	stranger := &program{t: t, dir: p.dir}
	if _, errs, status := stranger.run("apply", "-f", "stricter.yaml", "--url", s.page); status != 1 || !strings.Contains(errs, "USAGEFLOW_ADMIN_TOKEN") {
		t.Errorf("without the token: %d %s", status, errs)
	}
	if resp := reserve(t, pool(t, s.agent, "uf_key"), "GET /reports", "a"); resp.Payload.(map[string]any)["limit"] != 5.0 {
		t.Errorf("got %+v", resp)
	}
	stdin := p.command("apply", "-f", "-", "--url", s.page)
	stdin.Stdin = strings.NewReader(strings.Replace(config, "limit: 5", "limit: 1", 1))
	if out, err := stdin.CombinedOutput(); err != nil || string(out) != "acme: updated\n  policy GET /reports (5/day) changed to GET /reports (1/day)\n" {
		t.Errorf("from standard input: %v %s", err, out)
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	s = p.serve("--listen", "127.0.0.1:0", "--log-format", "text")
	if resp := reserve(t, pool(t, s.agent, "uf_key"), "GET /reports", "b"); resp.Payload.(map[string]any)["limit"] != 1.0 {
		t.Errorf("after a restart: %+v", resp)
	}
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.logged("there is no configuration file")
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}
