package socket_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func TestOnePeerStopsReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 4})
		connect(t, m)
		srv.StopReading(srv.OpenConns()[0])
		const workers, calls = 8, 200
		var slow, failed atomic.Int32
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() {
				for range calls {
					began := time.Now()
					if _, err := m.SendAsync(reservation()); err != nil {
						failed.Add(1)
					} else if time.Since(began) > 100*time.Millisecond {
						slow.Add(1)
					}
				}
			})
		}
		wg.Wait()
		if got := slow.Load(); got != 0 {
			t.Errorf("%d requests on other connections took more than 100 ms", got)
		}
		if got := failed.Load(); got > workers {
			t.Errorf("%d requests were given to the connection that is stuck, want a few", got)
		}
		srv.ResumeReading()
	})
}

// The same over TCP, where bytes pile up in the kernel before the writer hangs.
func TestOnePeerStopsReadingOverTCP(t *testing.T) {
	srv := sockettest.New(t)
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 3, RequestTimeout: time.Second})
	connect(t, m)
	srv.StopReading(srv.OpenConns()[0])
	p := &socket.UsageFlowSocketMessage{Type: "t", Payload: strings.Repeat("x", 32<<10)}
	failed := 0
	for range 60 {
		if _, err := m.SendAsync(p); err != nil {
			failed++
		}
	}
	if failed > 3 {
		t.Errorf("%d of 60 requests failed, want one or two", failed)
	}
}

func TestAPeerThatNeverReadsAgainIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 1})
		connect(t, m)
		srv.StopReading()
		for range 2 { // the service takes one read that was under way
			if _, err := m.SendAsync(reservation()); !errors.Is(err, socket.ErrTimeout) {
				t.Errorf("SendAsync = %v, want ErrTimeout", err)
			}
		}
		after(15 * time.Second) // the write wait, and the first backoff
		synctest.Wait()
		if got := srv.Handshakes(); got != 2 {
			t.Errorf("%d handshakes, want a second one after the write wait", got)
		}
		if _, err := m.SendAsync(reservation()); err != nil {
			t.Errorf("SendAsync on the new connection: %v", err)
		}
		srv.ResumeReading()
	})
}

func TestAFullQueueIsAnErrorToTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		m := newManager(t, srv, socket.ManagerConfig{PoolSize: 2, QueueLimit: 10_000})
		connect(t, m)
		lane, err := m.Lane(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := lane.Post("which", "", []byte("null"), nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		srv.StopReading(srv.Messages("which")[0].Conn)
		posts := 0
		for ; err == nil && posts < 1000; posts++ {
			err = lane.Post("fill", "", make([]byte, 500), nil)
		}
		if !errors.Is(err, socket.ErrQueueFull) {
			t.Fatalf("after %d posts: %v, want ErrQueueFull", posts, err)
		}
		if !lane.Alive() {
			t.Error("a full queue ended the lane")
		}
		for range 100 { // the other slot is not stalled
			began := time.Now()
			if _, err := m.SendAsync(reservation()); err != nil || time.Since(began) > 0 {
				t.Fatalf("SendAsync on the other slot: %v after %s", err, time.Since(began))
			}
		}
		// A message that is larger than the queue by itself.
		if _, err := m.SendAsync(&socket.UsageFlowSocketMessage{Type: "t", Payload: strings.Repeat("x", 10_000)}); !errors.Is(err, socket.ErrQueueFull) {
			t.Errorf("SendAsync = %v, want ErrQueueFull", err)
		}
		if err := m.Send(&socket.UsageFlowSocketMessage{Type: "t", Payload: strings.Repeat("x", 10_000)}); !errors.Is(err, socket.ErrQueueFull) {
			t.Errorf("Send = %v, want ErrQueueFull", err)
		}
		srv.ResumeReading()
	})
}

