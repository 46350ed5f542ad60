package socket_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"bytes"
	"crypto/tls"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

func TestBrokerServerOutOfOrder(t *testing.T) {
	server := socket.NewServer("0", quietBroker())
	_, _, _ = server.Port(), server.Addr(), server.Stats()
	if err := server.Start(); err != nil {
		t.Fatalf("Start: %v", err)
	}
	if err := server.Start(); err == nil {
		t.Error("the second Start gave no error")
	}
	if c, err := socket.NewConsumer("127.0.0.1:"+server.Port(), uuid.New(), quietBroker()); err != nil {
		t.Errorf("the server does not serve after a second Start: %v", err)
	} else {
		_ = c.Close()
	}
	port := server.Port()
	for range 2 {
		if err := server.Stop(); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	if err := server.Shutdown(t.Context()); err != nil && !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Shutdown after Stop: %v", err)
	}
	if stats := server.Stats(); stats.Consumers+stats.Providers+stats.Streams+stats.Handshakes != 0 || stats.Reserved != 0 {
		t.Errorf("left after Stop: %+v", stats)
	}
	if c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, time.Second); err == nil {
		_ = c.Close()
		t.Error("somebody listens after Stop")
	}
	if err := server.Start(); err == nil { // refused, or it serves again
		echoesThrough(t, server)
	}
	_ = server.Stop()

	never := socket.NewServer("0", quietBroker())
	returnsWithin(t, time.Second, "Stop and Shutdown before Start", func() { _, _ = never.Stop(), never.Shutdown(t.Context()) })
	if err := never.Start(); err == nil {
		echoesThrough(t, never)
	}
	_ = never.Stop()
}

func echoesThrough(t *testing.T, server *socket.Server) {
	t.Helper()
	rig := &brokerRig{t: t, server: server, addr: "127.0.0.1:" + server.Port(), channel: uuid.New()}
	rig.answering(echoHandler)
	echoes(t, rig.consumer(), "hello")
}

func TestBrokerPorts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, taken, _ := net.SplitHostPort(l.Addr().String())
	for _, test := range []struct {
		port string
		want []string // in the error
	}{
		{taken, []string{taken, "in use"}},
		{"notaport", []string{"notaport"}},
		{"-1", []string{"-1"}},
		{"70000", []string{"70000"}},
		{"80 80", []string{"80 80"}},
		{"127.0.0.1:0:0", []string{"127.0.0.1:0:0"}},
	} {
		t.Run(test.port, func(t *testing.T) {
			server := socket.NewServer(test.port, quietBroker())
			err := server.Start()
			if err == nil {
				_ = server.Stop()
				t.Fatal("Start gave no error")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error %q does not mention %q", err, part)
				}
			}
			if err := server.Stop(); err != nil {
				t.Errorf("Stop after a failed Start: %v", err)
			}
		})
	}
}

// Stop takes its half second where requests run, and no time where none do.
func TestBrokerStopWithClients(t *testing.T) {
	for _, test := range []struct {
		name  string
		busy  int
		idle  int
		limit time.Duration
	}{
		{"idle", 0, 20, 400 * time.Millisecond},
		{"busy", 20, 20, 2 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			rig := newBrokerRig(t)
			started := make(chan struct{}, test.busy)
			rig.answering(func(ctx context.Context, r *socket.Request) (io.Reader, error) {
				started <- struct{}{}
				return deafHandler(ctx, r)
			})
			for range test.idle {
				rig.consumer()
				rig.provider()
			}
			// Requests go to those with the fewest, so most of them wait at a provider that does not receive.
			consumer, outcomes := rig.consumer(), make(chan error, test.busy)
			for range test.busy {
				go func() {
					_, err := consumer.Send(strings.NewReader("work without end"), 30*time.Second)
					outcomes <- err
				}()
			}
			eventually(t, "all requests run", func() bool { return rig.server.Stats().Streams >= test.busy })
			took := returnsWithin(t, 10*time.Second, "Stop", func() { _ = rig.server.Stop() })
			if took > test.limit {
				t.Errorf("Stop took %v, want at most %v", took, test.limit)
			}
			for range test.busy {
				if err := await(t, outcomes, "Send returns"); err == nil || errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a request that was cut: got %v, want an error at once", err)
				}
			}
		})
	}
}

