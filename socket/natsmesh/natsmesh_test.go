package natsmesh_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/natsmesh"
)

const limit = 20 * time.Second

var quiet = socket.WithLogger(slog.New(slog.DiscardHandler))

// startNATS starts a NATS server on a port of 127.0.0.1, -1 for any.
func startNATS(t testing.TB, port int) *natsserver.Server {
	t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(limit) {
		t.Fatal("NATS does not start")
	}
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	return s
}

// broker starts a broker of the mesh at url.
func broker(t testing.TB, url string, opts ...socket.ServerOption) *socket.Server {
	t.Helper()
	m, err := natsmesh.New(natsmesh.Config{URL: url, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := socket.NewServer("0", append([]socket.ServerOption{quiet, socket.WithMesh(m)}, opts...)...)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop() })
	return s
}

func consumer(t testing.TB, s *socket.Server, channel uuid.UUID) *socket.Consumer {
	t.Helper()
	return consumerAt(t, s.Port(), channel)
}

func consumerAt(t testing.TB, port string, channel uuid.UUID) *socket.Consumer {
	t.Helper()
	c, err := socket.NewConsumer("127.0.0.1:"+port, channel, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func provider(t testing.TB, s *socket.Server, channel uuid.UUID, h socket.Handler) *socket.Provider {
	t.Helper()
	return providerAt(t, s.Port(), channel, h)
}

func providerAt(t testing.TB, port string, channel uuid.UUID, h socket.Handler) *socket.Provider {
	t.Helper()
	p, err := socket.NewProvider("127.0.0.1:"+port, channel, quiet)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = p.Serve(context.Background(), h)
	}()
	t.Cleanup(func() {
		_ = p.Close()
		<-served
	})
	return p
}

func says(text string) socket.Handler {
	return func(_ context.Context, r *socket.Request) (io.Reader, error) {
		body, err := io.ReadAll(r.Reader)
		return strings.NewReader(text + ": " + string(body)), err
	}
}

func send(c *socket.Consumer, body string) (string, error) {
	answer, err := c.Send(strings.NewReader(body), limit)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(answer)
	return string(text), err
}

// A consumer's request is answered by the provider of another broker, and the answer to one without any is ErrNoProvider, at once.
func TestProviderElsewhere(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	a, b, channel := broker(t, url), broker(t, url), uuid.New()
	c := consumer(t, a, channel)
	start := time.Now()
	if _, err := send(c, "x"); !errors.Is(err, socket.ErrNoProvider) || time.Since(start) > time.Second {
		t.Errorf("without a provider: %v after %v", err, time.Since(start))
	}
	provider(t, b, channel, says("b"))
	for range 100 {
		if text, err := send(c, "hello"); text != "b: hello" || err != nil {
			t.Fatalf("got %q, %v", text, err)
		}
	}
	if text, err := send(consumer(t, b, channel), "hello"); text != "b: hello" || err != nil {
		t.Errorf("b's own: %q, %v", text, err)
	}
	if _, err := send(consumer(t, a, uuid.New()), "x"); !errors.Is(err, socket.ErrNoProvider) {
		t.Errorf("another channel: %v", err)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	answer, err := c.Send(bytes.NewReader(large), limit)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(answer); err != nil || string(text) != "b: "+string(large) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}
