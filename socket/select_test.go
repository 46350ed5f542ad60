package socket_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func countByConn(srv *sockettest.Server, typ string) map[int]int {
	counts := map[int]int{}
	for _, m := range srv.Messages(typ) {
		counts[m.Conn]++
	}
	return counts
}

func TestRotationAmongEquals(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 4})
	connect(t, m)
	for range 40 {
		if _, err := m.SendAsync(reservation()); err != nil {
			t.Fatal(err)
		}
	}
	for conn, n := range countByConn(srv, socket.TypeRequestForAllocation) {
		if n != 10 {
			t.Errorf("connection %d had %d of 40 messages, want 10", conn, n)
		}
	}
}

func TestFewestPendingFirst(t *testing.T) {
	srv := sockettest.New(t)
	ready := make(chan struct{})
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == "held" {
			return sockettest.OK(nil).After(ready)
		}
		return sockettest.OK(nil)
	})
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 4, RequestTimeout: time.Minute})
	connect(t, m)
	var held []<-chan outcome
	for n := range 3 {
		held = append(held, goCall(t.Context(), m, oneWay("held")))
		waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count("held") == n+1 })
	}
	if got := len(countByConn(srv, "held")); got != 3 {
		t.Fatalf("three held calls went to %d connections, want 3", got)
	}
	for range 20 {
		if _, err := m.SendAsync(oneWay("free")); err != nil {
			t.Fatal(err)
		}
	}
	if got := countByConn(srv, "free"); len(got) != 1 {
		t.Errorf("calls went to connections %v, want the only one with nothing pending", got)
	}
	close(ready)
	for _, result := range held {
		if got := <-result; got.err != nil {
			t.Error(got.err)
		}
	}
}

// A connection on which calls time out comes last, until it gives a sign of life.
func TestAConnectionThatDoesNotAnswerComesLast(t *testing.T) {
	srv := sockettest.New(t)
	var mu sync.Mutex
	bad := 0
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		mu.Lock()
		defer mu.Unlock()
		if bad == 0 {
			bad = m.Conn
		}
		if m.Conn == bad {
			return sockettest.Silence()
		}
		return sockettest.OK(nil)
	})
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3, RequestTimeout: 200 * time.Millisecond})
	connect(t, m)
	timeouts := 0
	for range 60 {
		if _, err := m.SendAsync(reservation()); errors.Is(err, socket.ErrTimeout) {
			timeouts++
		}
	}
	if timeouts == 0 || timeouts > 5 {
		t.Errorf("%d of 60 calls timed out, want the first one", timeouts)
	}
	if err := srv.Push(bad, []byte(`{"id":"a sign of life"}`)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	was := bad
	bad = -1
	mu.Unlock()
	eventually(t, "the connection is used again", func() bool {
		_, _ = m.SendAsync(reservation())
		return countByConn(srv, socket.TypeRequestForAllocation)[was] > timeouts
	})
}
