package socket_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// slowLink passes connections on to target, perSecond bytes a second in the slow direction.
func slowLink(t *testing.T, target string, slow, perSecond int) (addr string) {
	t.Helper()
	var pauses [2]time.Duration
	pauses[slow] = time.Second / time.Duration(perSecond)
	pass := func(from, to net.Conn, pause time.Duration) {
		defer to.(*net.TCPConn).CloseWrite()
		buf := make([]byte, 8<<10)
		for {
			n, err := from.Read(buf)
			select {
			case <-time.After(pause * time.Duration(n)):
			case <-t.Context().Done():
				return
			}
			if _, writeErr := to.Write(buf[:n]); err != nil || writeErr != nil {
				return
			}
		}
	}
	url := listener(t, func(client net.Conn) {
		server, err := net.Dial("tcp", target)
		if err != nil {
			return
		}
		defer server.Close()
		for _, conn := range []net.Conn{client, server} {
			_ = conn.(*net.TCPConn).SetReadBuffer(64 << 10)
			defer context.AfterFunc(t.Context(), func() { _ = conn.Close() })()
		}
		var both sync.WaitGroup
		both.Go(func() { pass(client, server, pauses[toServer]) })
		both.Go(func() { pass(server, client, pauses[toClient]) })
		both.Wait()
	})
	return strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/ws")
}

// When Serve has returned because its context had ended, and the provider is closed, every answer has come.
func TestBrokerServeDelivers(t *testing.T) {
	const requests, size = 8, 60 << 10
	a := newAuthority(t)
	secure := socket.WithTLS(&tls.Config{RootCAs: a.pool})
	for _, test := range []struct {
		name   string
		server []socket.ServerOption
		client []socket.ClientOption
	}{
		{name: "plain"},
		{"TLS", []socket.ServerOption{socket.WithTLS(&tls.Config{Certificates: []tls.Certificate{a.server()}})}, []socket.ClientOption{secure}},
		{name: "another's connection", client: []socket.ClientOption{socket.WithDial(opaqueDial)}},
	} {
		for _, link := range []string{"a fast link", "a slow link"} {
			t.Run(test.name+", "+link, func(t *testing.T) {
				t.Parallel()
				rig := newBrokerRig(t, test.server...)
				near := *rig
				if link == "a slow link" {
					near.addr = slowLink(t, rig.addr, toServer, 800<<10) // more than half a second for all answers
				}
				provider := near.provider(test.client...)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				finish, served := make(chan struct{}), make(chan error, 1)
				go func() {
					served <- provider.Serve(ctx, func(context.Context, *socket.Request) (io.Reader, error) {
						<-finish
						return stamp(7, size), nil
					})
				}()
				consumer, outcomes := rig.consumer(test.client...), make(chan error, requests)
				for range requests {
					go func() {
						resp, err := consumer.Send(strings.NewReader("question"), 20*time.Second)
						if err == nil {
							err = isStamp(resp, 7, size)
						}
						outcomes <- err
					}()
				}
				eventually(t, "all requests run", func() bool { return rig.far.Stats().Streams == requests })
				leave()
				close(finish)
				if err := await(t, served, "Serve returns"); err != nil {
					t.Errorf("Serve: %v", err)
				}
				_ = provider.Close()
				for range requests {
					if err := await(t, outcomes, "the outcome"); err != nil {
						t.Errorf("an answer was lost: %v", err)
					}
				}
			})
		}
	}
}

