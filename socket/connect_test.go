package socket_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func containsAll(s string, parts ...string) bool {
	for _, part := range parts {
		if !strings.Contains(s, part) {
			return false
		}
	}
	return true
}

func TestNewManagerNeitherDialsNorBlocks(t *testing.T) {
	srv := sockettest.New(t)
	d := dialCounter{dial: srv.Dial}
	goroutines := runtime.NumGoroutine()
	m := newManager(t, srv, socket.ManagerConfig{Dial: d.Dial})
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("NewManager started %d goroutines", got-goroutines)
	}
	if m.IsConnected() {
		t.Error("connected before Connect")
	}
	if got := len(m.Status()); got != 10 {
		t.Errorf("%d slots, want 10 by default", got)
	}
	if got := d.dials.Load(); got != 0 {
		t.Errorf("%d dials before Connect", got)
	}
	connect(t, m)
	if got := srv.Conns(); got != 10 {
		t.Errorf("%d connections, want 10", got)
	}
}

func TestTheFirstMessageConnects(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2})
	if _, err := m.SendAsync(reservation()); err != nil {
		t.Errorf("SendAsync: %v", err)
	}
}

func TestConstructorStartsConnecting(t *testing.T) {
	srv := sockettest.New(t)
	t.Setenv(socket.EnvURL, srv.URL)
	m := socket.NewUsageFlowSocketManager(testKey)
	defer m.Close()
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Conns() == 10 })
	for _, h := range srv.HandshakeHeaders() {
		if got := h.Get("x-usage-key"); got != testKey {
			t.Errorf("x-usage-key: %q, want the key", got)
		}
	}

	small := socket.NewUsageFlowSocketManager(testKey, 3)
	defer small.Close()
	if got := len(small.Status()); got != 3 {
		t.Errorf("%d slots, want 3", got)
	}
}

func TestConfiguredURLWinsOverTheEnvironment(t *testing.T) {
	srv := sockettest.New(t)
	t.Setenv(socket.EnvURL, "ws://127.0.0.1:1/wrong")
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
	connect(t, m)
}

func TestURLDefaults(t *testing.T) {
	for _, tc := range []struct{ env, want string }{
		{"", "localhost:9000"},
		{"wss://api.example.com/ws", "api.example.com:443"},
		{"ws://[::1]:7/ws", "[::1]:7"},
	} {
		t.Setenv(socket.EnvURL, tc.env)
		addrs := make(chan string, 100) // it may dial again
		m := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			addrs <- addr
			return nil, errors.New("no")
		}})
		if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) {
			t.Errorf("Connect = %v, want ErrNotConnected", err)
		}
		if got := <-addrs; got != tc.want {
			t.Errorf("%s=%q: dialled %s, want %s", socket.EnvURL, tc.env, got, tc.want)
		}
	}
}

func TestConfigErrors(t *testing.T) {
	t.Setenv(socket.EnvURL, "")
	for name, cfg := range map[string]socket.ManagerConfig{
		"no key":            {},
		"key with newline":  {APIKey: "secret\r\nx"},
		"http":              {APIKey: "secret", URL: "http://localhost/ws"},
		"no host":           {APIKey: "secret", URL: "ws:///secret"},
		"not a URL":         {APIKey: "secret", URL: "ws://secret:1:2/%zz"},
		"user and password": {APIKey: "secret", URL: "ws://user:secret@localhost/ws"},
		"small read limit":  {APIKey: "secret", ReadLimit: 1},
		"large read limit":  {APIKey: "secret", ReadLimit: 1 << 30},
	} {
		m, err := socket.NewManager(cfg)
		if err == nil || m != nil {
			t.Errorf("%s: NewManager = %v, %v, want an error", name, m, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error holds a secret: %v", name, err)
		}
	}
}

// The constructor that returns no error gives it with every call.
func TestConstructorWithAnUnusableKey(t *testing.T) {
	m := socket.NewUsageFlowSocketManager("")
	if err := m.Connect(); err == nil {
		t.Error("Connect: no error")
	}
	if _, err := m.SendAsync(reservation()); err == nil {
		t.Error("SendAsync: no error")
	}
	if err := m.Send(reservation()); err == nil {
		t.Error("Send: no error")
	}
	if m.IsConnected() || len(m.Status()) != 0 {
		t.Error("it has connections")
	}
	if err := m.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if _, err := m.SendAsync(reservation()); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("SendAsync after Close = %v, want ErrClosed", err)
	}
}

