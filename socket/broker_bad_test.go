package socket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// atOnce is the time within which an answer that needs no work must have come.
const atOnce = 100 * time.Millisecond

func TestBrokerForgottenConsumerDoesNotHoldUpTheServer(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(echoHandler)
	consumer := rig.consumer()
	echoes(t, consumer, "hello")

	took := returnsWithin(t, 5*time.Second, "Stop with a consumer that nobody closed", func() { _ = rig.server.Stop() })
	if took > 2*time.Second {
		t.Errorf("Stop took %v", took)
	}
	returnsWithin(t, time.Second, "Send without a server", func() {
		resp, err := consumer.Send(strings.NewReader("hello"), 5*time.Second)
		if resp != nil || err == nil {
			t.Errorf("got %v, %v without a server", resp, err)
		}
	})
}

func TestBrokerForgottenServerDoesNotHoldUpItsClients(t *testing.T) {
	rig := newBrokerRig(t)
	provider := rig.answering(echoHandler)
	consumer := rig.consumer()
	echoes(t, consumer, "hello")

	returnsWithin(t, 2*time.Second, "Close of both", func() {
		_ = consumer.Close()
		_ = provider.Close()
	})
	rig.atRest()
	eventually(t, "the server knows that they have left", func() bool {
		stats := rig.server.Stats()
		return stats.Consumers == 0 && stats.Providers == 0
	})
}

func TestBrokerConsumerPerRequest(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(echoHandler)
	for range 100 {
		consumer, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := consumer.Send(strings.NewReader("hello"), 5*time.Second); err != nil { // and nobody reads the answer
			t.Fatal(err)
		}
		_ = consumer.Close()
	}
	rig.atRest()
	eventually(t, "no consumer is left", func() bool { return rig.server.Stats().Consumers == 0 })
}

func TestBrokerReceiveEndsWithClose(t *testing.T) {
	rig := newBrokerRig(t)
	provider := rig.provider()
	type received struct {
		id uuid.UUID
		r  io.Reader
		ok bool
	}
	got := make(chan received, 1)
	go func() {
		id, r, ok := provider.Receive()
		got <- received{id, r, ok}
	}()

	ctx, cancel := context.WithTimeout(t.Context(), atOnce)
	defer cancel()
	if req, err := provider.ReceiveContext(ctx); req != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ReceiveContext: got %v, %v, want its context's error", req, err)
	}
	if err := provider.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if r := await(t, got, "Receive returns"); r.ok || r.r != nil || r.id != uuid.Nil {
		t.Errorf("Receive: got %v, want nothing", r)
	}
	if _, r, ok := provider.Receive(); ok || r != nil {
		t.Error("Receive on a closed provider received something")
	}
	if req, err := provider.ReceiveContext(t.Context()); req != nil || !errors.Is(err, socket.ErrClosed) {
		t.Errorf("ReceiveContext on a closed provider: got %v, %v, want ErrClosed", req, err)
	}
}

func TestBrokerTimeouts(t *testing.T) {
	forgetful := func(p *socket.Provider) { // receives, and forgets to respond
		for {
			if _, r, ok := p.Receive(); !ok {
				return
			} else if _, err := io.Copy(io.Discard, r); err != nil {
				continue
			}
		}
	}
	for _, test := range []struct {
		name     string
		provider func(p *socket.Provider)
		body     int
		timeout  time.Duration
	}{
		{"the provider fails silently", forgetful, 5, 300 * time.Millisecond},
		{"too short a timeout", forgetful, 5, 100 * time.Millisecond},
		{"too short a timeout for much data", forgetful, 4 << 20, 100 * time.Millisecond},
		{"nobody receives", func(*socket.Provider) {}, 5, 200 * time.Millisecond},
		{"nobody receives much data", func(*socket.Provider) {}, 4 << 20, 200 * time.Millisecond},
	} {
		t.Run(test.name, func(t *testing.T) {
			rig := newBrokerRig(t)
			go test.provider(rig.provider())
			consumer := rig.consumer()
			body := bytes.NewReader(make([]byte, test.body))
			returnsWithin(t, 5*time.Second, "Send", func() {
				began := time.Now()
				resp, err := consumer.Send(body, test.timeout)
				expiredAfter(t, test.timeout, time.Since(began), err)
				if resp != nil {
					t.Errorf("a reader came with the error: %v", resp)
				}
			})
			rig.atRest()
		})
	}
}

func TestBrokerWrongChannel(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(echoHandler)
	stranger := rig.consumerOn(uuid.New())
	began := time.Now()
	resp, err := stranger.Send(strings.NewReader("hello"), 5*time.Second)
	if resp != nil || !errors.Is(err, socket.ErrNoProvider) || !socket.Retryable(err) {
		t.Errorf("got %v, %v, want a retryable ErrNoProvider", resp, err)
	}
	if took := time.Since(began); took > atOnce {
		t.Errorf("it took %v", took)
	}
	echoes(t, rig.consumer(), "the right channel")
}

