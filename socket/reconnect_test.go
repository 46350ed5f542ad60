package socket_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// The longest backoff, and the time that a handshake and its timers may add to it.
const longestBackoff = 60*time.Second + time.Second

// after lets the bubble's clock pass.
func after(d time.Duration) { <-time.After(d) }

func TestIdlePastAPingThenSteadyTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2})
		connect(t, m)
		after(45 * time.Second) // past a ping, whose write deadline is over by now
		if got := srv.Pings(); got != 2 {
			t.Errorf("after 45 s: %d pings, want one for each connection", got)
		}
		for range 300 { // 15 s, longer than the write wait
			if _, err := m.SendAsync(reservation()); err != nil {
				t.Fatalf("SendAsync: %v", err)
			}
			after(50 * time.Millisecond)
		}
		if got := srv.Handshakes(); got != 2 {
			t.Errorf("%d handshakes, want the 2 of the start", got)
		}
	})
}

func TestIdleConnectionsStayUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
		connect(t, m)
		after(time.Hour)
		if got := srv.Handshakes(); got != 3 {
			t.Errorf("%d handshakes after an idle hour, want 3", got)
		}
		if _, err := m.SendAsync(reservation()); err != nil {
			t.Errorf("SendAsync: %v", err)
		}
	})
}

func TestPeerWithoutPongsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.IgnorePings(true)
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
		connect(t, m)
		after(61 * time.Second)
		synctest.Wait()
		if m.IsConnected() {
			t.Error("still connected after 61 s without a sign of life")
		}
		srv.IgnorePings(false)
		after(6 * time.Second)
		synctest.Wait()
		if !m.IsConnected() {
			t.Error("not connected again")
		}
	})
}

func TestHealsAfterALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		d := dialCounter{dial: srv.Dial}
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 10, Dial: d.Dial})
		connect(t, m)
		srv.Stop()
		after(10 * time.Minute)
		if m.IsConnected() {
			t.Fatal("connected to a service that is down")
		}
		// The fastest that a slot may try: rounds of six tries, half a rest apart on average.
		if got := d.dials.Load() - 10; got > 10*60 {
			t.Errorf("%d dials in 10 minutes of outage: that is hot", got)
		}
		if err := srv.Start(); err != nil {
			t.Fatal(err)
		}
		after(longestBackoff)
		synctest.Wait()
		if got := srv.Conns(); got != 10 {
			t.Errorf("%d connections after the longest backoff, want 10", got)
		}
		if _, err := m.SendAsync(reservation()); err != nil {
			t.Errorf("SendAsync: %v", err)
		}
	})
}

func TestServiceThatIsDownAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.Stop()
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
		if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) {
			t.Errorf("Connect = %v, want ErrNotConnected", err)
		}
		after(25 * time.Minute)
		if err := srv.Start(); err != nil {
			t.Fatal(err)
		}
		after(longestBackoff)
		synctest.Wait()
		if got := srv.Conns(); got != 3 {
			t.Errorf("%d connections, want 3", got)
		}
	})
}

func TestCloseFrameIsEchoedAndDialledOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 4})
		connect(t, m)
		srv.CloseAll(websocket.CloseServiceRestart, "restart")
		synctest.Wait()
		frames := srv.CloseFrames()
		if len(frames) != 4 {
			t.Fatalf("%d close frames, want 4: %v", len(frames), frames)
		}
		for _, f := range frames {
			if f.Code != websocket.CloseServiceRestart {
				t.Errorf("echoed close code %d, want 1012", f.Code)
			}
		}
		if m.IsConnected() {
			t.Error("connected after the close frames")
		}
		for _, s := range m.Status() {
			var closed *websocket.CloseError
			if !errors.As(s.Err, &closed) || closed.Code != websocket.CloseServiceRestart {
				t.Errorf("Status.Err = %v, want the close error 1012", s.Err)
			}
		}
		after(10 * time.Minute)
		if got := srv.Handshakes(); got != 8 {
			t.Errorf("%d handshakes, want 4 and one more for each slot", got)
		}
		if got := srv.Conns(); got != 4 {
			t.Errorf("%d connections, want 4", got)
		}
	})
}

func TestAcceptThenCloseIsNotDialledHot(t *testing.T) {
	for name, reply := range map[string]func(*sockettest.Server){
		"close frame": func(srv *sockettest.Server) { srv.CloseAll(websocket.CloseTryAgainLater, "") },
		"drop":        func(srv *sockettest.Server) { srv.DropAll() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sockettest.New(t, sockettest.WithInMemory())
				m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
				_ = m.Connect()
				for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); {
					synctest.Wait()
					reply(srv)
					after(50 * time.Millisecond)
				}
				if got := srv.Handshakes(); got < 5 || got > 60 {
					t.Errorf("%d handshakes in 5 minutes, want a few", got)
				}
			})
		})
	}
}

