package socket_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

const testKey = "uf_test_key_5e3a"

// newManager makes a pool that is closed when the test ends. Fields that the test does not set are those
// of a quiet pool that talks to srv (nil: to cfg.URL).
func newManager(t testing.TB, srv *sockettest.Server, cfg socket.ManagerConfig) *socket.UsageFlowSocketManager {
	t.Helper()
	if cfg.APIKey == "" {
		cfg.APIKey = testKey
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if srv != nil {
		if cfg.URL == "" {
			cfg.URL = srv.URL
		}
		if cfg.Dial == nil {
			cfg.Dial = srv.Dial
		}
	}
	m, err := socket.NewManager(cfg)
	if err != nil {
		t.Fatalf("NewManager: %v", err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return m
}

// connect connects all slots of m.
func connect(t testing.TB, m *socket.UsageFlowSocketManager) {
	t.Helper()
	if err := m.Connect(); err != nil {
		t.Fatalf("Connect: %v", err)
	}
}

// reservation is a message that the fake service answers.
func reservation() *socket.UsageFlowSocketMessage {
	return &socket.UsageFlowSocketMessage{
		Type:    socket.TypeRequestForAllocation,
		Payload: &socket.RequestForAllocation{Alias: "GET /api/users/:id acme", Amount: 1},
	}
}

// outcome is what a call returned.
type outcome struct {
	resp *socket.UsageFlowSocketResponse
	err  error
	took time.Duration
}

// goCall calls in a goroutine of its own.
func goCall(ctx context.Context, m socket.Transport, p *socket.UsageFlowSocketMessage) <-chan outcome {
	result := make(chan outcome, 1)
	go func() {
		began := time.Now()
		resp, err := m.Call(ctx, p)
		result <- outcome{resp, err, time.Since(began)}
	}()
	return result
}

// eventually waits until cond holds, for what has no event to wait for.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
	}
}

// waitFor waits until the server's record satisfies cond.
func waitFor(t testing.TB, srv *sockettest.Server, cond func(*sockettest.Record) bool) {
	t.Helper()
	if err := srv.WaitFor(t.Context(), cond); err != nil {
		t.Fatal(err)
	}
}

// debugLogger writes all that is logged.
func debugLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// dialCounter counts the network connections that are opened through it.
type dialCounter struct {
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	dials atomic.Int32
}

func (d *dialCounter) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.dials.Add(1)
	return d.dial(ctx, network, addr)
}

// rawService is a service whose connections the test serves frame by frame. It returns its ws:// URL.
func rawService(t testing.TB, serve func(ws *websocket.Conn)) string {
	t.Helper()
	return rawHandshake(t, nil, serve)
}

// rawHandshake is rawService with extra headers in the answer to the handshake.
func rawHandshake(t testing.TB, header http.Header, serve func(ws *websocket.Conn)) string {
	t.Helper()
	var upgrader websocket.Upgrader
	var running sync.WaitGroup
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		running.Add(1) // before the upgrade: httptest waits for what comes before it
		defer running.Done()
		ws, err := upgrader.Upgrade(w, r, header)
		if err != nil {
			return
		}
		defer ws.Close()
		serve(ws)
	}))
	t.Cleanup(func() { srv.Close(); running.Wait() })
	return "ws" + strings.TrimPrefix(srv.URL, "http") + "/ws"
}

// listener is a TCP endpoint whose connections are given to serve, and closed after it.
func listener(t testing.TB, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); running.Wait() })
	return "ws://" + l.Addr().String() + "/ws"
}

// isNotATimeout fails the test if err is nil or looks like a timeout to a caller.
func isNotATimeout(t testing.TB, err error) {
	t.Helper()
	var netErr net.Error
	if err == nil || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, socket.ErrTimeout) || (errors.As(err, &netErr) && netErr.Timeout()) {
		t.Errorf("got %v, want an error that is not a timeout", err)
	}
}