// The answers that a patient Shutdown waits for are those that were read, not those that were given to the network.
func TestBrokerShutdownWaitsForSlowReaders(t *testing.T) {
	const size = 2 << 20
	rig := newBrokerRig(t)
	rig.answering(func(context.Context, *socket.Request) (io.Reader, error) { return stamp(7, size), nil })
	far := *rig
	far.addr = slowLink(t, rig.addr, toClient, 2<<20)
	resp, err := far.consumer().Send(strings.NewReader("question"), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() { read <- isStamp(resp, 7, size) }()
	returnsWithin(t, 10*time.Second, "Shutdown", func() {
		if err := rig.server.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	if err := await(t, read, "the end of the answer"); err != nil {
		t.Errorf("Shutdown has cut the answer: %v", err)
	}
}

// Of several calls that stop a server the least patient counts.
func TestBrokerStopDuringShutdown(t *testing.T) {
	for name, stop := range map[string]func(*socket.Server) error{
		"Stop": (*socket.Server).Stop,
		"Shutdown without patience": func(s *socket.Server) error {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := s.Shutdown(ctx); !errors.Is(err, context.Canceled) {
				return errors.New("it did not say that a request was cut off")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newBrokerRig(t)
			rig.answering(deafHandler)
			consumer, outcome, patient := rig.consumer(), make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := consumer.Send(strings.NewReader("work without end"), 30*time.Second)
				outcome <- err
			}()
			eventually(t, "the request runs", func() bool { return rig.server.Stats().Streams == 1 })
			go func() { patient <- rig.server.Shutdown(context.Background()) }()
			eventually(t, "the server is leaving", func() bool {
				_, err := consumer.Send(strings.NewReader("new"), 20*time.Millisecond)
				return errors.Is(err, socket.ErrDraining)
			})
			returnsWithin(t, 5*time.Second, name, func() {
				if err := stop(rig.server); err != nil {
					t.Error(err)
				}
			})
			if stats := rig.server.Stats(); stats.Consumers+stats.Providers+stats.Streams > 0 {
				t.Errorf("the server runs on: %+v", stats)
			}
			if err := await(t, patient, "the first Shutdown"); err == nil {
				t.Error("the first Shutdown says that nothing was cut off")
			}
			if err := await(t, outcome, "Send returns"); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("the request that was cut off: got %v", err)
			}
		})
	}
}

// closeTeller is a connection that tells when it is closed.
type closeTeller struct {
	net.Conn
	closed chan struct{}
	once   sync.Once
}

func (c *closeTeller) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// The provider's Serve returns while it dials a broker that was away: it is not to be chosen by it.
func TestBrokerRetiredProviderStaysAway(t *testing.T) {
	first, second := newBrokerRig(t), newBrokerRig(t)
	dialling, dial := make(chan struct{}), make(chan struct{})
	again := &closeTeller{closed: make(chan struct{})}
	var dials atomic.Int32
	provider := first.provider(socket.WithDial(func(ctx context.Context, network, _ string) (net.Conn, error) {
		if dials.Add(1) == 1 {
			return new(net.Dialer).DialContext(ctx, network, first.addr)
		}
		close(dialling)
		<-dial
		var err error
		again.Conn, err = new(net.Dialer).DialContext(ctx, network, second.addr)
		return again, err
	}))
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	served := make(chan error, 1)
	go func() { served <- provider.Serve(ctx, echoHandler) }()
	_ = first.server.Stop()
	await(t, dialling, "the provider dials again")
	leave()
	if err := await(t, served, "Serve returns"); err != nil {
		t.Errorf("Serve: %v", err)
	}
	close(dial)
	await(t, again.closed, "the new connection is closed")
	eventually(t, "it is gone", func() bool { return second.server.Stats().Providers == 0 })
	_ = provider.Close()
	if n := dials.Load(); n != 2 {
		t.Errorf("it dialled %d times, want 2", n)
	}
}

// A handler that ends its goroutine, as t.FailNow does, costs its request and nothing else.
func TestBrokerHandlerThatExits(t *testing.T) {
	rig := newBrokerRig(t, socket.WithLimits(socket.Limits{Streams: 1})) // it has the only goroutine
	rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
		if r.Metadata["do"] == "exit" {
			runtime.Goexit()
		}
		return r.Reader, nil
	})
	consumer := rig.consumer()
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		resp, err := consumer.SendContext(ctx, strings.NewReader("question"), socket.WithMetadata(map[string]string{"do": "exit"}))
		if err == nil {
			_, err = io.ReadAll(resp)
		}
		if remote := (*socket.RemoteError)(nil); !errors.As(err, &remote) {
			t.Errorf("got %v, want a RemoteError", err)
		}
		cancel()
		echoes(t, consumer, "hello")
	}
}

