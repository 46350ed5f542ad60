package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
)

// With this variable set, the test binary is the program itself: the tests run it as a process of its own.
const runAsProgram = "EXAMPLE_APP_RUN"

func TestMain(m *testing.M) {
	if os.Getenv(runAsProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// patience bounds every wait of these tests; none of them waits that long on a healthy machine.
const patience = 30 * time.Second

type process struct {
	t          *testing.T
	cmd        *exec.Cmd
	stderr     *logtest.Buffer
	api, admin string
	ended      chan error
}

// command is the program with the given arguments, in an environment without the user's settings.
func command(t *testing.T, env []string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"-broker", "127.0.0.1:0"}, args...)...) // the last flag counts
	cmd.Env = append([]string{runAsProgram + "=1", "HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

var (
	apiLine   = regexp.MustCompile(`^The API is at (\S+)$`)
	adminLine = regexp.MustCompile(`^Watch its usage at (\S+)/$`)
)

// start runs the program until it has said where it listens.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: command(t, env, args...), stderr: &logtest.Buffer{}, ended: make(chan error, 1)}
	p.cmd.Stderr = p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			p.cmd.Process.Kill()
			<-p.ended
		}
	})
	ready := make(chan struct{})
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if m := apiLine.FindStringSubmatch(lines.Text()); m != nil {
				p.api = m[1]
			}
			if m := adminLine.FindStringSubmatch(lines.Text()); m != nil {
				p.admin = m[1]
			}
			if lines.Text() == "Try:" {
				close(ready)
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	select {
	case <-ready:
	case err := <-p.ended:
		p.ended <- err
		t.Fatalf("the program ended: %v\n%s", err, p.stderr)
	case <-time.After(patience):
		t.Fatalf("the program did not start\n%s", p.stderr)
	}
	return p
}

// terminate sends SIGTERM and expects a clean end.
func (p *process) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case err := <-p.ended:
		p.ended <- err
		if err != nil {
			p.t.Fatalf("after SIGTERM: %v\n%s", err, p.stderr)
		}
	case <-time.After(patience):
		p.cmd.Process.Signal(syscall.SIGQUIT) // its goroutines, for the log
		<-p.ended
		p.ended <- nil
		p.t.Fatalf("the program did not end after SIGTERM\n%s", p.stderr)
	}
}

func (p *process) do(method, path, user, body string) (*http.Response, string) {
	p.t.Helper()
	req, err := http.NewRequest(method, p.api+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if user != "" {
		req.Header.Set("X-User", user)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, string(text)
}

type ledger struct {
	Alias   string
	Used    float64
	Held    float64
	Limit   *float64
	ResetAt *int64
}

func (p *process) ledgers() map[string]ledger {
	p.t.Helper()
	resp, err := http.Get(p.admin + "/api/v1/ledgers")
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var list struct{ Ledgers []ledger }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		p.t.Fatal(err)
	}
	byAlias := make(map[string]ledger)
	for _, l := range list.Ledgers {
		byAlias[l.Alias] = l
	}
	return byAlias
}

// waitForUse waits until the ledgers say what is wanted, with nothing held any more.
func (p *process) waitForUse(want map[string]float64) map[string]ledger {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		got := p.ledgers()
		same := len(got) == len(want)
		for alias, used := range want {
			same = same && got[alias].Used == used && got[alias].Held == 0
		}
		if same {
			return got
		}
		select {
		case <-tick.C:
		case <-deadline:
			p.t.Fatalf("ledgers are %+v, want %v\n%s", got, want, p.stderr)
		}
	}
}

// inOneMinute waits for a minute of the clock, which limits are per, that is not nearly over.
func inOneMinute() {
	if now := time.Now(); now.Second() >= 40 {
		<-time.After(now.Truncate(time.Minute).Add(time.Minute).Sub(now))
	}
}

