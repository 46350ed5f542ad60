package socket_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// brokerRig is a broker on a port of its own, and a channel. What it makes is closed when the test ends,
// the clients before the broker. With -broker.mesh the providers are at another broker of a mesh, far.
type brokerRig struct {
	t       testing.TB
	server  *socket.Server
	far     *socket.Server
	addr    string
	farAddr string
	channel uuid.UUID
}

func newBrokerRig(t testing.TB, opts ...socket.ServerOption) *brokerRig {
	t.Helper()
	if *meshed {
		near, far := startBroker(t, append(opts, meshOption(t))...), startBroker(t, append(opts, meshOption(t))...)
		return &brokerRig{t: t, server: near, far: far, addr: "127.0.0.1:" + near.Port(), farAddr: "127.0.0.1:" + far.Port(), channel: uuid.New()}
	}
	server := startBroker(t, opts...)
	addr := "127.0.0.1:" + server.Port()
	return &brokerRig{t: t, server: server, far: server, addr: addr, farAddr: addr, channel: uuid.New()}
}

// stop stops the broker, or both.
func (b *brokerRig) stop() {
	_ = b.server.Stop()
	_ = b.far.Stop()
}

func startBroker(t testing.TB, opts ...socket.ServerOption) *socket.Server {
	t.Helper()
	server := socket.NewServer("0", append([]socket.ServerOption{quietBroker()}, opts...)...)
	if err := server.Start(); err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		returnsWithin(t, 5*time.Second, "Server.Stop", func() {
			if err := server.Stop(); err != nil {
				t.Errorf("Stop: %v", err)
			}
		})
	})
	return server
}

type brokerOption interface {
	socket.ServerOption
	socket.ClientOption
}

func quietBroker() brokerOption { return socket.WithLogger(slog.New(slog.DiscardHandler)) }

// consumer makes a consumer on the rig's channel.
func (b *brokerRig) consumer(opts ...socket.ClientOption) *socket.Consumer {
	b.t.Helper()
	return b.consumerOn(b.channel, opts...)
}

func (b *brokerRig) consumerOn(channel uuid.UUID, opts ...socket.ClientOption) *socket.Consumer {
	b.t.Helper()
	c, err := socket.NewConsumer(b.addr, channel, append([]socket.ClientOption{quietBroker()}, opts...)...)
	if err != nil {
		b.t.Fatalf("NewConsumer: %v", err)
	}
	b.t.Cleanup(func() { returnsWithin(b.t, 5*time.Second, "Consumer.Close", func() { _ = c.Close() }) })
	return c
}

// provider makes a provider on the rig's channel that nobody serves yet.
func (b *brokerRig) provider(opts ...socket.ClientOption) *socket.Provider {
	b.t.Helper()
	return b.providerOn(b.channel, opts...)
}

func (b *brokerRig) providerOn(channel uuid.UUID, opts ...socket.ClientOption) *socket.Provider {
	b.t.Helper()
	p, err := socket.NewProvider(cmp.Or(b.farAddr, b.addr), channel, append([]socket.ClientOption{quietBroker()}, opts...)...)
	if err != nil {
		b.t.Fatalf("NewProvider: %v", err)
	}
	b.t.Cleanup(func() { returnsWithin(b.t, 5*time.Second, "Provider.Close", func() { _ = p.Close() }) })
	return p
}

// serve lets p answer with h until it is closed.
func (b *brokerRig) serve(p *socket.Provider, h socket.Handler) *socket.Provider {
	b.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = p.Serve(context.Background(), h)
	}()
	b.t.Cleanup(func() {
		returnsWithin(b.t, 5*time.Second, "Serve, after Close", func() {
			_ = p.Close()
			<-ended
		})
	})
	return p
}

// answering makes a provider that serves h.
func (b *brokerRig) answering(h socket.Handler) *socket.Provider {
	b.t.Helper()
	return b.serve(b.provider(), h)
}

// atRest waits until the broker has nothing left of any request.
func (b *brokerRig) atRest() {
	b.t.Helper()
	eventually(b.t, "the broker is at rest", func() bool {
		near, far := b.server.Stats(), b.far.Stats()
		return near.Streams == 0 && near.Reserved == 0 && far.Streams == 0 && far.Reserved == 0
	})
}

func echoHandler(_ context.Context, r *socket.Request) (io.Reader, error) { return r.Reader, nil }