func TestUnauthorizedIsSurfacedAndNotHot(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		t.Run(strconv.Itoa(status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sockettest.New(t, sockettest.WithInMemory())
				srv.RejectHandshake(status, nil)
				var log logtest.Buffer
				m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3, Logger: debugLogger(&log)})
				if err := m.Connect(); !errors.Is(err, socket.ErrUnauthorized) || !errors.Is(err, socket.ErrNotConnected) {
					t.Errorf("Connect = %v, want ErrUnauthorized", err)
				}
				for range 1000 { // nor do calls heat it
					if _, err := m.SendAsync(reservation()); !errors.Is(err, socket.ErrUnauthorized) || !errors.Is(err, socket.ErrNotConnected) {
						t.Fatalf("SendAsync = %v, want ErrUnauthorized", err)
					}
				}
				for i, s := range m.Status() {
					if s.Connected || !errors.Is(s.Err, socket.ErrUnauthorized) {
						t.Errorf("Status[%d] = %+v, want ErrUnauthorized", i, s)
					}
				}
				after(25 * time.Second)
				if got := srv.Handshakes(); got != 3 {
					t.Errorf("%d handshakes within 25 s, want one for each slot", got)
				}
				if !containsAll(log.String(), "level=WARN", "unauthorized") {
					t.Errorf("the refusal is not in the log: %s", log.String())
				}
				srv.AcceptHandshake()
				after(longestBackoff)
				synctest.Wait()
				if got := srv.Conns(); got != 3 {
					t.Errorf("%d connections once the key is good, want 3", got)
				}
			})
		})
	}
}

func TestSomeSlotsUnauthorizedIsNotErrUnauthorized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.HandleHandshake(func(n int, _ *http.Request) sockettest.Handshake {
			if n == 1 {
				return sockettest.Reject(http.StatusUnauthorized, nil)
			}
			return sockettest.Reject(http.StatusInternalServerError, nil)
		})
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2})
		if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) || errors.Is(err, socket.ErrUnauthorized) {
			t.Errorf("Connect = %v, want ErrNotConnected alone", err)
		}
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		header func() string
	}{
		{"429 seconds", http.StatusTooManyRequests, func() string { return "90" }},
		{"503 seconds", http.StatusServiceUnavailable, func() string { return "90" }},
		{"503 date", http.StatusServiceUnavailable, func() string { return time.Now().Add(90 * time.Second).UTC().Format(http.TimeFormat) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sockettest.New(t, sockettest.WithInMemory())
				srv.RejectHandshake(tc.status, http.Header{"Retry-After": {tc.header()}})
				m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2})
				for range 3 { // not even Connect goes against it
					if err := m.Connect(); !errors.Is(err, socket.ErrNotConnected) {
						t.Errorf("Connect = %v, want ErrNotConnected", err)
					}
				}
				if _, err := m.SendAsync(reservation()); !errors.Is(err, socket.ErrNotConnected) {
					t.Errorf("SendAsync = %v, want ErrNotConnected", err)
				}
				srv.AcceptHandshake()
				after(89 * time.Second)
				if got := srv.Handshakes(); got != 2 {
					t.Fatalf("%d handshakes before the time, want 2", got)
				}
				after(12 * time.Second)
				synctest.Wait()
				if got := srv.Conns(); got != 2 {
					t.Errorf("%d connections after the time, want 2", got)
				}
			})
		})
	}
}

// After five tries the slots rest. What finds nothing connected then starts a new round.
func TestRestEndsWithTheNextMessage(t *testing.T) {
	for name, send := range map[string]func(*socket.UsageFlowSocketManager){
		"SendAsync": func(m *socket.UsageFlowSocketManager) { _, _ = m.SendAsync(reservation()) },
		"Notify":    func(m *socket.UsageFlowSocketManager) { _ = m.Notify(context.Background(), reservation()) },
		"Connect":   func(m *socket.UsageFlowSocketManager) { _ = m.Connect() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := sockettest.New(t, sockettest.WithInMemory())
				srv.Stop()
				d := dialCounter{dial: srv.Dial}
				m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1, Dial: d.Dial})
				_ = m.Connect()
				for d.dials.Load() < 6 { // the first try and five more
					after(10 * time.Millisecond)
				}
				synctest.Wait()
				if err := srv.Start(); err != nil {
					t.Fatal(err)
				}
				send(m)
				synctest.Wait()
				if !m.IsConnected() {
					t.Error("not connected at once")
				}
			})
		})
	}
}

func TestConnectCutsTheBackoffShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
		connect(t, m)
		srv.DropAll()
		synctest.Wait()
		began := time.Now()
		connect(t, m)
		if took := time.Since(began); took > 0 {
			t.Errorf("Connect took %s of the backoff", took)
		}
		if got := srv.Handshakes(); got != 6 {
			t.Errorf("%d handshakes, want 6", got)
		}
	})
}

// However close Connect comes to the loss of a connection, it does not wait for the end of a backoff.
func TestConnectRightAfterADrop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2})
		connect(t, m)
		for range 200 {
			srv.DropAll()
			began := time.Now()
			connect(t, m)
			if took := time.Since(began); took > 0 {
				t.Fatalf("Connect took %s of the backoff", took)
			}
		}
	})
}