func TestBrokerShutdownDrains(t *testing.T) {
	rig := newBrokerRig(t)
	started, finish := make(chan struct{}), make(chan struct{})
	rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
		close(started)
		<-finish
		return r.Reader, nil
	})
	consumer, answer := rig.consumer(), make(chan error, 1)
	go func() {
		got, err := exchange(consumer, "running", 10*time.Second)
		if err == nil && got != "running" {
			err = errors.New("got " + got)
		}
		answer <- err
	}()
	await(t, started, "the request runs")

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	short := make(chan error, 1)
	go func() { short <- rig.server.Shutdown(ctx) }()
	eventually(t, "new requests are refused", func() bool {
		_, err := consumer.Send(strings.NewReader("new"), time.Second)
		return errors.Is(err, socket.ErrDraining) && socket.Retryable(err)
	})
	if err := await(t, short, "Shutdown ends with its context"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown with a request that runs on: got %v, want its context's error", err)
	}
	close(finish)
	// The first Shutdown has cut the request or left it running: either way it has one outcome.
	err := await(t, answer, "the running request ends")
	t.Logf("the running request: %v", err)
	returnsWithin(t, 5*time.Second, "Stop", func() { _ = rig.server.Stop() })
}

func TestBrokerCloseInTheMiddle(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	type ends struct {
		rig      *brokerRig
		consumer *socket.Consumer
		provider *socket.Provider
	}
	send := func(e ends) error {
		resp, err := e.consumer.Send(io.MultiReader(strings.NewReader("x"), trickle{stop}), 20*time.Second)
		if err == nil {
			_, err = io.Copy(io.Discard, resp)
		}
		return err
	}
	for _, test := range []struct {
		name  string
		run   func(ends) error // returns once what it does has been cut
		sends bool             // a request runs beside it
		close func(ends) error
		want  error // of run; nil: any error
	}{
		{"Consumer.Close in Send", send, false, func(e ends) error { return e.consumer.Close() }, socket.ErrClosed},
		{"Provider.Close in Send", send, false, func(e ends) error { return e.provider.Close() }, socket.ErrProviderLost},
		{"Server.Stop in Send", send, false, func(e ends) error { return e.rig.server.Stop() }, nil},
		{"Provider.Close in ReceiveContext", func(e ends) error {
			for {
				if _, err := e.provider.ReceiveContext(context.Background()); err != nil {
					return err
				}
			}
		}, true, func(e ends) error { return e.provider.Close() }, socket.ErrClosed},
		{"Provider.Close in Serve", func(e ends) error {
			_ = e.provider.Serve(context.Background(), deafHandler)
			return errors.New("it has ended")
		}, true, func(e ends) error { return e.provider.Close() }, nil},
		{"Provider.Close in an answer", func(e ends) error {
			req, err := e.provider.ReceiveContext(context.Background())
			if err != nil {
				return err
			}
			if err := e.provider.Respond(req.ID, trickle{stop}, nil); err != nil {
				return err
			}
			<-req.Context.Done() // where Respond does not wait for the end of the answer
			return req.Context.Err()
		}, true, func(e ends) error { return e.provider.Close() }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := ends{rig: newBrokerRig(t)}
			e.provider, e.consumer = e.rig.provider(), e.rig.consumer()
			sent, ran := make(chan error, 1), make(chan error, 1)
			if test.sends {
				go func() { sent <- send(e) }()
			}
			go func() { ran <- test.run(e) }()
			eventually(t, "the request runs", func() bool { return e.rig.far.Stats().Streams > 0 })
			took := returnsWithin(t, 5*time.Second, "Close", func() {
				if err := test.close(e); err != nil {
					t.Errorf("Close: %v", err)
				}
			})
			if took > 2*time.Second {
				t.Errorf("Close took %v", took)
			}
			if err := await(t, ran, "what ran has ended"); err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if test.sends {
				if err := await(t, sent, "Send has ended"); !errors.Is(err, socket.ErrProviderLost) {
					t.Errorf("Send: got %v, want ErrProviderLost", err)
				}
			}
			e.rig.atRest()
		})
	}
}