// An authorizer that does not return is called at most as often as there may be connections, and Stop does not
// wait for it.
func TestBrokerAuthorizerThatBlocks(t *testing.T) {
	const limit, clients = 5, 20
	var calls atomic.Int64
	finish := make(chan struct{})
	defer close(finish)
	rig := newBrokerRig(t, socket.WithLimits(socket.Limits{Connections: limit}), socket.WithAuthorizer(func(socket.Peer) error {
		calls.Add(1)
		<-finish
		return nil
	}))
	outcomes := make(chan error, clients)
	for range clients {
		go func() {
			c, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker())
			if err == nil {
				_ = c.Close()
			}
			outcomes <- err
		}()
	}
	for range clients - limit {
		if err := await(t, outcomes, "a client too many"); err == nil {
			t.Error("a client was let in")
		}
	}
	eventually(t, "the authorizer is asked", func() bool { return calls.Load() >= limit })
	if took := returnsWithin(t, 8*time.Second, "Stop", func() { _ = rig.server.Stop() }); took > 2*time.Second {
		t.Errorf("Stop took %v", took)
	}
	for range limit {
		if err := await(t, outcomes, "a client that waited"); err == nil {
			t.Error("a client was let in")
		}
	}
	if n := calls.Load(); n != limit {
		t.Errorf("the authorizer was called %d times, want %d", n, limit)
	}
}

func TestBrokerAuthorizerThatStopsTheServer(t *testing.T) {
	var server atomic.Pointer[socket.Server]
	stopped := make(chan struct{})
	rig := newBrokerRig(t, socket.WithAuthorizer(func(socket.Peer) error {
		defer close(stopped)
		return server.Load().Stop()
	}))
	server.Store(rig.server)
	if c, err := socket.NewConsumer(rig.addr, rig.channel, quietBroker()); err == nil {
		_ = c.Close()
		t.Error("a client was let in")
	}
	await(t, stopped, "Stop returns in the authorizer")
}

func TestBrokerDialOfNothing(t *testing.T) {
	rig := newBrokerRig(t)
	nothing := socket.WithDial(func(context.Context, string, string) (net.Conn, error) { return nil, nil })
	for role, err := range connectBoth(rig.addr, rig.channel, nothing) {
		if err == nil {
			t.Errorf("%v: a dial function returned nothing, and it is connected", role)
		}
	}
}

func TestBrokerServerTokenTooLong(t *testing.T) {
	for size, ok := range map[int]bool{4 << 10: true, 4<<10 + 1: false} {
		server := socket.NewServer("0", quietBroker(), socket.WithToken(strings.Repeat("x", size)))
		if err := server.Start(); (err == nil) != ok {
			t.Errorf("Start with a token of %d bytes: got %v", size, err)
		}
		_ = server.Stop()
	}
}

// A Send whose reader holds all in memory has read it when it returns, also where it does not fit one frame.
func TestBrokerSendReadsWhatIsInMemory(t *testing.T) {
	const size, rounds = 64 << 10, 50
	rig := newBrokerRig(t)
	rig.answering(func(context.Context, *socket.Request) (io.Reader, error) { return strings.NewReader("at once"), nil })
	consumer := rig.consumer()
	for name, metadata := range map[string]map[string]string{"no metadata": nil, "metadata": {"key": strings.Repeat("x", 8000)}} {
		t.Run(name, func(t *testing.T) {
			for range rounds {
				body := bytes.NewBuffer(make([]byte, size))
				resp, err := consumer.SendContext(t.Context(), body, socket.WithMetadata(metadata))
				if err != nil {
					t.Fatal(err)
				}
				if n := body.Len(); n > 0 {
					t.Fatalf("%d bytes of %d were not read when Send returned", n, size)
				}
				_ = resp.Close()
			}
		})
	}
}