func TestOversizedReplyClosesTheConnection(t *testing.T) {
	for name, send := range map[string]func(*websocket.Conn){
		"in pieces": func(ws *websocket.Conn) {
			w, err := ws.NextWriter(websocket.TextMessage)
			chunk := make([]byte, 64<<10)
			for i := 0; i < 1024 && err == nil; i++ {
				_, err = w.Write(chunk)
			}
		},
		"announced": func(ws *websocket.Conn) {
			header := binary.BigEndian.AppendUint64([]byte{0x81, 127}, 1<<40)
			_, _ = ws.NetConn().Write(append(header, make([]byte, 1<<20)...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			codes := make(chan int, 1)
			url := rawService(t, func(ws *websocket.Conn) {
				ws.SetCloseHandler(func(code int, _ string) error {
					select {
					case codes <- code:
					default:
					}
					return nil
				})
				if _, _, err := ws.ReadMessage(); err != nil {
					return
				}
				var before, behind runtime.MemStats
				runtime.ReadMemStats(&before)
				sent := make(chan struct{})
				go func() { defer close(sent); send(ws) }()
				_, _, _ = ws.ReadMessage()
				runtime.ReadMemStats(&behind)
				if got := behind.TotalAlloc - before.TotalAlloc; got > 16<<20 {
					t.Errorf("%d bytes were allocated for a message over the limit", got)
				}
				_ = ws.Close()
				<-sent
			})
			m := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, URL: url, ReadLimit: 1 << 20, RequestTimeout: time.Minute})
			connect(t, m)
			_, err := m.SendAsync(reservation())
			if !errors.Is(err, socket.ErrConnectionLost) {
				t.Errorf("SendAsync = %v, want ErrConnectionLost", err)
			}
			isNotATimeout(t, err)
			if got := <-codes; got != websocket.CloseMessageTooBig {
				t.Errorf("close code %d, want 1009", got)
			}
		})
	}
}

func TestMemoryOfAHugeMessageIsGivenBack(t *testing.T) {
	srv := sockettest.New(t, sockettest.WithoutRecording())
	srv.Handle(func(m sockettest.Message) sockettest.Reply { return sockettest.OK(m.Payload) })
	m := newManager(t, srv, socket.ManagerConfig{PoolSize: 4, RequestTimeout: time.Minute})
	connect(t, m)
	heap := func() int {
		var stats runtime.MemStats
		runtime.GC()
		runtime.GC() // twice, for the pools
		runtime.ReadMemStats(&stats)
		return int(stats.HeapAlloc)
	}
	before := heap()
	func() {
		p := &socket.UsageFlowSocketMessage{Type: "t", Payload: strings.Repeat("x", 1<<20)}
		for range 4 {
			if _, err := m.SendAsync(p); err != nil {
				t.Fatal(err)
			}
		}
		p.Payload = "small"
		for range 8 {
			if _, err := m.SendAsync(p); err != nil {
				t.Fatal(err)
			}
		}
	}()
	if grown := heap() - before; grown > 3<<20 {
		t.Errorf("%d KiB more after huge messages", grown>>10)
	}
}

// The reader learns of the end at once, although the writer hangs.
func TestAStuckWriteDoesNotHoldUpTheReader(t *testing.T) {
	for name, end := range map[string]func(*websocket.Conn){
		"protocol error": func(ws *websocket.Conn) { _, _ = ws.NetConn().Write([]byte{0xf1, 0}) },
		"close frame": func(ws *websocket.Conn) {
			_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseGoingAway, ""), time.Now().Add(time.Minute))
		},
	} {
		t.Run(name, func(t *testing.T) {
			hangs, done := make(chan struct{}), make(chan struct{})
			url := rawService(t, func(ws *websocket.Conn) {
				<-hangs
				end(ws)
				<-done
			})
			defer close(done)
			conns := make(chan *stuckConn, 10)
			m := newManager(t, nil, socket.ManagerConfig{PoolSize: 1, URL: url, RequestTimeout: time.Minute, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				var d net.Dialer
				raw, err := d.DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				c := newStuckConn(raw)
				conns <- c
				return c, nil
			}})
			connect(t, m)
			var result <-chan outcome
			c := <-conns
			c.hang(t, func() { result = goCall(t.Context(), m, reservation()) })
			began := time.Now()
			close(hangs)
			got := <-result
			if took := time.Since(began); !errors.Is(got.err, socket.ErrConnectionLost) || took > 5*time.Second {
				t.Errorf("Call = %v after %s, want ErrConnectionLost at once", got.err, took)
			}
			// Nor do later calls chase the connection that is over.
			if _, err := m.SendAsync(reservation()); !errors.Is(err, socket.ErrNotConnected) {
				t.Errorf("SendAsync = %v, want ErrNotConnected", err)
			}
		})
	}
}
