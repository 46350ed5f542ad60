package socket_test

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestPeerDropsWithARequestPending(t *testing.T) {
	for name, drop := range map[string]func(*sockettest.Server){
		"FIN":         (*sockettest.Server).DropAll,
		"RST":         (*sockettest.Server).ResetAll,
		"outage":      (*sockettest.Server).Stop,
		"close frame": func(srv *sockettest.Server) { srv.CloseAll(websocket.CloseServiceRestart, "") },
	} {
		t.Run(name, func(t *testing.T) {
			srv := sockettest.New(t)
			srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
			m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, RequestTimeout: time.Minute})
			connect(t, m)
			var results []<-chan outcome
			for range 10 {
				results = append(results, goCall(t.Context(), m, reservation()))
			}
			waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count() == 10 })
			began := time.Now()
			drop(srv)
			for _, result := range results {
				got := <-result
				if !errors.Is(got.err, socket.ErrConnectionLost) {
					t.Errorf("Call = %v, want ErrConnectionLost", got.err)
				}
				isNotATimeout(t, got.err)
			}
			if took := time.Since(began); took > time.Second { // 50 ms on a machine that does nothing else
				t.Errorf("the callers were told after %s", took)
			}
			if m.IsConnected() {
				t.Error("still connected")
			}
		})
	}
}

// The same on a clock that nothing else uses: not one tick of it passes.
func TestPeerDropsAndNoTimePasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
		connect(t, m)
		result := goCall(t.Context(), m, reservation())
		synctest.Wait()
		srv.DropAll()
		got := <-result
		if !errors.Is(got.err, socket.ErrConnectionLost) || got.took > 0 {
			t.Errorf("Call = %v after %s, want ErrConnectionLost at once", got.err, got.took)
		}
	})
}

func TestTimeoutsAndContexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
		connect(t, m)

		began := time.Now()
		_, err := m.SendAsync(reservation())
		if took := time.Since(began); !errors.Is(err, socket.ErrTimeout) || !errors.Is(err, context.DeadlineExceeded) || took != 2*time.Second {
			t.Errorf("SendAsync = %v after %s, want ErrTimeout after 2 s", err, took)
		}
		began = time.Now()
		_, err = m.Call(t.Context(), reservation())
		if took := time.Since(began); !errors.Is(err, socket.ErrTimeout) || took != 2*time.Second {
			t.Errorf("Call without a deadline = %v after %s, want ErrTimeout after 2 s", err, took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 7*time.Second)
		defer cancel()
		began = time.Now()
		_, err = m.Call(ctx, reservation())
		if took := time.Since(began); !errors.Is(err, socket.ErrTimeout) || took != 7*time.Second {
			t.Errorf("Call = %v after %s, want ErrTimeout after its own 7 s", err, took)
		}
		if _, err = m.Call(ctx, reservation()); !errors.Is(err, socket.ErrTimeout) {
			t.Errorf("Call with a dead context = %v, want ErrTimeout", err)
		}
		ctx, cancel = context.WithCancel(t.Context())
		result := goCall(ctx, m, reservation())
		synctest.Wait()
		cancel()
		if got := <-result; !errors.Is(got.err, context.Canceled) || got.took > 0 {
			t.Errorf("cancelled Call = %v after %s, want context.Canceled at once", got.err, got.took)
		}
		if err := m.Notify(ctx, reservation()); !errors.Is(err, context.Canceled) {
			t.Errorf("Notify with a dead context = %v, want context.Canceled", err)
		}
		if got := m.Status()[0].Pending; got != 0 {
			t.Errorf("%d pending after all have given up", got)
		}
		if got := srv.Handshakes(); got != 1 {
			t.Errorf("%d handshakes: a timeout must not end the connection", got)
		}
	})
}

func TestSendAndNotifyAreOneWay(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
	connect(t, m)
	for i := range 50 {
		p := reservation()
		if i == 49 {
			p.ID = "mine"
		}
		if err := m.Send(p); err != nil {
			t.Fatalf("Send: %v", err)
		}
		if err := m.Notify(t.Context(), p); err != nil {
			t.Fatalf("Notify: %v", err)
		}
	}
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count() == 100 })
	ids := 0
	for _, got := range srv.Messages() {
		if got.ID != "" {
			ids++
		}
	}
	if ids != 2 {
		t.Errorf("%d messages with an id, want the 2 that brought their own", ids)
	}
	if err := srv.CheckProtocol(); err != nil {
		t.Error(err)
	}
	eventually(t, "nothing is pending", func() bool {
		for _, s := range m.Status() {
			if s.Pending != 0 {
				return false
			}
		}
		return true
	})
}

func TestIDs(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
	connect(t, m)
	for range 3 { // the same id again is fine when the first is over
		resp, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: "t", ID: "my \"id\" é"})
		if err != nil || resp.ReplyTo != "my \"id\" é" {
			t.Errorf("SendAsync = %+v, %v", resp, err)
		}
	}
	ready := make(chan struct{})
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.OK(nil).After(ready) })
	first := goCall(t.Context(), m, &socket.UsageFlowSocketMessage{Type: "t", ID: "twice"})
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count() == 4 })
	if _, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: "t", ID: "twice"}); !errors.Is(err, socket.ErrDuplicateID) {
		t.Errorf("SendAsync with an id in flight = %v, want ErrDuplicateID", err)
	}
	close(ready)
	if got := <-first; got.err != nil {
		t.Errorf("the first one: %v", got.err)
	}
	seen := map[string]bool{}
	srv.Handle(nil)
	for range 100 {
		if _, err := m.SendAsync(reservation()); err != nil {
			t.Fatal(err)
		}
	}
	for _, got := range srv.Messages(socket.TypeRequestForAllocation) {
		if got.ID == "" || seen[got.ID] {
			t.Errorf("id %q is empty or used twice", got.ID)
		}
		seen[got.ID] = true
	}
}

func TestTheMessageIsNotModifiedAndMayBeShared(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3})
	connect(t, m)
	payload := &socket.RequestForAllocation{Alias: "a", Amount: 2, Metadata: map[string]any{"a": 1.0, "b": []any{"c"}}}
	want := *payload
	want.Metadata = maps.Clone(payload.Metadata)
	p := &socket.UsageFlowSocketMessage{Type: socket.TypeRequestForAllocation, Payload: payload}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				if _, err := m.SendAsync(p); err != nil {
					t.Errorf("SendAsync: %v", err)
				}
				if err := m.Send(p); err != nil {
					t.Errorf("Send: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if p.ID != "" || p.Type != socket.TypeRequestForAllocation || p.Payload != payload || !reflect.DeepEqual(*payload, want) {
		t.Errorf("the message was modified: %+v", p)
	}
}

func TestLargeAndOddPayloads(t *testing.T) {
	srv := sockettest.New(t)
	srv.Handle(func(m sockettest.Message) sockettest.Reply { return sockettest.OK(m.Payload) })
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1, RequestTimeout: time.Minute})
	connect(t, m)
	for _, size := range []int{0, 1, 90, 125, 126, 4000, 65535, 65536, 1 << 20} {
		want := strings.Repeat("é", size/2)
		resp, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: "t", Payload: want})
		if err != nil || resp.Payload != want {
			t.Errorf("a payload of %d bytes: %v", size, err)
		}
	}
	if _, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: "t", Payload: make(chan int)}); err == nil {
		t.Error("a payload that JSON can't hold: no error")
	}
	if _, err := m.SendAsync(nil); err == nil {
		t.Error("SendAsync(nil): no error")
	}
	if err := m.Send(nil); err == nil {
		t.Error("Send(nil): no error")
	}
}
