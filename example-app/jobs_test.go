package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// startWithWorker runs the program, and waits until its worker takes jobs.
func startWithWorker(t *testing.T) *process {
	t.Helper()
	p := start(t, nil, "-listen", "127.0.0.1:0", "-service", "127.0.0.1:0", "-data", t.TempDir())
	p.waitForWorker()
	return p
}

// try calls attempt until it says true.
func (p *process) try(what string, attempt func() bool) {
	p.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !attempt() {
		select {
		case <-tick.C:
		case <-deadline:
			p.t.Fatalf("waited for %s\n%s", what, p.stderr)
		}
	}
}

// job asks for a picture for a customer; more are names and values of the request's header.
func (p *process) job(user, body string, more ...string) (*http.Response, []byte) {
	p.t.Helper()
	req, err := http.NewRequest("POST", p.api+"/api/jobs", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("X-User", user)
	for i := 0; i < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, answer
}

// waitForWorker asks for the smallest picture until a worker makes one. What was answered before says when to come back.
func (p *process) waitForWorker() {
	p.t.Helper()
	p.try("a worker", func() bool {
		resp, body := p.job("patient", `{"image":"dot","width":4}`)
		if resp.StatusCode == 503 && resp.Header.Get("Retry-After") == "" {
			p.t.Errorf("503 without Retry-After: %s", body)
		}
		return resp.StatusCode == 200
	})
}

var workerLine = regexp.MustCompile(`a worker has started" pid=(\d+)`)

// workers are the processes that have been started, the last one last.
func (p *process) workers() []*os.Process {
	p.t.Helper()
	var found []*os.Process
	for _, m := range workerLine.FindAllStringSubmatch(p.stderr.String(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			p.t.Fatal(err)
		}
		worker, err := os.FindProcess(pid)
		if err != nil {
			p.t.Fatal(err)
		}
		found = append(found, worker)
	}
	return found
}

type event struct {
	Type, Alias, RequestID string
	Amount                 float64
	Status                 int
}

// events waits for the first n events that the query asks for.
func (p *process) events(query string, n int) []event {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", p.admin+"/api/v1/events?"+query, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	var found []event
	for lines := bufio.NewScanner(resp.Body); len(found) < n; {
		if !lines.Scan() {
			p.t.Fatalf("%d events of %d: %v", len(found), n, lines.Err())
		}
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			var e event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				p.t.Fatal(err)
			}
			found = append(found, e)
		}
	}
	return found
}