// deafHandler takes a request and answers it when its context ends, so never in time.
func deafHandler(ctx context.Context, _ *socket.Request) (io.Reader, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// exchange sends body and reads the whole answer.
func exchange(c *socket.Consumer, body string, timeout time.Duration) (string, error) {
	resp, err := c.Send(bytes.NewReader([]byte(body)), timeout)
	if err != nil {
		if resp != nil {
			return "", fmt.Errorf("a reader came with the error %w", err)
		}
		return "", err
	}
	answer, err := io.ReadAll(resp)
	return string(answer), err
}

// echoes fails the test unless body comes back over c.
func echoes(t testing.TB, c *socket.Consumer, body string) {
	t.Helper()
	if got, err := exchange(c, body, 5*time.Second); err != nil || got != body {
		t.Fatalf("got %q, %v, want %q back", got, err, body)
	}
}

// returnsWithin runs f and ends the test, with all stacks, if it has not returned after limit.
func returnsWithin(t testing.TB, limit time.Duration, what string, f func()) time.Duration {
	t.Helper()
	began, done := time.Now(), make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(limit):
		buf := make([]byte, 1<<20)
		t.Fatalf("%s has not returned after %v\n%s", what, limit, buf[:runtime.Stack(buf, true)])
	}
	return time.Since(began)
}

// await receives from ch, within 10 s.
func await[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("not within 10 s: %s", what)
		panic("unreachable")
	}
}

// expiredAfter fails the test unless err is a deadline's that came within 50 ms of timeout.
func expiredAfter(t testing.TB, timeout, took time.Duration, err error) {
	t.Helper()
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want context.DeadlineExceeded", err)
	}
	if late := took - timeout; late.Abs() > 50*time.Millisecond {
		t.Errorf("it took %v, want %v ± 50 ms", took, timeout)
	}
}

// settlesAt waits until no more than before goroutines are left.
func settlesAt(t testing.TB, before int) {
	t.Helper()
	eventually(t, fmt.Sprintf("no more goroutines than the %d before", before), func() bool { return runtime.NumGoroutine() <= before })
}

// openFiles counts the descriptors of this process, where the system tells.
func openFiles() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}

// raceDetector says whether this program was built with -race, which multiplies its memory.
var raceDetector = sync.OnceValue(func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
})

// stamp is n bytes that belong to id: no two ids have the same.
func stamp(id uint64, n int64) io.Reader { return io.LimitReader(stampSource(id), n) }

func stampSource(id uint64) *rand.ChaCha8 {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], id)
	return rand.NewChaCha8(seed)
}

// isStamp reads r to its end and says what is wrong unless it was stamp(id, n).
func isStamp(r io.Reader, id uint64, n int64) error {
	want, got, read := make([]byte, 32<<10), make([]byte, 32<<10), int64(0)
	source := stampSource(id)
	for {
		k, err := r.Read(got)
		_, _ = source.Read(want[:k]) // never fails
		if !bytes.Equal(got[:k], want[:k]) {
			return fmt.Errorf("stamp %d: foreign bytes between %d and %d", id, read, read+int64(k))
		}
		read += int64(k)
		switch {
		case err == io.EOF && read == n:
			return nil
		case err == io.EOF:
			return fmt.Errorf("stamp %d: a clean end after %d bytes of %d", id, read, n)
		case err != nil:
			return fmt.Errorf("stamp %d: after %d bytes: %w", id, read, err)
		case read > n:
			return fmt.Errorf("stamp %d: %d bytes, more than %d", id, read, n)
		}
	}
}

// piped writes chunks one by one into a pipe, whose other end it returns.
func piped(chunks ...[]byte) io.Reader {
	r, w := io.Pipe()
	go func() {
		for _, chunk := range chunks {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	return r
}

// othersRequests sends one request after the other until quit is closed, and gives the longest time one took.
func othersRequests(t *testing.T, c *socket.Consumer, quit <-chan struct{}, worst chan<- time.Duration) {
	var longest time.Duration
	defer func() { worst <- longest }()
	for {
		select {
		case <-quit:
			return
		case <-time.After(time.Millisecond):
		}
		began := time.Now()
		if got, err := exchange(c, "meanwhile", 5*time.Second); err != nil || got != "meanwhile" {
			t.Errorf("a request on another channel: got %q, %v", got, err)
			return
		}
		longest = max(longest, time.Since(began))
	}
}
