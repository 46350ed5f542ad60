package socket_test

import (
	"errors"
	"io"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func pending(m *socket.UsageFlowSocketManager) int {
	n := 0
	for _, s := range m.Status() {
		n += s.Pending
	}
	return n
}

func oneWay(typ string) *socket.UsageFlowSocketMessage {
	return &socket.UsageFlowSocketMessage{Type: typ}
}

// What a connection had not written when it ended goes out on another one; what it may have written does not.
func TestUnsentMessagesMoveToAnotherConnection(t *testing.T) {
	for _, tc := range []struct {
		name    string
		written int32 // bytes of the first write
	}{{"nothing written", 0}, {"a part written", 5}} {
		t.Run(tc.name, func(t *testing.T) {
			srv := sockettest.New(t)
			pool := newStuckPool(srv)
			m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, RequestTimeout: time.Minute, Dial: pool.Dial})
			if _, err := m.SendAsync(reservation()); err != nil { // on the connection that will hang
				t.Fatal(err)
			}
			c := <-pool.first
			c.takes.Store(tc.written)
			var first <-chan outcome
			c.hang(t, func() { first = goCall(t.Context(), m, reservation()) })
			var queued []<-chan outcome
			for range 5 {
				queued = append(queued, goCall(t.Context(), m, reservation()))
				if err := m.Send(oneWay("one-way")); err != nil {
					t.Fatalf("Send: %v", err)
				}
			}
			eventually(t, "all is queued", func() bool { return pending(m) == 11 })
			close(pool.more)
			connect(t, m)
			c.release <- io.ErrClosedPipe

			got := <-first
			switch {
			case tc.written == 0 && got.err != nil:
				t.Errorf("the first call: %v, want its reply from the other connection", got.err)
			case tc.written > 0 && !errors.Is(got.err, socket.ErrConnectionLost):
				t.Errorf("the first call: %v, want ErrConnectionLost", got.err)
			}
			for _, result := range queued {
				if got := <-result; got.err != nil {
					t.Errorf("a call that was queued: %v", got.err)
				}
			}
			waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count("one-way") == 5 })
			want := 7 // each exactly once
			if tc.written > 0 {
				want = 6
			}
			if got := srv.Count(socket.TypeRequestForAllocation); got != want {
				t.Errorf("%d calls arrived, want %d", got, want)
			}
		})
	}
}

func TestUnsentMessagesWithNowhereToGo(t *testing.T) {
	srv := sockettest.New(t)
	var log logtest.Buffer
	pool := newStuckPool(srv)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1, RequestTimeout: time.Minute, Dial: pool.Dial, Logger: debugLogger(&log)})
	connect(t, m)
	c := <-pool.first
	var first <-chan outcome
	c.hang(t, func() { first = goCall(t.Context(), m, reservation()) })
	second := goCall(t.Context(), m, reservation())
	if err := m.Send(oneWay("one-way")); err != nil {
		t.Fatalf("Send: %v", err)
	}
	eventually(t, "all is queued", func() bool { return pending(m) == 3 })
	c.release <- io.ErrClosedPipe
	for _, result := range []<-chan outcome{first, second} {
		if got := <-result; !errors.Is(got.err, socket.ErrNotConnected) {
			t.Errorf("Call = %v, want ErrNotConnected", got.err)
		}
	}
	eventually(t, "the loss is logged", func() bool { return log.Count("messages lost") == 1 })
}

// A message that its caller gave up while it was queued is not sent any more.
func TestWhatWasGivenUpInTheQueueIsNotSent(t *testing.T) {
	srv := sockettest.New(t)
	pool := newStuckPool(srv)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1, RequestTimeout: 50 * time.Millisecond, Dial: pool.Dial})
	connect(t, m)
	c := <-pool.first
	c.hang(t, func() { _ = m.Send(oneWay("first")) })
	if _, err := m.SendAsync(oneWay("given up")); !errors.Is(err, socket.ErrTimeout) {
		t.Errorf("SendAsync = %v, want ErrTimeout", err)
	}
	if err := m.Send(oneWay("last")); err != nil {
		t.Errorf("Send: %v", err)
	}
	c.stuck.Store(false)
	c.release <- nil // the first message is gone as if it were written
	waitFor(t, srv, func(r *sockettest.Record) bool { return r.Count("last") == 1 })
	if got := srv.Count("given up"); got != 0 {
		t.Errorf("it was sent %d times", got)
	}
}
