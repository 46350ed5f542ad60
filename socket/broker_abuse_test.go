package socket_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// recorder keeps what a client writes.
type recorder struct {
	net.Conn
	mu      sync.Mutex
	written bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.written.Write(p)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// recordHandshake returns the bytes of a handshake as a real consumer sends them.
func recordHandshake(t *testing.T, rig *brokerRig) []byte {
	t.Helper()
	var rec *recorder
	c, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker(), socket.WithDial(
		func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			rec = &recorder{Conn: conn}
			return rec, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rec.mu.Lock()
	defer rec.mu.Unlock()
	return bytes.Clone(rec.written.Bytes())
}

func heapInUse() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapInuse
}

func TestBrokerHostileConnections(t *testing.T) {
	const connections, handshakeTimeout = 1000, 500 * time.Millisecond
	rig := newBrokerRig(t, socket.WithLimits(socket.Limits{HandshakeTimeout: handshakeTimeout}))
	rig.answering(echoHandler)
	consumer := rig.consumer()
	hello := recordHandshake(t, rig)
	garbage := make([]byte, 100_000)
	_, _ = rand.Read(garbage)
	kinds := []struct {
		name string
		send []byte
		slow bool // one byte at a time
	}{
		{"silent", nil, false},
		{"half a handshake", hello[:len(hello)/2], false},
		{"a handshake less its last byte", hello[:len(hello)-1], false},
		{"a slow handshake", bytes.Repeat(hello[:1], 100), true},
		{"a handshake, then garbage", append(bytes.Clone(hello), garbage...), false},
		{"garbage", garbage, false},
		{"zeros", make([]byte, 1000), false},
		{"a huge length", bytes.Repeat([]byte{0xff}, 64), false},
		{"HTTP", []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), false},
		{"TLS", []byte("\x16\x03\x01\x00\xc5\x01\x00\x00\xc1\x03\x03"), false},
	}

	quit, worst := make(chan struct{}), make(chan time.Duration, 1)
	go othersRequests(t, consumer, quit, worst)
	runtime.GC()
	before := heapInUse()
	var wg sync.WaitGroup
	for n := range connections {
		kind := kinds[n%len(kinds)]
		conn, err := net.Dial("tcp", rig.addr)
		if err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
		wg.Go(func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * handshakeTimeout))
			dialled := time.Now()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				if !kind.slow {
					_, _ = conn.Write(kind.send) // it may be closed already
					return
				}
				for _, b := range kind.send {
					if _, err := conn.Write([]byte{b}); err != nil {
						return
					}
					<-time.After(20 * time.Millisecond)
				}
			}()
			_, err := io.Copy(io.Discard, conn)
			if netErr := net.Error(nil); errors.As(err, &netErr) && netErr.Timeout() {
				t.Errorf("%s: it is still open after %v", kind.name, time.Since(dialled))
			} else if took := time.Since(dialled); took > handshakeTimeout+2*time.Second {
				t.Errorf("%s: it was closed only after %v", kind.name, took)
			}
			_ = conn.Close()
			<-sent
		})
	}
	grown := int64(heapInUse()) - int64(before)
	newcomer := rig.consumer()
	echoes(t, newcomer, "a newcomer is served too")
	returnsWithin(t, 30*time.Second, "the closing of all", wg.Wait)
	grown = max(grown, int64(heapInUse())-int64(before))
	if grown > 64<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	close(quit)
	if took := await(t, worst, "the real client's requests end"); took > time.Second {
		t.Errorf("a real client's request took %v", took)
	}
	eventually(t, "no handshake is left", func() bool { return rig.server.Stats().Handshakes == 0 })
	echoes(t, consumer, "and after it")
}

func TestBrokerConnectionLimit(t *testing.T) {
	rig := newBrokerRig(t, socket.WithLimits(socket.Limits{Connections: 3}))
	rig.answering(echoHandler)
	first := rig.consumer()
	second, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker())
	if err != nil {
		t.Fatal(err)
	}
	returnsWithin(t, 15*time.Second, "NewConsumer past the limit", func() {
		if c, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker()); err == nil {
			_ = c.Close()
			t.Error("a fourth connection was served")
		}
	})
	echoes(t, first, "the first is served on")
	_ = second.Close()
	eventually(t, "there is room again", func() bool {
		c, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker())
		if err != nil {
			return false
		}
		defer c.Close()
		got, err := exchange(c, "hello", 5*time.Second)
		return err == nil && got == "hello"
	})
}

