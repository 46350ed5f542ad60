package socket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
	"github.com/usageflow/usageflow-go-middleware/socket/transporttest"
)

func quietPool(t *testing.T, url string) *socket.UsageFlowSocketManager {
	t.Helper()
	pool, err := socket.NewManager(socket.ManagerConfig{APIKey: "key", URL: url, PoolSize: 2, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	return pool
}

func TestPoolIsATransport(t *testing.T) {
	transporttest.Run(t, func(t *testing.T, url string) socket.Transport { return quietPool(t, url) })
}

// sidecarRig is a broker with a sidecar: what comes on its channel goes to the service at url.
func sidecarRig(t *testing.T, url string) *brokerRig {
	t.Helper()
	rig := newBrokerRig(t)
	rig.channel = socket.SidecarChannel
	pool := quietPool(t, url)
	if err := socket.ServeTransport(rig.provider(), pool); err != nil {
		t.Fatal(err)
	}
	return rig
}

func TestBrokerTransport(t *testing.T) {
	transporttest.Run(t, func(t *testing.T, url string) socket.Transport {
		return socket.NewBrokerTransport(sidecarRig(t, url).consumer())
	})
}

func reserve(alias string) *socket.UsageFlowSocketMessage {
	return &socket.UsageFlowSocketMessage{Type: socket.TypeRequestForAllocation, Payload: &socket.RequestForAllocation{Alias: alias, Amount: 1}}
}

// Two workers may use the same ids: the sidecar's pool has its own.
func TestSidecarsWorkersShareNoIDs(t *testing.T) {
	srv := sockettest.New(t)
	rig := sidecarRig(t, srv.URL)
	ready := make(chan struct{})
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		return sockettest.OK(map[string]any{"alias": m.Allocation().Alias}).After(ready)
	})
	const workers = 20
	errs := make(chan error, workers)
	for i := range workers {
		tr := socket.NewBrokerTransport(rig.consumer())
		go func() {
			m := reserve(fmt.Sprint(i))
			m.ID = "1"
			resp, err := tr.Call(t.Context(), m)
			if err == nil && (resp.ReplyTo != "1" || fmt.Sprint(resp.Payload) != fmt.Sprintf("map[alias:%d]", i)) {
				err = fmt.Errorf("worker %d got %+v", i, resp)
			}
			errs <- err
		}()
	}
	if err := srv.WaitFor(t.Context(), func(r *sockettest.Record) bool { return r.Count(socket.TypeRequestForAllocation) == workers }); err != nil {
		t.Fatal(err)
	}
	close(ready)
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// What a worker sends that is no message costs it its answer, and the others nothing.
func TestSidecarTakesMessagesOnly(t *testing.T) {
	srv := sockettest.New(t)
	rig := sidecarRig(t, srv.URL)
	consumer := rig.consumer()
	tr := socket.NewBrokerTransport(rig.consumer())
	if _, err := tr.Call(t.Context(), reserve("before")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "no JSON": "hello", "no type": `{"payload":{}}`, "half a message": `{"type":"x","payload":{"a":`,
		"a payload that is no JSON": `{"type":"x","payload":{"a":01}}`, "more than the service takes": `{"type":"x","payload":"` + strings.Repeat("x", 1<<20) + `"}`,
		"two messages": `{"type":"x","payload":null}{"type":"y","payload":null}`,
	} {
		for _, kind := range []string{"", "notify"} {
			answer, err := consumer.SendContext(t.Context(), strings.NewReader(text), socket.WithMetadata(map[string]string{"kind": kind}))
			if err == nil {
				_, err = io.ReadAll(answer)
			}
			if remote := (*socket.RemoteError)(nil); !errors.As(err, &remote) {
				t.Errorf("%s, kind %q: %v", name, kind, err)
			}
		}
	}
	if _, err := tr.Call(t.Context(), reserve(strings.Repeat("x", 1<<20))); err == nil {
		t.Error("a message over 1 MiB was taken")
	}
	if _, err := tr.Call(t.Context(), reserve("after")); err != nil {
		t.Error(err)
	}
	if err := srv.CheckProtocol(); err != nil {
		t.Error(err)
	}
	if n := srv.Handshakes(); n != 2 {
		t.Errorf("%d handshakes: a connection was lost", n)
	}
}

// scripted is a transport that answers as it is told.
type scripted struct {
	socket.Transport
	err error
}

func (s scripted) Call(context.Context, *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	return nil, s.err
}

// The sidecar's errors arrive as what they are. That the sidecar's own pool is closed is not that the worker's transport is.
func TestSidecarsErrors(t *testing.T) {
	kinds := []error{
		socket.ErrNotConnected, socket.ErrClosed, socket.ErrUnauthorized, socket.ErrTimeout, context.DeadlineExceeded, socket.ErrConnectionLost,
		socket.ErrQueueFull, socket.ErrDuplicateID, context.Canceled,
	}
	other := errors.New("something else: not_connected")
	for _, tc := range []struct {
		err  error
		want []error
	}{
		{socket.ErrNotConnected, []error{socket.ErrNotConnected}},
		{fmt.Errorf("%w: %w", socket.ErrNotConnected, socket.ErrUnauthorized), []error{socket.ErrNotConnected, socket.ErrUnauthorized}},
		{socket.ErrTimeout, []error{socket.ErrTimeout, context.DeadlineExceeded}},
		{socket.ErrConnectionLost, []error{socket.ErrConnectionLost}},
		{socket.ErrQueueFull, []error{socket.ErrQueueFull}},
		{socket.ErrDuplicateID, []error{socket.ErrDuplicateID}},
		{socket.ErrClosed, []error{socket.ErrNotConnected}},
		{context.Canceled, []error{context.Canceled}},
		{other, nil},
		{nil, nil}, // no reply and no error
	} {
		rig := newBrokerRig(t)
		rig.channel = socket.SidecarChannel
		if err := socket.ServeTransport(rig.provider(), scripted{err: tc.err}); err != nil {
			t.Fatal(err)
		}
		resp, err := socket.NewBrokerTransport(rig.consumer()).Call(t.Context(), reserve("x"))
		if resp != nil || err == nil {
			t.Errorf("%v: got %v, %v", tc.err, resp, err)
			continue
		}
		for _, kind := range kinds {
			want := false
			for _, w := range tc.want {
				want = want || w == kind
			}
			if errors.Is(err, kind) != want {
				t.Errorf("%v became %v: errors.Is(%v) is %v", tc.err, err, kind, !want)
			}
		}
		if tc.err != nil && !strings.Contains(err.Error(), tc.err.Error()) {
			t.Errorf("%q became %q", tc.err, err)
		}
	}
	if socket.ServeTransport(nil, nil) == nil {
		t.Error("no error without a provider")
	}
}

// A broker without a sidecar is a service that is not there; so is one that has gone, until it is back.
func TestSidecarIsAway(t *testing.T) {
	srv := sockettest.New(t)
	rig := newBrokerRig(t)
	rig.channel = socket.SidecarChannel
	tr := socket.NewBrokerTransport(rig.consumer())
	if _, err := tr.Call(t.Context(), reserve("x")); !errors.Is(err, socket.ErrNotConnected) || !errors.Is(err, socket.ErrNoProvider) {
		t.Fatalf("got %v", err)
	}
	if tr.IsConnected() {
		t.Error("connected, without a sidecar")
	}
	if err := socket.ServeTransport(rig.provider(), quietPool(t, srv.URL)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sidecar is found", tr.IsConnected)
	if _, err := tr.Call(t.Context(), reserve("x")); err != nil {
		t.Error(err)
	}
	start := time.Now()
	if err := rig.server.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := tr.Call(t.Context(), reserve("x"))
	if !errors.Is(err, socket.ErrNotConnected) || time.Since(start) > 3*time.Second {
		t.Errorf("after the broker has stopped: %v", err)
	}
	if err := tr.Notify(t.Context(), &socket.UsageFlowSocketMessage{Type: "x", Payload: bytes.NewBuffer(nil)}); !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("a notification: %v", err)
	}
}