// Real HTTP in, real WebSocket, and the ledgers through the service's own API; then again after a restart.
func TestEndToEnd(t *testing.T) {
	data := t.TempDir()
	args := []string{"-listen", "127.0.0.1:0", "-service", "127.0.0.1:0", "-data", data}
	p := start(t, nil, args...)

	for range 3 {
		if resp, body := p.do("GET", "/api/users/7", "acme", ""); resp.StatusCode != 200 || !strings.Contains(body, `"id":"7"`) {
			t.Fatalf("users: %d %s", resp.StatusCode, body)
		}
	}
	inOneMinute() // all seven must fall into the same one
	for i := range 7 {
		resp, body := p.do("GET", "/api/reports", "acme", "")
		want := 200
		if i >= 5 {
			want = 429
		}
		if resp.StatusCode != want {
			t.Fatalf("report %d: %d %s, want %d", i+1, resp.StatusCode, body, want)
		}
		if want == 429 && (resp.Header.Get("Retry-After") == "" || !strings.Contains(resp.Header.Get("RateLimit-Policy"), "q=5;w=60") || !strings.Contains(body, `"error":"rate_limit_exceeded"`)) {
			t.Fatalf("report %d: %v %s", i+1, resp.Header, body)
		}
	}
	if resp, _ := p.do("GET", "/api/reports", "other", ""); resp.StatusCode != 200 {
		t.Fatalf("another customer's report: %d", resp.StatusCode)
	}
	if resp, body := p.do("POST", "/api/completions", "acme", `{"prompt":"one two three"}`); resp.StatusCode != 200 || !strings.Contains(body, `"total_tokens":6`) || !strings.HasSuffix(body, "data: [DONE]\n\n") {
		t.Fatalf("completions: %d %s", resp.StatusCode, body)
	}
	if resp, body := p.do("POST", "/api/orders", "", `{"customer":"globex","item":"pen","quantity":3}`); resp.StatusCode != 201 || !strings.Contains(body, `"customer":"globex"`) {
		t.Fatalf("orders: %d %s", resp.StatusCode, body)
	}
	if resp, body := p.do("GET", "/api/legacy", "acme", ""); resp.StatusCode != 403 || !strings.Contains(body, `"error":"endpoint_blocked"`) {
		t.Fatalf("legacy: %d %s", resp.StatusCode, body)
	}
	if resp, _ := p.do("GET", "/health", "", ""); resp.StatusCode != 200 {
		t.Fatalf("health: %d", resp.StatusCode)
	}
	if resp, _ := p.do("GET", "/nothing", "acme", ""); resp.StatusCode != 404 {
		t.Fatalf("nothing: %d", resp.StatusCode)
	}
	want := map[string]float64{
		"GET /api/users/:id acme": 3, "GET /api/reports acme": 5, "GET /api/reports other": 1,
		"POST /api/completions acme": 6, "POST /api/orders globex": 1,
	}
	ledgers := p.waitForUse(want)
	if l := ledgers["GET /api/reports acme"]; l.Limit == nil || *l.Limit != 5 || l.ResetAt == nil || *l.ResetAt < time.Now().Add(-time.Minute).UnixMilli() {
		t.Fatalf("the ledger of a limited route: %+v", l)
	}
	if l := ledgers["GET /api/users/:id acme"]; l.Limit != nil {
		t.Fatalf("the ledger of a metered route: %+v", l)
	}
	if resp, err := http.Get(p.admin + "/"); err != nil || resp.StatusCode != 200 {
		t.Fatalf("the page: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	p.terminate()

	again := start(t, nil, args...)
	if got := again.ledgers()["POST /api/orders globex"].Used; got != 1 {
		t.Fatalf("after a restart the orders' ledger says %v, want 1", got)
	}
	again.terminate()
}

func TestPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	for _, args := range [][]string{
		{"-service", "127.0.0.1:0", "-listen", address},
		{"-listen", "127.0.0.1:0", "-service", address},
		{"-listen", "127.0.0.1:0", "-service", "127.0.0.1:0", "-broker", address},
	} {
		cmd := command(t, nil, append(args, "-data", t.TempDir())...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		if cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%v: %v, want exit status 1", args, err)
		}
		line := strings.TrimSuffix(stderr.String(), "\n")
		if strings.Contains(line, "\n") || !strings.Contains(line, "in use") || !strings.Contains(line, "port "+port(address)) || !strings.HasSuffix(line, "choose another with "+args[len(args)-2]) {
			t.Errorf("%v: stderr is %q", args, stderr.String())
		}
	}
}

func TestDataFolderInUse(t *testing.T) {
	data := t.TempDir()
	args := []string{"-listen", "127.0.0.1:0", "-service", "127.0.0.1:0", "-data", data}
	start(t, nil, args...)
	out, err := command(t, nil, args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "in use") {
		t.Fatalf("a second process on the same folder: %v %s", err, out)
	}
}

func TestFlags(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"-help"}, 0, "-service"},
		{[]string{"-nonsense"}, 2, "nonsense"},
		{[]string{"extra"}, 2, "extra"},
		{[]string{"-help"}, 0, "/api/jobs"},
		{[]string{"-listen", "nonsense"}, 1, "-listen"},
		{[]string{"-listen", "127.0.0.1:0", "-service", "off", "-data", t.TempDir(), "-broker", "nonsense"}, 1, "-broker"},
		{[]string{"-listen", "127.0.0.1:0", "-service", "127.0.0.1:0", "-config", "no-such-file.yaml"}, 1, "no-such-file.yaml"},
	} {
		cmd := command(t, nil, tc.args...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != tc.status || !strings.Contains(string(out), tc.says) {
			t.Errorf("%v: status %d, want %d; output %s", tc.args, got, tc.status, out)
		}
	}
}

// Without its service the API serves all the same.
func TestServiceOff(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	p := start(t, []string{fmt.Sprintf("USAGEFLOW_URL=ws://%s/ws", gone.Addr())}, "-listen", "127.0.0.1:0", "-service", "off")
	for range 10 {
		if resp, body := p.do("GET", "/api/reports", "acme", ""); resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
	}
	p.terminate()
}
