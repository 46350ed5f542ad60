package socket_test

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// closeWithin closes m, which must not take longer than limit.
func closeWithin(t *testing.T, m *socket.UsageFlowSocketManager, limit time.Duration) {
	t.Helper()
	began := time.Now()
	if err := m.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if took := time.Since(began); took > limit {
		t.Errorf("Close took %s, want %s at most", took, limit)
	}
}

// isClosed checks that every way in gives ErrClosed.
func isClosed(t *testing.T, m *socket.UsageFlowSocketManager) {
	t.Helper()
	if err := m.Connect(); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Connect after Close = %v, want ErrClosed", err)
	}
	if _, err := m.SendAsync(reservation()); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("SendAsync after Close = %v, want ErrClosed", err)
	}
	if _, err := m.Call(context.Background(), reservation()); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Call after Close = %v, want ErrClosed", err)
	}
	if err := m.Send(reservation()); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Send after Close = %v, want ErrClosed", err)
	}
	if err := m.Notify(context.Background(), reservation()); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Notify after Close = %v, want ErrClosed", err)
	}
	if _, err := m.Lane(context.Background()); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Lane after Close = %v, want ErrClosed", err)
	}
	if m.IsConnected() {
		t.Error("connected after Close")
	}
	if err := m.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	srv := sockettest.New(t)
	d := dialCounter{dial: srv.Dial}
	before := runtime.NumGoroutine()
	m := newManager(t, srv, socket.ManagerConfig{Dial: d.Dial})
	connect(t, m)
	for range 100 {
		if _, err := m.SendAsync(reservation()); err != nil {
			t.Fatalf("SendAsync: %v", err)
		}
	}
	closeWithin(t, m, time.Second)
	isClosed(t, m)
	if got := d.dials.Load(); got != 10 {
		t.Errorf("%d dials, want the 10 of the start", got)
	}
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Conns() == 0 })
	for _, f := range srv.CloseFrames() {
		if f.Code != websocket.CloseNormalClosure {
			t.Errorf("close frame %d, want 1000", f.Code)
		}
	}
	if got := len(srv.CloseFrames()); got != 10 {
		t.Errorf("%d close frames, want 10", got)
	}
	// The server's goroutines end by themselves a moment later.
	eventually(t, "goroutines are back at the baseline", func() bool { return runtime.NumGoroutine() <= before })
}

func TestNoDialAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, prepare := range map[string]func(*sockettest.Server, *socket.UsageFlowSocketManager){
			"connected":    func(*sockettest.Server, *socket.UsageFlowSocketManager) {},
			"just dropped": func(srv *sockettest.Server, _ *socket.UsageFlowSocketManager) { srv.DropAll() },
			"backing off": func(srv *sockettest.Server, _ *socket.UsageFlowSocketManager) {
				srv.DropAll()
				synctest.Wait()
			},
			"down for long": func(srv *sockettest.Server, _ *socket.UsageFlowSocketManager) {
				srv.Stop()
				after(7 * time.Minute)
			},
			"refused": func(srv *sockettest.Server, m *socket.UsageFlowSocketManager) {
				srv.RejectHandshake(401, nil)
				srv.DropAll()
				synctest.Wait()
				_ = m.Connect()
			},
			"in a handshake": func(srv *sockettest.Server, _ *socket.UsageFlowSocketManager) {
				srv.SilentHandshake()
				srv.DropAll()
				after(7 * time.Second)
			},
		} {
			srv := sockettest.New(t, sockettest.WithInMemory())
			d := dialCounter{dial: srv.Dial}
			m := newManager(t, srv, socket.ManagerConfig{PoolSize: 5, Dial: d.Dial})
			connect(t, m)
			prepare(srv, m)
			closeWithin(t, m, 5*time.Second)
			dials := d.dials.Load()
			isClosed(t, m)
			after(30 * time.Minute)
			if got := d.dials.Load(); got != dials {
				t.Errorf("%s: %d dials after Close", name, got-dials)
			}
			srv.Close()
		}
	})
}

func TestCloseBeforeTheStart(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{})
	closeWithin(t, m, 100*time.Millisecond)
	isClosed(t, m)
	if got := srv.Handshakes(); got != 0 {
		t.Errorf("%d handshakes", got)
	}
}

func TestCloseIsSafeForConcurrentUse(t *testing.T) {
	srv := sockettest.New(t)
	for range 20 {
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { _ = m.Connect() })
			wg.Go(func() { _, _ = m.SendAsync(reservation()) })
			wg.Go(func() { closeWithin(t, m, 2*time.Second) })
		}
		wg.Wait()
		isClosed(t, m)
	}
}