// Every method, in any order, from many goroutines at once: errors, but no panic and nothing that hangs.
func TestBrokerAnyOrder(t *testing.T) {
	const rounds, goroutines, steps = 20, 8, 25
	for round := range uint64(rounds) {
		server := socket.NewServer("0", quietBroker())
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
		addr, channel := "127.0.0.1:"+server.Port(), uuid.New()
		consumer, err := socket.NewConsumer(addr, channel, quietBroker())
		if err != nil {
			t.Fatal(err)
		}
		provider, err := socket.NewProvider(addr, channel, quietBroker())
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		ids := []uuid.UUID{{}} // received, by whomever
		short := func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(t.Context(), 10*time.Millisecond)
		}
		methods := []func(random *rand.Rand){
			func(*rand.Rand) { _, _ = consumer.Send(nil, 5*time.Millisecond) },
			func(*rand.Rand) { _, _ = consumer.Send(strings.NewReader("x"), 5*time.Millisecond) },
			func(*rand.Rand) { _, _ = exchange(consumer, "x", 5*time.Millisecond) },
			func(*rand.Rand) { _, _ = consumer.Send(stamp(1, 1<<20), 5*time.Millisecond) },
			func(*rand.Rand) {
				ctx, cancel := short()
				defer cancel()
				if resp, err := consumer.SendContext(ctx, panicReader{}); err == nil {
					_ = resp.Close()
				}
			},
			func(*rand.Rand) {
				ctx, cancel := short()
				defer cancel()
				if req, err := provider.ReceiveContext(ctx); err == nil {
					mu.Lock()
					defer mu.Unlock()
					ids = append(ids, req.ID)
				}
			},
			func(random *rand.Rand) {
				mu.Lock()
				id := ids[random.IntN(len(ids))]
				mu.Unlock()
				readers := []io.Reader{nil, strings.NewReader("y"), stamp(2, 1<<20), panicReader{}, (*strings.Reader)(nil)}
				_ = provider.Respond(id, readers[random.IntN(len(readers))], nil)
			},
			func(*rand.Rand) { ctx, cancel := short(); defer cancel(); _ = provider.Serve(ctx, echoHandler) },
			func(*rand.Rand) { _, _, _ = server.Port(), server.Addr(), server.Stats() },
			func(*rand.Rand) { _ = server.Start() },
			func(random *rand.Rand) { // the ends, so rarely that the others come first
				switch random.IntN(12) {
				case 0:
					_ = consumer.Close()
				case 1:
					_ = provider.Close()
				case 2:
					_ = server.Stop()
				case 3:
					ctx, cancel := short()
					defer cancel()
					_ = server.Shutdown(ctx)
				}
			},
		}
		returnsWithin(t, 20*time.Second, "a round of all methods", func() {
			var wg sync.WaitGroup
			for n := range uint64(goroutines) {
				random := rand.New(rand.NewPCG(round, n))
				wg.Go(func() {
					for range steps {
						methods[random.IntN(len(methods))](random)
					}
				})
			}
			wg.Wait()
			var closing sync.WaitGroup
			for range 2 {
				closing.Go(func() { _ = provider.Close() })
				closing.Go(func() { _ = server.Stop() })
				closing.Go(func() { _ = consumer.Close() })
			}
			closing.Wait()
		})
	}
}

// stallingConn is a connection of a process that stops reading.
type stallingConn struct {
	net.Conn
	stalled <-chan struct{}
	closed  chan struct{}
	once    sync.Once
}

func (c *stallingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	select {
	case <-c.stalled:
		<-c.closed
	default:
	}
	return n, err
}

func (c *stallingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// The broker has megabytes to say to a client that does not read, and is to stop.
func TestBrokerStopWithAClientThatDoesNotRead(t *testing.T) {
	a := newAuthority(t)
	for name, options := range map[string]struct {
		server []socket.ServerOption
		client []socket.ClientOption
	}{
		"plain": {},
		"TLS": {
			[]socket.ServerOption{socket.WithTLS(&tls.Config{Certificates: []tls.Certificate{a.server()}})},
			[]socket.ClientOption{socket.WithTLS(&tls.Config{RootCAs: a.pool})},
		},
	} {
		t.Run(name, func(t *testing.T) {
			const answers, size = 400, 64 << 10
			rig := newBrokerRig(t, options.server...)
			rig.serve(rig.provider(options.client...), func(context.Context, *socket.Request) (io.Reader, error) {
				return bytes.NewReader(make([]byte, size)), nil
			})
			stalled := make(chan struct{})
			consumer := rig.consumer(append(options.client, socket.WithDial(func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				return &stallingConn{Conn: conn, stalled: stalled, closed: make(chan struct{})}, err
			}))...)
			close(stalled)
			for range answers {
				go func() { _, _ = consumer.Send(strings.NewReader("question"), 30*time.Second) }()
			}
			eventually(t, "the broker is stuck with answers", func() bool {
				stats := rig.server.Stats()
				return stats.Requests.Opened == answers && stats.Reserved > answers*size/2
			})
			if took := returnsWithin(t, 10*time.Second, "Stop", func() { _ = rig.server.Stop() }); took > 2*time.Second {
				t.Errorf("Stop took %v, want at most 2 s", took)
			}
		})
	}
}
