package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

const doctorSummary = `doctor connects to the service as an application does, and says in plain words what is wrong: the URL, the key, the clock, how long an answer takes.
With --stats, it looks at the counts of running processes (core.Flow.StatsHandler), and compares them with what the service has charged.
` + core.EnvAPIKey + ` in the environment is the application's key, ` + service.AdminTokenEnv + ` the service's token, where it has one.`

const (
	doctorTimeout = 10 * time.Second
	// doctorCalls is how many round trips are timed.
	doctorCalls = 50
	// slowAnswer is a round trip that limited requests feel.
	slowAnswer = 50 * time.Millisecond
	// clockSlack is what clocks may differ by: the service tells its own in whole seconds.
	clockSlack = 2 * time.Second
)

// errSick is the error of a doctor that has found something; it has been printed.
var errSick = errors.New("something is wrong")

// findings prints what the doctor finds.
type findings struct {
	out   io.Writer
	wrong int
}

func (f *findings) ok(format string, args ...any) {
	_, _ = fmt.Fprintf(f.out, "ok     "+format+"\n", args...)
}

func (f *findings) warn(format string, args ...any) {
	_, _ = fmt.Fprintf(f.out, "warn   "+format+"\n", args...)
}

func (f *findings) fail(format string, args ...any) {
	f.wrong++
	_, _ = fmt.Fprintf(f.out, "WRONG  "+format+"\n", args...)
}

// texts is a flag that may be given several times.
type texts []string

func (t *texts) String() string     { return strings.Join(*t, ",") }
func (t *texts) Set(s string) error { *t = append(*t, s); return nil }

// doctor is the command.
func doctor(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("doctor", stderr)
	target := flags.String("url", "ws://localhost:9000/ws", "`URL` of the service, as applications have it")
	api := flags.String("admin-url", "", "`URL` of the service's HTTP API, where that of --url does not lead to it")
	application := flags.String("application", "", "`name` of the application at the service, where that has several")
	watch := flags.Duration("for", 5*time.Second, "how long counts are compared")
	spool := flags.String("spool", "", "SpoolDir of a process: say what is in that `folder`")
	var stats texts
	flags.Var(&stats, "stats", "`URL` of a process's counts; once for each process of the application")
	if err := parse(flags, args, doctorSummary, stdout); err != nil {
		return err
	}
	if err := fromEnvironment(flags); err != nil {
		return err
	}
	f := &findings{out: stdout}
	if f.connection(ctx, *target, os.Getenv(core.EnvAPIKey)) {
		f.answers(ctx, *target, os.Getenv(core.EnvAPIKey))
	}
	if *spool != "" {
		f.spool(*spool)
	}
	if len(stats) > 0 {
		base := *api
		if base == "" {
			base = httpURL(*target)
		}
		c := &comparison{findings: f, api: base, application: *application, stats: stats}
		c.run(ctx, *watch)
	}
	if f.wrong > 0 {
		return errSick
	}
	return nil
}

// connection opens one WebSocket, and then looks at the clock.
func (f *findings) connection(ctx context.Context, target, key string) bool {
	u, err := url.Parse(target)
	switch {
	case err != nil || u.Host == "":
		f.fail("--url is no URL; one looks like ws://localhost:9000/ws")
		return false
	case u.Scheme != "ws" && u.Scheme != "wss":
		f.fail("--url %s does not begin with ws:// or wss://", u.Redacted())
		return false
	case key == "":
		f.fail("there is no key: set %s to the application's", core.EnvAPIKey)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, doctorTimeout)
	defer cancel()
	start := time.Now()
	ws, resp, err := websocket.DefaultDialer.DialContext(ctx, target, http.Header{"X-Usage-Key": {key}}) //nolint:bodyclose // the library has read it
	took := time.Since(start)
	if err != nil {
		f.fail("%s", explainDial(err, resp, u))
		return false
	}
	_ = ws.Close() // it has served
	f.ok("the service at %s takes the key (connected in %v)", u.Redacted(), took.Round(time.Millisecond/10))
	f.clock(ctx, target)
	return true
}

