package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

// running is a service on a port of its own.
type running struct {
	*service.Service
	addr   string
	ledger service.Ledger
	log    *logtest.Buffer
}

// start runs a service with the example configuration until the test ends. Without a ledger it gets an
// embedded one.
func start(t *testing.T, opts service.Options) *running {
	t.Helper()
	config, err := service.ParseConfig("test.yaml", []byte(example))
	if err != nil {
		t.Fatal(err)
	}
	r := &running{log: &logtest.Buffer{}, ledger: opts.Ledger}
	opts.Logger = slog.New(slog.NewTextHandler(r.log, nil))
	if opts.Config == nil && opts.Documents == nil {
		opts.Config = config
	}
	if r.ledger == nil {
		store, err := sqlite.Open(sqlite.Options{Dir: t.TempDir(), Logger: opts.Logger})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Errorf("close the ledger: %v", err)
			}
		})
		r.ledger = store
	}
	opts.Ledger = r.ledger
	if r.Service, err = service.New(opts); err != nil {
		t.Fatal(err)
	}
	ln, err := r.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- r.Serve(ln) }()
	t.Cleanup(func() {
		r.shutdown(t)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return r
}

func (r *running) shutdown(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := r.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// dial connects an agent.
func (r *running) dial(t *testing.T, key string) *websocket.Conn {
	t.Helper()
	ws, _, err := websocket.DefaultDialer.Dial("ws://"+r.addr+"/ws", http.Header{"x-usage-key": {key}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close() })
	if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return ws
}

// answer is a reply as a client sees it.
type answer struct {
	Type, ID, ReplyTo, Message, Error string
	Payload                           map[string]any
}

func send(t *testing.T, ws *websocket.Conn, message string) {
	t.Helper()
	if err := ws.WriteMessage(websocket.TextMessage, []byte(message)); err != nil {
		t.Fatal(err)
	}
}

func receive(t *testing.T, ws *websocket.Conn) answer {
	t.Helper()
	var a answer
	if err := ws.ReadJSON(&a); err != nil {
		t.Fatal(err)
	}
	return a
}

func ask(t *testing.T, ws *websocket.Conn, message string) answer {
	t.Helper()
	send(t, ws, message)
	return receive(t, ws)
}

func reserveText(id, alias, allocation string, amount float64) string {
	return `{"type":"request_for_allocation","id":"` + id + `","payload":{"alias":"` + alias + `","amount":` + strconv.FormatFloat(amount, 'g', -1, 64) + `,"allocationId":"` + allocation + `"}}`
}

func useText(id, alias, allocation string, amount float64) string {
	return strings.Replace(reserveText(id, alias, allocation, amount), "request_for_allocation", "use_allocation", 1)
}

func TestListen(t *testing.T) {
	r := start(t, service.Options{})
	if _, err := r.Listen(r.addr); !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), r.addr) {
		t.Errorf("a port in use: %v", err)
	}
	for _, addr := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0"} {
		if _, err := r.Listen(addr); !errors.Is(err, service.ErrNotLoopback) || !strings.Contains(err.Error(), service.AdminTokenEnv) {
			t.Errorf("Listen(%q) without a token: %v", addr, err)
		}
	}
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Serve(ln); !errors.Is(err, service.ErrNotLoopback) {
		t.Errorf("Serve on all interfaces without a token: %v", err)
	}
	protected := start(t, service.Options{AdminToken: "secret"})
	if ln, err = protected.Listen(":0"); err != nil {
		t.Fatalf("Listen on all interfaces with a token: %v", err)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}

func TestShutdown(t *testing.T) {
	r := start(t, service.Options{})
	ws, quiet := r.dial(t, "uf_dev_key"), r.dial(t, "uf_dev_key")
	for i := range 100 {
		send(t, ws, reserveText(strconv.Itoa(i), "GET /x", "id-"+strconv.Itoa(i), 1))
	}
	if a := receive(t, ws); a.ReplyTo != "0" {
		t.Fatalf("first reply %+v", a)
	}
	stopped := make(chan struct{})
	go func() {
		r.shutdown(t)
		close(stopped)
	}()
	for _, conn := range []*websocket.Conn{ws, quiet} {
		var err error
		for err == nil {
			_, _, err = conn.ReadMessage()
		}
		if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
			t.Errorf("the connection ended with %v, want 1001", err)
		}
	}
	<-stopped
	if _, err := net.Dial("tcp", r.addr); err == nil {
		t.Error("the service still listens")
	}
	if c := r.ledger.Counters(); c.Reserved != 100 {
		t.Errorf("%d of 100 messages took effect", c.Reserved)
	}
	r.shutdown(t)
	noGoroutines(t, "service.(*conn)", "service.(*outbox)", "service.(*Service)")
}

// TestShutdownCuts has a peer that neither reads nor answers the close frame.
func TestShutdownCuts(t *testing.T) {
	r := start(t, service.Options{})
	r.dial(t, "uf_dev_key")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown whose context is over: %v", err)
	}
	r.shutdown(t)
	noGoroutines(t, "service.(*conn)", "service.(*outbox)")
}

// noGoroutines waits for the goroutines with any of names in their stack to end.
func noGoroutines(t *testing.T, names ...string) {
	t.Helper()
	buf := make([]byte, 1<<20)
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		stacks := string(buf[:runtime.Stack(buf, true)])
		left := ""
		for _, stack := range strings.Split(stacks, "\n\n") {
			for _, name := range names {
				if strings.Contains(stack, name) && !strings.Contains(stack, "Serve(") {
					left = stack
				}
			}
		}
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a goroutine is left:\n%s", left)
		}
	}
}

func get(t *testing.T, url string, header http.Header) (int, http.Header, []byte) {
	t.Helper()
	return request(t, http.MethodGet, url, header)
}

func request(t *testing.T, method, url string, header http.Header) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		if req.Header[name] = values; name == "Host" {
			req.Host = values[0]
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, body
}

func decode[T any](t *testing.T, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return v
}