// Close lets the requests that are under way have their replies, and one-way messages go out.
func TestCloseDrains(t *testing.T) {
	srv := sockettest.New(t)
	ready := make(chan struct{})
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Default().After(ready) })
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2})
	connect(t, m)
	first, second := goCall(t.Context(), m, reservation()), goCall(t.Context(), m, reservation())
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count() == 2 })
	for range 100 {
		if err := m.Notify(t.Context(), &socket.UsageFlowSocketMessage{Type: socket.TypeUseAllocation, Payload: socket.UseAllocationRequest{Alias: "a"}}); err != nil {
			t.Fatalf("Notify: %v", err)
		}
	}
	closed := make(chan error, 1)
	go func() { closed <- m.Close() }()
	// The close is under way once calls are turned away.
	eventually(t, "the close has begun", func() bool {
		return errors.Is(m.Notify(t.Context(), reservation()), socket.ErrClosed)
	})
	close(ready)
	for _, result := range []<-chan outcome{first, second} {
		if got := <-result; got.err != nil {
			t.Errorf("a request that was under way: %v", got.err)
		}
	}
	if err := <-closed; err != nil {
		t.Errorf("Close: %v", err)
	}
	if got := srv.Count(socket.TypeUseAllocation); got != 100 {
		t.Errorf("%d one-way messages arrived, want all 100", got)
	}
}

// A caller whose context ends during the drain does not hold it up.
func TestCloseDoesNotWaitForThoseWhoGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
		connect(t, m)
		ctx, cancel := context.WithCancel(t.Context())
		result := goCall(ctx, m, reservation())
		synctest.Wait()
		closed := make(chan struct{})
		go func() { _ = m.Close(); close(closed) }()
		synctest.Wait()
		cancel()
		began := time.Now()
		<-closed
		if took := time.Since(began); took > 0 {
			t.Errorf("Close waited %s for a request that was given up", took)
		}
		if got := <-result; !errors.Is(got.err, context.Canceled) {
			t.Errorf("Call = %v, want context.Canceled", got.err)
		}
	})
}

// What has no reply by the end of the drain fails with ErrClosed.
func TestCloseWithASilentService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, RequestTimeout: time.Hour})
		connect(t, m)
		result := goCall(t.Context(), m, reservation())
		synctest.Wait()
		closeWithin(t, m, 4*time.Second)
		got := <-result
		if !errors.Is(got.err, socket.ErrClosed) {
			t.Errorf("Call = %v, want ErrClosed", got.err)
		}
		isNotATimeout(t, got.err)
	})
}

func TestCloseWithAPeerThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, RequestTimeout: time.Hour})
		connect(t, m)
		srv.StopReading()
		var results []<-chan outcome
		for range 20 {
			results = append(results, goCall(t.Context(), m, reservation()))
			synctest.Wait() // the service takes one read that was under way; then the writers hang
		}
		closeWithin(t, m, 5*time.Second)
		for _, result := range results {
			got := <-result
			if !errors.Is(got.err, socket.ErrConnectionLost) && !errors.Is(got.err, socket.ErrClosed) {
				t.Errorf("Call = %v, want ErrConnectionLost or ErrClosed", got.err)
			}
		}
		srv.ResumeReading()
	})
}

func TestCloseWithADialThatIgnoresItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		release := make(chan struct{})
		var late net.Conn
		dialled := make(chan struct{})
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1, Dial: func(context.Context, string, string) (net.Conn, error) {
			<-release
			late, _ = net.Pipe()
			close(dialled)
			return late, nil
		}})
		connected := make(chan error, 1)
		go func() { connected <- m.Connect() }()
		synctest.Wait()
		closeWithin(t, m, 5*time.Second)
		if err := <-connected; !errors.Is(err, socket.ErrClosed) {
			t.Errorf("Connect = %v, want ErrClosed", err)
		}
		close(release)
		<-dialled
		synctest.Wait()
		if _, err := late.Write([]byte{1}); !errors.Is(err, net.ErrClosed) && err == nil {
			t.Error("a connection that came too late is still open")
		}
	})
}

// A service that answers the handshake, then the close frame never.
func TestCloseWithAPeerThatDoesNotEcho(t *testing.T) {
	stop := make(chan struct{})
	url := rawService(t, func(ws *websocket.Conn) {
		ws.SetCloseHandler(func(int, string) error { <-stop; return nil })
		_, _, _ = ws.ReadMessage()
	})
	m := newManager(t, nil, socket.ManagerConfig{PoolSize: 2, URL: url})
	connect(t, m)
	closeWithin(t, m, 2*time.Second)
	close(stop)
}
