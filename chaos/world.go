//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

const (
	apiKey = "uf_chaos_key_1"
	// patience bounds every wait for something that has to come.
	patience = 2 * time.Minute
)

// tightLimit is what each identity may use of the tight route: less than is asked for while a fault lasts.
const tightLimit = 40

const serviceConfig = `applications:
  - name: chaos
    keys: [` + apiKey + `]
    policies:
      - {method: GET, url: /metered, identityFieldName: X-User, identityFieldLocation: headers}
      - {method: GET, url: /limited, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 1e9, window: month}
      - {method: GET, url: /tight, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: %d, window: month, failClosed: true}
`

// world is the processes, and the proxy between them.
type world struct {
	ctx     context.Context // its end kills the processes
	dir     string
	program string // usageflow
	timeout time.Duration
	lease   bool
	spool   string
	tmpfs   bool // the spool is a file system of its own

	proxy       *proxy
	serviceAddr string
	appAddr     string
	service     *process
	app         *process
	log         io.Writer
}

// process is one that was started.
type process struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer
	ended  chan struct{}
	err    error // set before ended is closed
}

func start(ctx context.Context, log io.Writer, env []string, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.CommandContext(ctx, name, args...), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, log
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	return p, nil
}

func (p *process) signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// kill ends the process as nothing else does, and waits for that.
func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	<-p.ended
	return err
}

// stop ends the process in its own way.
func (p *process) stop() error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.ended:
		return p.err
	case <-time.After(patience):
		return errors.Join(errors.New("it does not end"), p.kill())
	}
}

// build builds usageflow.
func build(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "usageflow")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/usageflow/usageflow-go-middleware/cmd/usageflow")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build usageflow: %w\n%s", err, out)
	}
	return program, nil
}

// newWorld starts everything in a folder.
func newWorld(ctx context.Context, dir string, timeout time.Duration, log io.Writer) (w *world, err error) {
	w = &world{ctx: ctx, dir: dir, timeout: timeout, log: log, spool: filepath.Join(dir, "spool")}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.program, err = build(ctx, dir); err != nil {
		return w, err
	}
	if err := os.Mkdir(w.spool, 0o700); err != nil {
		return w, err
	}
	w.tmpfs = mountSmall(w.spool)
	if err := os.WriteFile(filepath.Join(dir, "usageflow.yaml"), fmt.Appendf(nil, serviceConfig, tightLimit), 0o600); err != nil {
		return w, err
	}
	if w.serviceAddr, err = freePort(ctx); err != nil {
		return w, err
	}
	if w.appAddr, err = freePort(ctx); err != nil {
		return w, err
	}
	if w.proxy, err = newProxy(ctx, w.serviceAddr); err != nil {
		return w, err
	}
	if err := w.startService(); err != nil {
		return w, err
	}
	return w, w.startApp()
}

func (w *world) startService() (err error) {
	w.service, err = start(w.ctx, w.log, nil, w.program, "serve", "--listen", w.serviceAddr, "--data", filepath.Join(w.dir, "data"), "--config", filepath.Join(w.dir, "usageflow.yaml"))
	if err != nil {
		return err
	}
	return until(w.ctx, "the service is ready", func() error { return w.get(w.serviceAddr, "/readyz", nil) })
}

func (w *world) startApp() (err error) {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	w.app, err = start(w.ctx, w.log, []string{runAsApp + "=1"}, program,
		"-listen", w.appAddr, "-url", "ws://"+w.proxy.addr+"/ws", "-spool", w.spool, "-lease="+strconv.FormatBool(w.lease), "-timeout", w.timeout.String())
	if err != nil {
		return err
	}
	return until(w.ctx, "the app is ready", func() error { return w.get(w.appAddr, "/ready", nil) })
}

// close ends what is running.
func (w *world) close() error {
	var errs []error
	for _, p := range []*process{w.app, w.service} {
		if p != nil && p.cmd.ProcessState == nil {
			_ = p.signal(syscall.SIGCONT) // it may be stopped
			if err := p.kill(); !errors.Is(err, os.ErrProcessDone) {
				errs = append(errs, err)
			}
		}
	}
	if w.proxy != nil {
		w.proxy.close()
	}
	if w.tmpfs {
		errs = append(errs, unmount(w.spool))
	}
	return errors.Join(errs...)
}

// until tries f until it has no error.
func until(ctx context.Context, what string, f func() error) error {
	deadline := time.After(patience)
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("waited in vain until %s: %w", what, err)
		}
	}
}

var httpClient = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// get reads an answer of JSON into v, unless that is nil.
func (w *world) get(addr, path string, v any) error {
	r, err := http.NewRequestWithContext(w.ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return err
	}
	resp, err := httpClient.Do(r)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", path, resp.Status, text)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(text, v)
}

func (w *world) report(collect bool) (r report, err error) {
	path := "/report"
	if collect {
		path += "?gc=1"
	}
	return r, w.get(w.appAddr, path, &r)
}

// ledger is what the service has of an alias.
type ledger struct {
	Alias string
	Total float64
}

func (w *world) ledgers() (map[string]ledger, error) {
	list := make(map[string]ledger)
	for {
		var page struct {
			Ledgers []ledger
			Total   int
		}
		query := url.Values{"application": {"chaos"}, "sort": {"alias"}, "limit": {"500"}, "offset": {strconv.Itoa(len(list))}}
		if err := w.get(w.serviceAddr, "/api/v1/ledgers?"+query.Encode(), &page); err != nil {
			return nil, err
		}
		for _, l := range page.Ledgers {
			list[l.Alias] = l
		}
		if len(page.Ledgers) == 0 || len(list) >= page.Total {
			return list, nil
		}
	}
}