func TestSilentEndpointDoesNotBlockTheConstructor(t *testing.T) {
	srv := sockettest.New(t)
	srv.SilentHandshake()
	t.Setenv(socket.EnvURL, srv.URL)
	began := time.Now()
	m := socket.NewUsageFlowSocketManager(testKey)
	if took := time.Since(began); took > 100*time.Millisecond {
		t.Errorf("the constructor took %s", took)
	}
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Handshakes() == 10 })
	if m.IsConnected() {
		t.Error("connected to a silent endpoint")
	}
	began = time.Now()
	if err := m.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("Close during the handshakes took %s", took)
	}
}

func TestSendAsyncWaitsForTheFirstRound(t *testing.T) {
	srv := sockettest.New(t)
	release := make(chan struct{})
	dialling := make(chan struct{}, 2)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, RequestTimeout: time.Minute, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialling <- struct{}{}
		<-release
		return srv.Dial(ctx, network, addr)
	}})
	result := goCall(t.Context(), m, reservation())
	<-dialling
	close(release)
	if got := <-result; got.err != nil {
		t.Errorf("a call during the first round: %v", got.err)
	}
}

func TestSendAsyncDuringTheFirstRoundKeepsItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.SilentHandshake()
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
		began := time.Now()
		_, err := m.SendAsync(reservation())
		if took := time.Since(began); !errors.Is(err, socket.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || took != 2*time.Second {
			t.Errorf("SendAsync = %v after %s, want ErrTimeout after 2 s", err, took)
		}
		began = time.Now()
		err = m.Send(reservation())
		if took := time.Since(began); !errors.Is(err, socket.ErrTimeout) || took != 2*time.Second {
			t.Errorf("Send = %v after %s, want ErrTimeout after 2 s", err, took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := goCall(ctx, m, reservation())
		synctest.Wait()
		cancel()
		if got := <-result; !errors.Is(got.err, context.Canceled) || got.took > 0 {
			t.Errorf("Call = %v after %s, want context.Canceled at once", got.err, got.took)
		}
	})
}

func TestSendAsyncFailsAtOnceAfterTheFirstRound(t *testing.T) {
	srv := sockettest.New(t)
	srv.RejectHandshake(http.StatusInternalServerError, nil)
	m := newManager(t, srv, socket.ManagerConfig{})
	if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) {
		t.Fatalf("Connect = %v, want ErrNotConnected", err)
	}
	const rounds, calls = 10, 100
	fastest := time.Hour // of the rounds, for other processes may hold up some
	for range rounds {
		began := time.Now()
		for range calls {
			_, err := m.SendAsync(reservation())
			if !errors.Is(err, socket.ErrNotConnected) {
				t.Fatalf("SendAsync = %v, want ErrNotConnected", err)
			}
			isNotATimeout(t, err)
		}
		fastest = min(fastest, time.Since(began)/calls)
	}
	if fastest > 200*time.Microsecond {
		t.Errorf("a failing call took %s, want microseconds", fastest)
	}
}

// Nothing connected says nothing of a timeout, even where the reason is one.
func TestHandshakeTimeoutIsNotACallsTimeout(t *testing.T) {
	m := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, URL: "ws://service.invalid/ws", Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, context.DeadlineExceeded
	}})
	err := m.Connect()
	if !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("Connect = %v, want ErrNotConnected", err)
	}
	isNotATimeout(t, err)
}

