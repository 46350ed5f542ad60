//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/pgtest"
)

// agent asks one service at a time, over a socket of its own, and goes to the next where that fails. It is used by one
// goroutine.
type agent struct {
	urls []string
	next int
	ws   *websocket.Conn
}

type agentReply struct {
	Error   string
	Payload struct {
		AllocationID string
		State        string
		Amount       float64
	}
}

// ask sends one message until a service answers it.
func (a *agent) ask(ctx context.Context, kind, alias, id string, amount float64) (agentReply, error) {
	text, err := json.Marshal(map[string]any{"type": kind, "id": id, "payload": map[string]any{"alias": alias, "amount": amount, "allocationId": id}})
	if err != nil {
		return agentReply{}, err
	}
	for ctx.Err() == nil {
		if reply, err := a.try(ctx, text); err == nil {
			return reply, nil
		}
		a.close()
	}
	return agentReply{}, ctx.Err()
}

func (a *agent) try(ctx context.Context, text []byte) (reply agentReply, err error) {
	if a.ws == nil {
		a.next++
		ws, resp, err := websocket.DefaultDialer.DialContext(ctx, a.urls[a.next%len(a.urls)], http.Header{"x-usage-key": {"uf_key_for_tests"}})
		if resp != nil {
			_ = resp.Body.Close()
		}
		if err != nil {
			return reply, errors.Join(err, a.rest(ctx))
		}
		a.ws = ws
	}
	if err := a.ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return reply, err
	}
	if err := a.ws.WriteMessage(websocket.TextMessage, text); err != nil {
		return reply, err
	}
	return reply, a.ws.ReadJSON(&reply)
}