// Past a limit new requests are refused at once, and accepted again when there is room.
func TestBrokerBusy(t *testing.T) {
	for _, test := range []struct {
		name   string
		limits socket.Limits
		most   int // requests that may run at once
	}{
		{"memory", socket.Limits{Memory: 1 << 20}, 16},
		{"streams", socket.Limits{Streams: 4}, 4},
	} {
		t.Run(test.name, func(t *testing.T) {
			rig := newBrokerRig(t, socket.WithLimits(test.limits))
			finish := make(chan struct{})
			rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
				<-finish
				return r.Reader, nil
			})
			consumer := rig.consumer()
			outcomes := make(chan error, 100)
			running := 0
			for {
				go func() {
					got, err := exchange(consumer, "hello", 20*time.Second)
					if err == nil && got != "hello" {
						err = errors.New("got " + got)
					}
					outcomes <- err
				}()
				running++
				refused := error(nil)
				eventually(t, "the request runs or is refused", func() bool {
					select {
					case refused = <-outcomes:
						return true
					default:
						return rig.server.Stats().Requests.Opened >= uint64(running) && rig.server.Stats().Channels[0].Running >= running
					}
				})
				if refused != nil {
					if !errors.Is(refused, socket.ErrBusy) || !socket.Retryable(refused) {
						t.Fatalf("request %d: got %v, want a retryable ErrBusy", running, refused)
					}
					running--
					break
				}
				if running > test.most {
					t.Fatalf("%d requests run, want at most %d", running, test.most)
				}
			}
			if running == 0 {
				t.Error("not even one request was accepted")
			}
			t.Logf("%d requests run at once", running)
			for range 20 {
				began := time.Now()
				if _, err := consumer.Send(strings.NewReader("more"), 5*time.Second); !errors.Is(err, socket.ErrBusy) {
					t.Errorf("past the limit: got %v, want ErrBusy", err)
				} else if took := time.Since(began); took > atOnce {
					t.Errorf("ErrBusy took %v", took)
				}
			}
			close(finish)
			for range running {
				if err := await(t, outcomes, "a running request"); err != nil {
					t.Errorf("a running request: %v", err)
				}
			}
			for range 100 {
				echoes(t, consumer, "there is room again")
			}
			rig.atRest()
		})
	}
}

// Whoever asks and does not read the answer stalls no one else on the same connection.
func TestBrokerAbandonedAnswers(t *testing.T) {
	const abandoned, size = 200, 4 << 20
	rig := newBrokerRig(t)
	rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
		if r.Metadata["size"] == "much" {
			return stamp(1, size), nil
		}
		return r.Reader, nil
	})
	consumer := rig.consumer()
	runtime.GC()
	before := heapInUse()
	var answers []io.ReadCloser
	for range abandoned {
		resp, err := consumer.SendContext(t.Context(), strings.NewReader("question"), socket.WithMetadata(map[string]string{"size": "much"}))
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, resp)
	}
	quit, worst := make(chan struct{}), make(chan time.Duration, 1)
	go othersRequests(t, consumer, quit, worst)
	for range 200 {
		echoes(t, consumer, "hello")
	}
	if err := isStamp(answers[0], 1, size); err != nil {
		t.Errorf("an answer that is read late: %v", err)
	}
	close(quit)
	if took := await(t, worst, "the other requests end"); took > time.Second {
		t.Errorf("another request on the connection took %v", took)
	}
	if grown := int64(heapInUse()) - int64(before); grown > 256<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	for _, resp := range answers {
		_ = resp.Close()
	}
	rig.atRest()
	echoes(t, consumer, "hello")
}

// A consumer that leaves with its answers unread leaves nothing behind.
func TestBrokerConsumerLeavesUnread(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(func(context.Context, *socket.Request) (io.Reader, error) { return stamp(1, 4<<20), nil })
	for range 10 {
		consumer, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker())
		if err != nil {
			t.Fatal(err)
		}
		resp, err := consumer.Send(strings.NewReader("question"), 30*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		_ = consumer.Close()
		if _, err := io.Copy(io.Discard, resp); err == nil {
			t.Error("an answer that was cut came to a clean end")
		}
	}
	rig.atRest()
	if _, err := rig.consumerOn(uuid.New()).Send(strings.NewReader("question"), time.Second); !errors.Is(err, socket.ErrNoProvider) {
		t.Errorf("got %v, want ErrNoProvider", err)
	}
}
