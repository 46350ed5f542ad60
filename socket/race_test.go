package socket_test

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// onceCompletion counts posts that are completed more or less than once.
type onceCompletion struct {
	left *atomic.Int64
	n    atomic.Int32
}

func (c *onceCompletion) Complete(*wire.Reply, error) {
	if c.n.Add(1) == 1 {
		c.left.Add(-1)
	} else {
		c.left.Add(1 << 32)
	}
}

// Traffic of every kind, while connections drop in every way, and then Close. For the race detector; what
// is checked is that every call and post ends once, with a reply or an error that says what happened.
func TestTrafficDropsAndClose(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithoutRecording())
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 5, RequestTimeout: 5 * time.Second, Dial: (&net.Dialer{}).DialContext})
	connect(t, m)
	var left atomic.Int64
	var replies, failures, ids atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	loop := func(fn func() error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				err := fn()
				switch {
				case err == nil:
					replies.Add(1)
				case errors.Is(err, socket.ErrNotConnected), errors.Is(err, socket.ErrConnectionLost),
					errors.Is(err, socket.ErrClosed), errors.Is(err, socket.ErrQueueFull), errors.Is(err, context.Canceled):
					failures.Add(1)
				default:
					t.Errorf("unexpected error: %v", err)
				}
			}
		})
	}
	shared := reservation()
	for range 6 {
		loop(func() error { _, err := m.SendAsync(shared); return err })
	}
	for range 2 {
		loop(func() error { return m.Send(shared) })
		loop(func() error {
			ctx, cancel := context.WithCancel(context.Background())
			stop := time.AfterFunc(100*time.Microsecond, cancel)
			defer stop.Stop()
			defer cancel()
			_, err := m.Call(ctx, shared)
			return err
		})
		loop(func() error {
			l, err := m.Lane(context.Background())
			if err != nil {
				return err
			}
			for _, id := range []string{"", "", strconv.FormatInt(ids.Add(1), 10)} {
				left.Add(1)
				if err := l.Post("t", id, []byte(`{}`), &onceCompletion{left: &left}); err != nil {
					left.Add(-1)
					return err
				}
			}
			return nil
		})
	}
	loop(func() error { _ = m.Status(); _ = m.IsConnected(); return m.Connect() })
	wg.Go(func() {
		ways := []func(){srv.DropAll, srv.ResetAll, func() { srv.CloseAll(websocket.CloseServiceRestart, "") }, func() { srv.Stop(); _ = srv.Start() }}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := range 40 {
			<-tick.C
			ways[i%len(ways)]()
		}
		_ = m.Close()
		close(stop)
	})
	wg.Wait()
	if got := left.Load(); got != 0 {
		t.Errorf("%d posts were not completed exactly once", got)
	}
	if replies.Load() == 0 || failures.Load() == 0 {
		t.Errorf("%d replies and %d failures, want both", replies.Load(), failures.Load())
	}
	if err := srv.Start(); err != nil {
		t.Error(err)
	}
}