// rest leaves a service that is down alone for a moment.
func (a *agent) rest(ctx context.Context) error {
	timer := time.NewTimer(5 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *agent) close() {
	if a.ws != nil {
		_ = a.ws.Close() // it is of no use any more
		a.ws = nil
	}
}

const loadConfiguration = `
applications:
  - name: acme
    keys: [uf_key_for_tests]
    policies:
      - {method: GET, url: /hot, hasRateLimit: true, limit: %d, window: month}
`

// usedOn asks for what is used of a ledger.
func usedOn(t *testing.T, page, alias string) float64 {
	t.Helper()
	resp, err := http.Get(page + "api/v1/ledger?application=acme&alias=" + strings.ReplaceAll(alias, " ", "%20"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var l struct{ Used, Held float64 }
	if err := json.NewDecoder(resp.Body).Decode(&l); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", alias, resp.Status, err)
	}
	if l.Held != 0 {
		t.Errorf("%s: %v are still held", alias, l.Held)
	}
	return l.Used
}

// load has agents reserve and settle until the limit of the hot ledger is reached and each has asked as often as it
// should. It returns how many reservations of the hot ledger passed, and what was acknowledged for the others.
func load(t *testing.T, urls []string, clients, perClient int, progress *atomic.Int64) (hot int64, others map[string]int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
	defer cancel()
	var admitted atomic.Int64
	var mu sync.Mutex
	others = map[string]int64{}
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			a := &agent{urls: urls, next: client}
			defer a.close()
			for i := range perClient {
				alias, id := "GET /hot", fmt.Sprint(client, "-", i)
				if i%2 == 1 {
					alias = "GET /others/:n " + strconv.Itoa((client*perClient+i)%10_000)
				}
				reply, err := a.ask(ctx, "request_for_allocation", alias, id, 1)
				if err != nil {
					t.Error(err)
					return
				}
				progress.Add(1)
				if reply.Error != "" {
					if alias != "GET /hot" || reply.Error != "rate_limit_exceeded" {
						t.Errorf("%s: %s", alias, reply.Error)
					}
					continue
				}
				if reply, err = a.ask(ctx, "use_allocation", alias, id, 1); err != nil || reply.Error != "" {
					t.Errorf("%s: %+v, %v", alias, reply, err)
					return
				}
				if alias == "GET /hot" {
					admitted.Add(1)
					continue
				}
				mu.Lock()
				others[alias]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return admitted.Load(), others
}

// requestsOf asks how many requests were settled on each ledger.
func requestsOf(t *testing.T, page string) map[string]int64 {
	t.Helper()
	resp, err := http.Get(page + "api/v1/usage?bucket=day&from=0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Usage []struct {
			Group    string
			Requests int64
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, u := range answer.Usage {
		got[u.Group] += u.Requests
	}
	return got
}

func checkSums(t *testing.T, page string, hot, limit int64, others map[string]int64) {
	t.Helper()
	if hot != limit || usedOn(t, page, "GET /hot") != float64(limit) {
		t.Errorf("%d of the hot ledger were admitted and %v are used, want %d", hot, usedOn(t, page, "GET /hot"), limit)
	}
	got := requestsOf(t, page)
	delete(got, "GET /hot")
	if len(got) != len(others) {
		t.Errorf("%d other ledgers were used, %d acknowledged", len(got), len(others))
	}
	for alias, n := range others {
		if got[alias] != n {
			t.Errorf("%s: %d were charged, %d acknowledged", alias, got[alias], n)
		}
	}
}

// Three replicas over one database decide exactly, while one of them is killed and while the database crashes and
// recovers.
func TestReplicas(t *testing.T) {
	cluster := pgtest.Start(t)
	const limit = 3000
	p := newProgram(t, "USAGEFLOW_STORE="+cluster.Database(t))
	p.write("usageflow.yaml", fmt.Sprintf(loadConfiguration, limit))
	var replicas []*server
	var urls []string
	for range 3 {
		s := p.serve("--listen", "127.0.0.1:0")
		replicas, urls = append(replicas, s), append(urls, s.agent)
	}
	var progress atomic.Int64
	const clients, each = 64, 320
	reached := func(n int64) {
		until(func() bool { return progress.Load() >= n || t.Failed() })
	}
	events := make(chan struct{})
	go func() {
		defer close(events)
		reached(clients * each / 4)
		if err := replicas[0].cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		reached(clients * each / 2)
		cluster.Kill(t)
		cluster.Run(t)
	}()
	hot, others := load(t, urls, clients, each, &progress)
	<-events
	checkSums(t, replicas[1].page, hot, limit, others)
	for _, s := range replicas[1:] {
		if err := s.stop(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
}

// untilClosed does work until stop is closed, or work says false.
func untilClosed(stop <-chan struct{}, work func(i int) bool) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if !work(i) {
			return
		}
	}
}

// kills is how often TestKilledUnderLoad kills the service.
func kills() int {
	if testing.Short() || raceEnabled {
		return 5
	}
	return 50
}

// The service is killed again and again under load, and each time the sums are what was acknowledged.
func TestKilledUnderLoad(t *testing.T) {
	p := newProgram(t)
	p.write("usageflow.yaml", fmt.Sprintf(loadConfiguration, 1_000_000))
	s := p.serve("--listen", "127.0.0.1:0")
	listen := strings.TrimSuffix(strings.TrimPrefix(s.page, "http://"), "/")
	var mu sync.Mutex
	acknowledged := map[string]int64{}
	stop := make(chan struct{})
	var progress atomic.Int64
	var wg sync.WaitGroup
	for client := range 16 {
		wg.Go(func() {
			a := &agent{urls: []string{s.agent}}
			defer a.close()
			untilClosed(stop, func(i int) bool {
				alias, id := "GET /others/:n "+strconv.Itoa(i%50), fmt.Sprint(client, "-", i)
				for _, kind := range []string{"request_for_allocation", "use_allocation"} {
					if reply, err := a.ask(t.Context(), kind, alias, id, 1); err != nil || reply.Error != "" {
						t.Errorf("%s: %+v, %v", kind, reply, err)
						return false
					}
				}
				mu.Lock()
				acknowledged[alias]++
				mu.Unlock()
				progress.Add(1)
				return true
			})
		})
	}
	for kill := range kills() {
		want := progress.Load() + 100 + int64(kill%7)*30
		if !until(func() bool { return progress.Load() >= want }) {
			t.Fatalf("kill %d: the agents stand still at %d", kill, progress.Load())
		}
		if err := s.cmd.Process.Signal(os.Signal(syscall.SIGKILL)); err != nil {
			t.Fatal(err)
		}
		<-s.ended
		s = p.serve("--listen", listen)
	}
	close(stop)
	wg.Wait()
	got := requestsOf(t, s.page)
	for alias, n := range acknowledged {
		if got[alias] != n {
			t.Errorf("%s: %d were charged, %d acknowledged", alias, got[alias], n)
		}
	}
}