// However fast a try fails, Connect makes one for each slot.
func TestConnectTriesEachSlotOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 200 {
			d := dialCounter{dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no") }}
			m := newManager(t, nil, socket.ManagerConfig{PoolSize: 5, URL: "ws://service.invalid/ws", Dial: d.Dial})
			if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) {
				t.Errorf("Connect = %v, want ErrNotConnected", err)
			}
			if got := d.dials.Load(); got != 5 {
				t.Fatalf("%d dials, want one for each of 5 slots", got)
			}
			_ = m.Close()
		}
	})
}

func TestConnectIsSafeForConcurrentUse(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 4})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 25 {
				if i%5 == 0 {
					srv.DropAll()
				}
				if err := m.Connect(); err != nil && !errors.Is(err, socket.ErrNotConnected) {
					t.Errorf("Connect: %v", err)
				}
			}
		})
	}
	wg.Wait()
	connect(t, m)
}

func TestGarbageHandshakeIsBounded(t *testing.T) {
	sent := make(chan int, 1)
	url := listener(t, func(c net.Conn) {
		n, _ := io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nX-Endless: ")
		chunk := []byte(strings.Repeat("x", 4096))
		for n < 64<<20 {
			k, err := c.Write(chunk)
			n += k
			if err != nil {
				break
			}
		}
		sent <- n
	})
	m := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, URL: url})
	if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("Connect = %v, want ErrNotConnected", err)
	}
	if got := <-sent; got >= 64<<20 {
		t.Errorf("the client took %d bytes of a handshake", got)
	}
}

func TestUnofferedExtensionIsRefused(t *testing.T) {
	header := http.Header{"Sec-WebSocket-Extensions": {"permessage-deflate; server_no_context_takeover; client_no_context_takeover"}}
	url := rawHandshake(t, header, func(ws *websocket.Conn) { _, _, _ = ws.ReadMessage() })
	m := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, URL: url})
	if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) || !strings.Contains(err.Error(), "extension") {
		t.Errorf("Connect = %v, want an error that names the extension", err)
	}
}

func TestTLS(t *testing.T) {
	var upgrader websocket.Upgrader
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for {
			var m socket.UsageFlowSocketMessage
			if err := ws.ReadJSON(&m); err != nil {
				return
			}
			if err := ws.WriteJSON(map[string]any{"replyTo": m.ID, "type": m.Type}); err != nil {
				return
			}
		}
	}))
	defer srv.Close()
	url := "wss" + strings.TrimPrefix(srv.URL, "https") + "/ws"
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())

	m := newManager(t, nil, socket.ManagerConfig{PoolSize: 2, URL: url, TLS: &tls.Config{RootCAs: roots}})
	connect(t, m)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				p := reservation()
				p.Payload = strings.Repeat("x", 3000)
				if _, err := m.SendAsync(p); err != nil {
					t.Errorf("SendAsync: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()

	stranger := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, URL: url})
	if err := stranger.Connect(); !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("Connect to an unknown authority = %v, want ErrNotConnected", err)
	}
}

func TestTheKeyIsNeverLogged(t *testing.T) {
	srv := sockettest.New(t)
	var log logtest.Buffer
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, URL: srv.URL + "?token=" + testKey, Logger: debugLogger(&log)})
	connect(t, m)
	srv.DropAll()
	eventually(t, "the drop is seen", func() bool { return log.Count("disconnected") > 0 })
	srv.RejectHandshake(http.StatusUnauthorized, nil)
	err := m.Connect()
	if !errors.Is(err, socket.ErrUnauthorized) {
		t.Errorf("Connect = %v, want ErrUnauthorized", err)
	}
	if text := log.String() + err.Error(); strings.Contains(text, testKey) {
		t.Errorf("the key was logged: %s", text)
	}
	if !containsAll(log.String(), "connected", srv.URL) {
		t.Errorf("state changes are not in the log: %s", log.String())
	}
}
