package socket_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// requestCounter and latencyHistogram stand in for those of a metrics library.
type requestCounter struct{ n atomic.Int64 }

func (c *requestCounter) Inc() { c.n.Add(1) }

type latencyHistogram struct {
	mu      sync.Mutex
	samples []float64
}

func (h *latencyHistogram) Observe(seconds float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.samples = append(h.samples, seconds)
}

// MetricsProvider counts what its provider does.
type MetricsProvider struct {
	provider *socket.Provider
	requests requestCounter
	latency  latencyHistogram
}

func (m *MetricsProvider) Handle() {
	for {
		start := time.Now()
		reqID, r, ok := m.provider.Receive()
		if !ok {
			return
		}

		m.requests.Inc()
		result := upperCase(r)
		m.provider.Respond(reqID, result, nil)
		m.latency.Observe(time.Since(start).Seconds())
	}
}

// Metrics around a provider.
func ExampleProvider_metrics() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	metrics := &MetricsProvider{provider: provider}
	var handling sync.WaitGroup
	handling.Go(metrics.Handle)

	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	for range 10 {
		resp, err := consumer.Send(strings.NewReader("hello"), 5*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp); err != nil {
			log.Fatal(err)
		}
	}
	provider.Close()
	handling.Wait()
	fmt.Println(metrics.requests.n.Load(), "requests,", len(metrics.latency.samples), "samples")
	// Output: 10 requests, 10 samples
}

func healthCheck(consumer *socket.Consumer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()

	respCh := make(chan error, 1)
	go func() {
		_, err := consumer.Send(strings.NewReader("ping"), 2*time.Second)
		respCh <- err
	}()

	select {
	case <-ctx.Done():
		return errors.New("health check timeout")
	case err := <-respCh:
		return err
	}
}

// A health check is a request like any other.
func ExampleConsumer_healthCheck() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	fmt.Println("nobody answers:", errors.Is(healthCheck(consumer), socket.ErrNoProvider))

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	go answerAll(provider)
	fmt.Println("one does:", healthCheck(consumer))
	// Output:
	// nobody answers: true
	// one does: <nil>
}

// Stop lets running requests end, for half a second.
func ExampleServer_Stop() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	gracefulShutdown := func(server *socket.Server, providers []*socket.Provider) {
		// Stop accepting new connections, and wait for in-flight requests
		server.Stop()

		// Close all providers
		for _, p := range providers {
			p.Close()
		}
	}

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	received, stopping := make(chan struct{}), make(chan struct{})
	go provider.Serve(context.Background(), func(context.Context, *socket.Request) (io.Reader, error) {
		close(received)
		<-stopping
		return strings.NewReader("in time"), nil
	})
	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()

	var running sync.WaitGroup
	running.Go(func() {
		resp, err := consumer.Send(strings.NewReader("a job"), 5*time.Second)
		if err != nil {
			fmt.Println(err)
			return
		}
		printAll(resp)
	})
	<-received
	close(stopping)
	gracefulShutdown(server, []*socket.Provider{provider})
	running.Wait()
	// Output: in time <nil>
}

// Shutdown waits for the running requests as long as its context does, and refuses new ones.
func ExampleServer_Shutdown() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	received, finish := make(chan struct{}), make(chan struct{})
	go provider.Serve(context.Background(), func(context.Context, *socket.Request) (io.Reader, error) {
		close(received)
		<-finish
		return strings.NewReader("done"), nil
	})
	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()

	answer := make(chan io.Reader, 1)
	go func() {
		resp, err := consumer.Send(strings.NewReader("a long job"), 30*time.Second)
		if err != nil {
			log.Print(err)
		}
		answer <- resp
	}()
	<-received

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	go func() { drained <- server.Shutdown(ctx) }()
	close(finish)
	printAll(<-answer)
	fmt.Println("drained:", <-drained)
	// Output:
	// done <nil>
	// drained: <nil>
}

// A test brings its own server.
func TestConsumerProvider(t *testing.T) {
	server := socket.NewServer("0") // Random port
	server.Start()
	defer server.Stop()

	channelID := uuid.New()
	provider, _ := socket.NewProvider("127.0.0.1:"+server.Port(), channelID)
	defer provider.Close()
	go answerAll(provider)

	// Test logic
	consumer, err := socket.NewConsumer("127.0.0.1:"+server.Port(), channelID)
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	if got, err := exchange(consumer, "hello", 5*time.Second); err != nil || got != "HELLO" {
		t.Errorf("got %q, %v, want HELLO", got, err)
	}
}

// 100 consumers at once, 10 requests each.
func TestHighLoad(t *testing.T) {
	server := socket.NewServer("0")
	server.Start()
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	// Start provider
	provider, _ := socket.NewProvider(addr, channelID)
	defer provider.Close()
	go answerAll(provider)

	// Simulate 100 concurrent consumers
	var wg sync.WaitGroup
	for i := 0; i < 100; i++ {
		wg.Add(1)
		go func() {
			defer wg.Done()
			consumer, err := socket.NewConsumer(addr, channelID)
			if err != nil {
				t.Errorf("NewConsumer: %v", err)
				return
			}
			defer consumer.Close()

			for j := 0; j < 10; j++ {
				if got, err := exchange(consumer, "hello", 5*time.Second); err != nil || got != "HELLO" {
					t.Errorf("got %q, %v, want HELLO", got, err)
				}
			}
		}()
	}
	wg.Wait()
}