// explainDial says why there is no connection, and what to do.
func explainDial(err error, resp *http.Response, u *url.URL) string {
	var unknownHost *net.DNSError
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	switch {
	case resp != nil && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden):
		return fmt.Sprintf("the service does not know the key (%s): is %s the application's, and is it not revoked?", resp.Status, core.EnvAPIKey)
	case resp != nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable):
		return fmt.Sprintf("the service takes no connection at the moment (%s, Retry-After %q)", resp.Status, resp.Header.Get("Retry-After"))
	case resp != nil && resp.StatusCode == http.StatusBadRequest && u.Scheme == "ws":
		return fmt.Sprintf("%s answers %s: does it want wss://?", u.Host, resp.Status)
	case resp != nil:
		return fmt.Sprintf("%s answers %s, and not as a UsageFlow service: its URLs end in /ws", u.Redacted(), resp.Status)
	case errors.As(err, &unknownHost):
		return fmt.Sprintf("there is no host %s", u.Hostname())
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("nobody listens at %s: is the service running, and the port right?", u.Host)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("%s does not answer within %v: is a firewall between?", u.Host, doctorTimeout)
	case errors.As(err, &authority), errors.As(err, &certificate):
		return fmt.Sprintf("the service's certificate is not trusted: %v. SSL_CERT_FILE in the environment names the file of an authority of your own", err)
	}
	return fmt.Sprintf("there is no connection to %s: %v", u.Host, err)
}

// clock compares this machine's clock with the service's, which every HTTP answer tells.
func (f *findings) clock(ctx context.Context, target string) {
	start := time.Now()
	theirs, err := dateOf(ctx, httpURL(target)+"/healthz")
	if err != nil {
		f.warn("the service does not tell its clock: %v", err)
		return
	}
	now := start.Add(time.Since(start) / 2)
	off := now.Sub(theirs.Add(500 * time.Millisecond)).Round(time.Second)
	if off.Abs() > clockSlack {
		f.fail("this machine's clock is %v off the service's: callers are told wrong times of a limit's reset. Windows go by the service's", off)
		return
	}
	f.ok("the clocks agree, to a second or two")
}

// dateOf is the time at which a server answered, by its own clock.
func dateOf(ctx context.Context, target string) (time.Time, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return time.Time{}, err
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return time.Time{}, err
	}
	if err := resp.Body.Close(); err != nil {
		return time.Time{}, err
	}
	return http.ParseTime(resp.Header.Get("Date"))
}

// answers asks for what applications ask for, and times that.
func (f *findings) answers(ctx context.Context, target, key string) {
	pool, err := socket.NewManager(socket.ManagerConfig{APIKey: key, URL: target, PoolSize: 1, Logger: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = pool.Connect()
	}
	if err != nil {
		f.fail("the pool does not connect: %v", err)
		return
	}
	defer func() { _ = pool.Close() }()
	var took []time.Duration
	var last *socket.UsageFlowSocketResponse
	for range doctorCalls {
		start := time.Now()
		if last, err = pool.Call(ctx, &socket.UsageFlowSocketMessage{Type: socket.TypeGetPolicies}); err != nil {
			f.fail("the service does not answer: %v", err)
			return
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	typical, longest := took[len(took)/2], took[len(took)-1]
	if typical > slowAnswer {
		f.warn("an answer takes %v (the longest of %d: %v): each request of a limited route waits that long; Config.Lease spares most of them that", typical.Round(time.Millisecond), doctorCalls, longest.Round(time.Millisecond))
	} else {
		f.ok("an answer takes %v (the longest of %d: %v)", typical.Round(time.Microsecond), doctorCalls, longest.Round(time.Microsecond))
	}
	payload, _ := last.Payload.(map[string]any)
	policies, _ := payload["policies"].([]any)
	switch {
	case last.Refused() || payload == nil:
		f.fail("the service refuses to tell the application's policies: %s %s", last.Error, last.Message)
	case payload["accountReachLimit"] == true:
		f.fail("the application has reached its plan's limit: nothing is metered or limited until that is reset")
	case len(policies) == 0:
		f.warn("the application has no policies: requests are metered, for nobody in particular, and none is limited")
	default:
		f.ok("the application has %d policies", len(policies))
	}
}