// A job goes through the broker to a worker and back, and is charged at both ends: to the same customer, as one request.
func TestJob(t *testing.T) {
	p := startWithWorker(t)
	inOneMinute() // what is used is that of the minute
	resp, body := p.job("acme", `{"image":"sunset","width":200}`, "Idempotency-Key", "sunset-200", "Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "image/png" {
		t.Fatalf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	picture, err := png.Decode(bytes.NewReader(body))
	if err != nil || picture.Bounds().Dx() != 200 || picture.Bounds().Dy() != 150 {
		t.Fatalf("the picture: %v, %v", picture, err)
	}
	// The same job again is charged once where it is done, and as a request of its own at the gateway.
	if again, same := p.job("acme", `{"image":"sunset","width":200}`, "Idempotency-Key", "sunset-200"); again.StatusCode != 200 || !bytes.Equal(same, body) {
		t.Errorf("again: %d, %d bytes", again.StatusCode, len(same))
	}
	p.try("both ledgers", func() bool {
		l := p.ledgers()
		gateway, job := l["POST /api/jobs acme"], l["JOB resize acme"]
		return gateway.Used == 2 && gateway.Held == 0 && gateway.Limit == nil && job.Used == 30 && job.Held == 0 && job.Limit != nil && *job.Limit == 100
	})
	first := p.events("type=settled&q=JOB+resize+acme", 1)[0]
	if _, err := uuid.Parse(first.RequestID); err != nil || first.Amount != 30 {
		t.Fatalf("the job's event: %+v, %v", first, err)
	}
	both := map[string]float64{}
	for _, e := range p.events("type=settled&request="+first.RequestID, 2) {
		both[e.Alias] = e.Amount
		if e.RequestID != first.RequestID {
			t.Errorf("%+v is of another request than %+v", e, first)
		}
	}
	if len(both) != 2 || both["POST /api/jobs acme"] != 1 || both["JOB resize acme"] != 30 {
		t.Errorf("the request's events: %v", both)
	}
	for _, bad := range []string{"", "{", `{"width":200}`, `{"image":"x","width":3}`, `{"image":"x","width":641}`, `{"image":"` + strings.Repeat("x", maxJobBytes) + `","width":4}`} {
		if resp, body := p.job("other", bad); resp.StatusCode != 400 || !strings.Contains(string(body), `"error":"bad_job"`) {
			t.Errorf("%.40s: %d %s", bad, resp.StatusCode, body)
		}
	}
	if resp, _ := p.job("other", `{"image":"x","width":4}`, "Idempotency-Key", strings.Repeat("x", maxMetadataBytes+1)); resp.StatusCode != 400 {
		t.Errorf("a long key: %d", resp.StatusCode)
	}
	p.terminate()
}

// The denial of a job is the answer to the request that it is for, which then costs nothing; others go on.
func TestJobDenied(t *testing.T) {
	p := startWithWorker(t)
	const large = `{"image":"sunset","width":400}` // 120 of 100 in a minute: the next one is denied, whatever the clock says but once
	p.try("a denial", func() bool {
		resp, body := p.job("acme", large)
		switch resp.StatusCode {
		case 200:
			return false
		case 429:
		default:
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		if resp.Header.Get("Retry-After") == "" || !strings.Contains(resp.Header.Get("RateLimit-Policy"), `"JOB resize";q=100;w=60`) || !strings.Contains(string(body), `"error":"rate_limit_exceeded"`) {
			t.Errorf("denied: %v %s", resp.Header, body)
		}
		return true
	})
	if e := p.events("type=voided&q=POST+/api/jobs+acme", 1)[0]; e.Status != 429 || e.Amount != 0 {
		t.Errorf("the request's event: %+v", e)
	}
	if resp, body := p.job("other", large); resp.StatusCode != 200 {
		t.Errorf("another customer's: %d %s", resp.StatusCode, body)
	}
	p.terminate()
}

// A worker that is killed is replaced, and one that is there ends with the program.
func TestWorkerDies(t *testing.T) {
	p := startWithWorker(t)
	for range 2 {
		all := p.workers()
		if err := all[len(all)-1].Kill(); err != nil {
			t.Fatal(err)
		}
		p.try("another worker", func() bool { return len(p.workers()) > len(all) })
		p.waitForWorker()
	}
	all := p.workers()
	if len(all) != 3 {
		t.Errorf("%d workers were started, want 3\n%s", len(all), p.stderr)
	}
	p.terminate()
	for _, worker := range all {
		if err := worker.Signal(syscall.Signal(0)); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("worker %d is still there: %v", worker.Pid, err)
		}
	}
}

// When the program is killed, its worker sees its stdin end, and ends.
func TestWorkerOutlivesNobody(t *testing.T) {
	p := startWithWorker(t)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-p.ended: // comes when nobody has the program's stderr any more
		p.ended <- err
	case <-time.After(patience):
		_ = p.workers()[0].Kill()
		t.Fatalf("the worker did not end\n%s", p.stderr)
	}
}

// What a job may end with, as an answer.
func TestJobFailures(t *testing.T) {
	gin.SetMode(gin.TestMode)
	denial := &socket.RemoteError{Message: `usageflow denial: {"Status":429,"Code":"rate_limit_exceeded","Message":"no","Header":{"Retry-After":["7"]}}`}
	for _, tc := range []struct {
		err        error
		status     int
		code       string
		retryAfter string
	}{
		{denial, 429, "rate_limit_exceeded", "7"},
		{socket.ErrNoProvider, 503, "no_worker", "1"},
		{fmt.Errorf("%w: full", socket.ErrBusy), 503, "no_worker", "1"},
		{socket.ErrDraining, 503, "no_worker", "1"},
		{socket.ErrTimeout, 504, "job_timeout", ""},
		{context.DeadlineExceeded, 504, "job_timeout", ""},
		{socket.ErrProviderLost, 502, "job_failed", ""},
		{&socket.RemoteError{Message: "the handler panicked"}, 502, "job_failed", ""},
	} {
		w := httptest.NewRecorder()
		c, _ := gin.CreateTestContext(w)
		c.Request = httptest.NewRequest("POST", "/api/jobs", nil)
		jobFailed(c, tc.err)
		if w.Code != tc.status || w.Header().Get("Retry-After") != tc.retryAfter || !strings.Contains(w.Body.String(), `"error":"`+tc.code+`"`) {
			t.Errorf("%v: %d %v %s", tc.err, w.Code, w.Header(), w.Body)
		}
	}
}

// An answer that breaks off does not look whole.
func TestJobBreaksOff(t *testing.T) {
	gin.SetMode(gin.TestMode)
	r := gin.New()
	r.POST("/", func(c *gin.Context) {
		c.Status(http.StatusOK)
		_, _ = c.Writer.WriteString("half a")
		c.Writer.Flush()
		jobFailed(c, socket.ErrProviderLost)
	})
	server := httptest.NewServer(r)
	defer server.Close()
	resp, err := http.Post(server.URL, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("the answer %q looks whole", body)
	}
}