// Whoever ignores an error finds nil, not an interface that holds a nil pointer.
func TestBrokerReadersAreNilOnErrors(t *testing.T) {
	failing := errors.New("the caller's own reader failed")
	for _, test := range []struct {
		name    string
		handler socket.Handler // nil: no provider
		body    io.Reader
		prepare func(*brokerRig, *socket.Consumer)
		want    error // nil: any
	}{
		{name: "no provider", body: strings.NewReader("x"), want: socket.ErrNoProvider},
		{name: "timeout", handler: deafHandler, body: strings.NewReader("x"), want: context.DeadlineExceeded},
		{name: "the provider's error", body: strings.NewReader("x"), handler: func(context.Context, *socket.Request) (io.Reader, error) {
			return nil, errors.New("no")
		}},
		{name: "the body fails", handler: deafHandler, body: io.MultiReader(strings.NewReader("x"), errorReader{failing}), want: failing},
		{name: "closed", handler: echoHandler, body: strings.NewReader("x"), want: socket.ErrClosed,
			prepare: func(_ *brokerRig, c *socket.Consumer) { _ = c.Close() }},
		{name: "no server", handler: echoHandler, body: strings.NewReader("x"),
			prepare: func(b *brokerRig, _ *socket.Consumer) { _ = b.server.Stop() }},
	} {
		for name, send := range map[string]func(*socket.Consumer, io.Reader) (any, error){
			"Send": func(c *socket.Consumer, body io.Reader) (any, error) {
				resp, err := c.Send(body, 200*time.Millisecond)
				if resp == nil {
					return nil, err
				}
				return resp, err
			},
			"SendContext": func(c *socket.Consumer, body io.Reader) (any, error) {
				ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
				defer cancel()
				resp, err := c.SendContext(ctx, body)
				if resp == nil {
					return nil, err
				}
				return resp, err
			},
		} {
			t.Run(test.name+"/"+name, func(t *testing.T) {
				rig := newBrokerRig(t)
				if test.handler != nil {
					rig.answering(test.handler)
				}
				consumer := rig.consumer()
				if test.prepare != nil {
					test.prepare(rig, consumer)
				}
				resp, err := send(consumer, io.MultiReader(strings.NewReader("head"), test.body))
				if err == nil || resp != nil {
					t.Fatalf("got %#v, %v, want nil and an error", resp, err)
				}
				if test.want != nil && !errors.Is(err, test.want) {
					t.Errorf("got %v, want %v", err, test.want)
				}
			})
		}
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestBrokerConstructorsWithNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	_ = l.Close()
	for _, addr := range []string{nobody, "", "127.0.0.1", "127.0.0.1:notaport", "127.0.0.1:70000", "::::"} {
		t.Run(addr, func(t *testing.T) {
			returnsWithin(t, 15*time.Second, "the constructors", func() {
				if c, err := socket.NewConsumer(addr, uuid.New(), quietBroker()); c != nil || err == nil {
					t.Errorf("NewConsumer(%q): got %v, %v", addr, c, err)
				}
				if p, err := socket.NewProvider(addr, uuid.New(), quietBroker()); p != nil || err == nil {
					t.Errorf("NewProvider(%q): got %v, %v", addr, p, err)
				}
			})
		})
	}
}

// A provider that answers one request after the other is slow, and right.
func TestBrokerSequentialProvider(t *testing.T) {
	rig := newBrokerRig(t)
	provider := rig.provider()
	var running, most atomic.Int32
	go func() {
		for {
			reqID, r, ok := provider.Receive()
			if !ok {
				return
			}
			most.Store(max(most.Load(), running.Add(1)))
			<-time.After(5 * time.Millisecond) // Blocks next request
			result, err := io.ReadAll(r)
			running.Add(-1)
			_ = provider.Respond(reqID, bytes.NewReader(result), err)
		}
	}()
	consumer := rig.consumer()
	var wg sync.WaitGroup
	for range 30 {
		wg.Go(func() {
			if got, err := exchange(consumer, "job", 5*time.Second); err != nil || got != "job" {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if most.Load() != 1 {
		t.Errorf("%d requests ran at once", most.Load())
	}
}

func TestBrokerWholeFileInMemory(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(echoHandler)
	const size = 16 << 20
	data, err := io.ReadAll(stamp(1, size))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := rig.consumer().Send(bytes.NewReader(data), 60*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := isStamp(resp, 1, size); err != nil {
		t.Error(err)
	}
	rig.atRest()
}
