package natsmesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/natsmesh"
)

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestConfig(t *testing.T) {
	for _, cfg := range []natsmesh.Config{{}, {URL: "nats://127.0.0.1:4222", Subject: "a.*"}, {URL: "nats://x", Subject: ".a"}, {URL: "nats://x", Subject: "a..b"}, {URL: "nats://x", Subject: "a b"}} {
		if m, err := natsmesh.New(cfg); err == nil || m != nil {
			t.Errorf("%+v: no error", cfg)
		}
	}
	m, err := natsmesh.New(natsmesh.Config{URL: "nats://user:password@bad url", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := socket.NewServer("0", quiet, socket.WithMesh(m)).Start(); err == nil || strings.Contains(err.Error(), "password") {
		t.Errorf("with a bad URL: %v", err)
	}
}

// Providers of the consumer's own broker go first.
func TestLocalFirst(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	a, b, channel := broker(t, url), broker(t, url), uuid.New()
	provider(t, b, channel, says("far"))
	c := consumer(t, a, channel)
	if text, err := send(c, ""); text != "far: " || err != nil {
		t.Fatalf("got %q, %v", text, err)
	}
	near := provider(t, a, channel, says("near"))
	for range 50 {
		if text, err := send(c, ""); text != "near: " || err != nil {
			t.Fatalf("got %q, %v", text, err)
		}
	}
	_ = near.Close()
	eventually(t, "the far one is used again", func() bool {
		text, err := send(c, "")
		return text == "far: " && err == nil
	})
}

// Of several other brokers the one with the least to do for each of its providers is used, also where a second one came later.
func TestByLoad(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	a, b, c, channel := broker(t, url), broker(t, url), broker(t, url), uuid.New()
	var atB, atC atomic.Int64
	counting := func(n *atomic.Int64) socket.Handler {
		return func(ctx context.Context, r *socket.Request) (io.Reader, error) {
			n.Add(1)
			<-time.After(time.Millisecond)
			return strings.NewReader(""), nil
		}
	}
	provider(t, b, channel, counting(&atB))
	client := consumer(t, a, channel)
	if _, err := send(client, ""); err != nil || atB.Load() != 1 {
		t.Fatal(err, atB.Load())
	}
	for range 3 {
		provider(t, c, channel, counting(&atC))
	}
	eventually(t, "the second broker is used", func() bool {
		if _, err := send(client, ""); err != nil {
			t.Fatal(err)
		}
		return atC.Load() > 0
	})
	atB.Store(0)
	atC.Store(0)
	var load sync.WaitGroup
	for range 40 {
		load.Go(func() {
			for range 25 {
				if _, err := send(client, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	load.Wait()
	if b, c := atB.Load(), atC.Load(); b < 50 || c < b*3/2 { // 250 and 750, where the loads are told without delay
		t.Errorf("one provider got %d requests, three got %d", b, c)
	}
}

// hold sends a request whose answer is to be "b", and says what has become of it.
func hold(c *socket.Consumer) chan error {
	held := make(chan error, 1)
	go func() {
		text, err := send(c, "held")
		if err == nil && text != "b" {
			err = errors.New(text)
		}
		held <- err
	}()
	return held
}

// A broker that is busy refuses, and the request goes to another one; where there is none, the consumer is told.
func TestBusyElsewhere(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	small := socket.WithLimits(socket.Limits{Memory: 1}) // for one request
	a, b, channel := broker(t, url), broker(t, url, small), uuid.New()
	release := make(chan struct{})
	var once sync.Once
	free := func() { once.Do(func() { close(release) }) }
	defer free()
	provider(t, b, channel, func(_ context.Context, r *socket.Request) (io.Reader, error) {
		<-release
		return strings.NewReader("b"), nil
	})
	client := consumer(t, a, channel)
	held := hold(client)
	eventually(t, "the first runs", func() bool { return b.Stats().Streams == 1 })
	if _, err := send(client, "x"); !errors.Is(err, socket.ErrBusy) {
		t.Errorf("the only broker is busy: %v", err)
	}
	provider(t, broker(t, url), channel, says("c"))
	eventually(t, "the other broker is found", func() bool {
		text, err := send(client, "x")
		return text == "c: x" && err == nil
	})
	// In memory, and in pieces: what was sent before the refusal goes to the other broker too.
	large := strings.Repeat("0123456789", 20_000)
	for range 20 {
		if text, err := send(client, "x"); text != "c: x" || err != nil {
			t.Fatalf("got %q, %v", text, err)
		}
		answer, err := client.Send(io.MultiReader(strings.NewReader(large), strings.NewReader("end")), limit)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(answer); string(text) != "c: "+large+"end" || err != nil {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
	}
	free()
	if err := <-held; err != nil {
		t.Errorf("the one that was held: %v", err)
	}
}

// Channels are isolated from each other on all brokers.
func TestIsolation(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	brokers := []*socket.Server{broker(t, url), broker(t, url), broker(t, url)}
	const channels = 12
	var load sync.WaitGroup
	for i := range channels {
		channel := uuid.New()
		name := fmt.Sprint("channel ", i)
		provider(t, brokers[i%3], channel, says(name))
		for j, s := range brokers {
			c := consumer(t, s, channel)
			load.Go(func() {
				for k := range 50 {
					body := fmt.Sprint(i, j, k, strings.Repeat("x", k*500))
					if text, err := send(c, body); text != name+": "+body || err != nil {
						t.Errorf("%s from broker %d: %.40q, %v", name, j, text, err)
						return
					}
				}
			})
		}
	}
	load.Wait()
	for i, s := range brokers {
		eventually(t, "nothing is left", func() bool {
			st := s.Stats()
			return st.Streams == 0 && st.Reserved == 0
		})
		if st := s.Stats(); st.Refused.Violations != 0 {
			t.Errorf("broker %d: %+v", i, st)
		}
	}
}

// The sidecar's channel stays on its host.
func TestSidecarChannelIsLocal(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	a, b := broker(t, url), broker(t, url)
	provider(t, b, socket.SidecarChannel, says("b"))
	if _, err := send(consumer(t, a, socket.SidecarChannel), "x"); !errors.Is(err, socket.ErrNoProvider) {
		t.Errorf("got %v", err)
	}
	if text, err := send(consumer(t, b, socket.SidecarChannel), "x"); text != "b: x" || err != nil {
		t.Errorf("on the same host: %q, %v", text, err)
	}
}

// A broker that stops lets running requests end; what comes meanwhile goes to another.
func TestDrain(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	a, b, channel := broker(t, url), broker(t, url), uuid.New()
	release := make(chan struct{})
	provider(t, b, channel, func(_ context.Context, r *socket.Request) (io.Reader, error) {
		<-release
		return strings.NewReader("b"), nil
	})
	client := consumer(t, a, channel)
	held := hold(client)
	eventually(t, "it runs", func() bool { return b.Stats().Streams == 1 })
	provider(t, broker(t, url), channel, says("c"))
	stopped := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		stopped <- b.Shutdown(ctx)
	}()
	eventually(t, "the other is used", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		answer, err := client.SendContext(ctx, strings.NewReader("x"))
		if err != nil {
			return false
		}
		text, err := io.ReadAll(answer)
		return string(text) == "c: x" && err == nil
	})
	for range 50 {
		if text, err := send(client, "x"); text != "c: x" || err != nil {
			t.Errorf("while b drains: %q, %v", text, err)
		}
	}
	close(release)
	if err := <-held; err != nil {
		t.Errorf("the one that ran: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// Without NATS every stream over the mesh ends at once, local ones go on; with it back, all is as before, and nothing of the streams
// that were lost comes after them.
func TestNATSRestarts(t *testing.T) {
	nats := startNATS(t, -1)
	url, port := nats.ClientURL(), 0
	if _, err := fmt.Sscanf(url[strings.LastIndexByte(url, ':')+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	a, b, far, near := broker(t, url), broker(t, url), uuid.New(), uuid.New()
	endless := func(ctx context.Context, _ *socket.Request) (io.Reader, error) { return endlessReader{ctx}, nil }
	provider(t, b, far, endless)
	provider(t, a, near, endless)
	farClient, nearClient := consumer(t, a, far), consumer(t, a, near)
	for round := range 3 {
		var answer io.Reader
		eventually(t, "the far provider answers", func() bool {
			var err error
			answer, err = farClient.Send(strings.NewReader("x"), time.Minute)
			return err == nil
		})
		local, err := nearClient.Send(strings.NewReader("x"), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range []io.Reader{answer, local} {
			if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
				t.Fatal(err)
			}
		}
		nats.Shutdown()
		start := time.Now()
		if _, err := io.Copy(io.Discard, answer); !errors.Is(err, socket.ErrProviderLost) || time.Since(start) > 3*time.Second {
			t.Fatalf("round %d: the stream ended with %v after %v", round, err, time.Since(start))
		}
		if _, err := farClient.Send(strings.NewReader("x"), limit); !errors.Is(err, socket.ErrNoProvider) {
			t.Errorf("without NATS: %v", err)
		}
		if _, err := io.CopyN(io.Discard, local, 1<<20); err != nil {
			t.Errorf("the local stream: %v", err)
		}
		_ = local.(io.Closer).Close()
		eventually(t, "nothing is left at the far broker", func() bool { return b.Stats().Streams == 0 })
		nats.WaitForShutdown()
		nats = startNATS(t, port)
	}
}

// endlessReader gives the same bytes until its context ends.
type endlessReader struct{ ctx context.Context }

func (r endlessReader) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), r.ctx.Err()
}

// A broker starts without NATS, and is joined when that is there.
func TestStartWithoutNATS(t *testing.T) {
	nats := startNATS(t, -1)
	url := nats.ClientURL()
	port := 0
	if _, err := fmt.Sscanf(url[strings.LastIndexByte(url, ':')+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	nats.Shutdown()
	nats.WaitForShutdown()
	a, b, channel := broker(t, url), broker(t, url), uuid.New()
	provider(t, b, channel, says("b"))
	client := consumer(t, a, channel)
	if _, err := send(client, "x"); !errors.Is(err, socket.ErrNoProvider) {
		t.Errorf("without NATS: %v", err)
	}
	if text, err := send(consumer(t, b, channel), "x"); text != "b: x" || err != nil {
		t.Errorf("on the same broker: %q, %v", text, err)
	}
	startNATS(t, port)
	eventually(t, "it is found", func() bool {
		text, err := send(client, "x")
		return text == "b: x" && err == nil
	})
}
