package socket_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// sidecarLane is a worker's lane to the service, and the service.
func sidecarLane(t *testing.T) (*sockettest.Server, *brokerRig, wire.LaneTransport) {
	t.Helper()
	srv := sockettest.New(t)
	rig := sidecarRig(t, srv.URL)
	tr := socket.NewBrokerTransport(rig.consumer())
	t.Cleanup(func() { _ = tr.Close() })
	if _, err := tr.Call(t.Context(), reserve("first")); err != nil {
		t.Fatal(err)
	}
	lanes, ok := tr.(wire.LaneTransport)
	if !ok || lanes.Self() != any(tr) {
		t.Fatal("it has no lanes")
	}
	return srv, rig, lanes
}

func laneOf(t *testing.T, lanes wire.LaneTransport) wire.Lane {
	t.Helper()
	lane, err := lanes.Lane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return lane
}

func allocation(alias string) []byte { return []byte(`{"alias":"` + alias + `","amount":1}`) }

// What is posted on a lane arrives in that order, on one connection, and each message gets its own reply.
func TestSidecarLaneOrder(t *testing.T) {
	srv, _, lanes := sidecarLane(t)
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		return sockettest.OK(map[string]any{"alias": m.Allocation().Alias})
	})
	lane := laneOf(t, lanes)
	const messages = 2000
	dones := make([]*completion, messages)
	var written sync.WaitGroup
	for i := range dones {
		dones[i] = newCompletion()
		id := fmt.Sprint("id", i)
		if i%3 == 2 {
			id = ""
			written.Add(1)
			dones[i].then = written.Done
		}
		if err := lane.Post(socket.TypeRequestForAllocation, id, allocation(fmt.Sprint(i)), dones[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i, done := range dones {
		payload, err := done.await(t)
		if want := fmt.Sprintf(`[{"alias":"%d"}]`, i); err != nil || i%3 != 2 && payload != want {
			t.Fatalf("message %d: %q, %v", i, payload, err)
		}
	}
	written.Wait()
	conns := map[int]bool{}
	n := 0
	for _, m := range srv.Messages(socket.TypeRequestForAllocation)[1:] {
		if m.Allocation().Alias != fmt.Sprint(n) || (m.ID == "") != (n%3 == 2) {
			t.Fatalf("message %d came as %q with id %q", n, m.Allocation().Alias, m.ID)
		}
		conns[m.Conn] = true
		n++
	}
	if n != messages || len(conns) != 1 {
		t.Errorf("%d messages on %d connections", n, len(conns))
	}
}

// A message that is sent again is completed once; another one with its id is refused.
func TestSidecarLaneSendsAgain(t *testing.T) {
	srv, _, lanes := sidecarLane(t)
	ready := make(chan struct{})
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.OK(map[string]any{}).After(ready) })
	lane := laneOf(t, lanes)
	done := newCompletion()
	for range 2 {
		if err := lane.Post(socket.TypeUseAllocation, "a", allocation("x"), done); err != nil {
			t.Fatal(err)
		}
	}
	if err := lane.Post(socket.TypeUseAllocation, "a", allocation("y"), newCompletion()); !errors.Is(err, socket.ErrDuplicateID) {
		t.Errorf("another message with the id: %v", err)
	}
	if err := lane.Post(socket.TypeUseAllocation, "b", allocation(strings.Repeat("x", 1<<20)), newCompletion()); err == nil {
		t.Error("a message over 1 MiB was taken")
	}
	if err := srv.WaitFor(t.Context(), func(r *sockettest.Record) bool { return r.Count(socket.TypeUseAllocation) == 2 }); err != nil {
		t.Fatal(err)
	}
	close(ready)
	if _, err := done.await(t); err != nil {
		t.Error(err)
	}
	last := newCompletion()
	if err := lane.Post(socket.TypeUseAllocation, "a", allocation("x"), last); err != nil {
		t.Fatal(err)
	}
	if _, err := last.await(t); err != nil {
		t.Error(err)
	}
	if _, errs := done.results(); len(errs) != 1 {
		t.Errorf("completed %d times", len(errs))
	}
}

// A lane ends with its connection to the service: what was on it is told so, and another lane is to be had.
func TestSidecarLaneEnds(t *testing.T) {
	srv, rig, lanes := sidecarLane(t)
	lane := laneOf(t, lanes)
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Drop() })
	lost := newCompletion()
	if err := lane.Post(socket.TypeUseAllocation, "a", allocation("x"), lost); err != nil {
		t.Fatal(err)
	}
	if _, err := lost.await(t); !errors.Is(err, socket.ErrConnectionLost) {
		t.Errorf("got %v", err)
	}
	srv.Handle(nil)
	eventually(t, "the next lane works", func() bool {
		lane, err := lanes.Lane(t.Context())
		if err != nil {
			return false
		}
		done := newCompletion()
		if err := lane.Post(socket.TypeUseAllocation, "b", allocation("x"), done); err != nil {
			return false
		}
		_, err = done.await(t)
		return err == nil
	})
	lane = laneOf(t, lanes)
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
	waits := newCompletion()
	if err := lane.Post(socket.TypeUseAllocation, "c", allocation("x"), waits); err != nil {
		t.Fatal(err)
	}
	_ = rig.server.Stop()
	if _, err := waits.await(t); err == nil {
		t.Error("no error when the broker has stopped")
	}
	if lane.Alive() {
		t.Error("the lane is alive without a broker")
	}
	if err := lane.Post(socket.TypeUseAllocation, "d", allocation("x"), newCompletion()); !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("a message for a lane that has ended: %v", err)
	}
}

// A lane takes a bounded number of bytes, and Close completes what waits.
func TestSidecarLaneIsFull(t *testing.T) {
	srv, _, lanes := sidecarLane(t)
	srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Silence() })
	lane := laneOf(t, lanes)
	var dones []*completion
	for i := 0; ; i++ {
		done := newCompletion()
		err := lane.Post(socket.TypeUseAllocation, fmt.Sprint(i), allocation(strings.Repeat("x", 200<<10)), done)
		if errors.Is(err, socket.ErrQueueFull) {
			break
		}
		if err != nil || i > 1000 {
			t.Fatal(i, err)
		}
		dones = append(dones, done)
	}
	if err := lanes.(socket.Transport).Close(); err != nil {
		t.Error(err)
	}
	for _, done := range dones {
		if _, err := done.await(t); err == nil {
			t.Fatal("completed without an error by Close")
		}
	}
	if _, err := lanes.Lane(t.Context()); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("a lane after Close: %v", err)
	}
}

// A batch that is none costs its worker the answer, and the others nothing.
func TestSidecarTakesWholeBatches(t *testing.T) {
	_, rig, lanes := sidecarLane(t)
	consumer := rig.consumer()
	message := `{"type":"x","payload":null,"id":"1"}`
	for name, body := range map[string][]byte{
		"cut off":     append(binary.AppendUvarint(nil, 100), message...),
		"no length":   bytes.Repeat([]byte{0xff}, 20),
		"no message":  append(binary.AppendUvarint(nil, 5), "hello"...),
		"too large":   append(binary.AppendUvarint(nil, 2<<20), bytes.Repeat([]byte("x"), 2<<20)...),
		"half of two": append(append(binary.AppendUvarint(nil, uint64(len(message))), message...), 50),
	} {
		answer, err := consumer.SendContext(t.Context(), bytes.NewReader(body), socket.WithMetadata(map[string]string{"kind": "batch", "lane": "x"}))
		if err == nil {
			_, err = io.ReadAll(answer)
		}
		if remote := (*socket.RemoteError)(nil); !errors.As(err, &remote) {
			t.Errorf("%s: %v", name, err)
		}
	}
	done := newCompletion()
	if err := laneOf(t, lanes).Post("x", "1", []byte("null"), done); err != nil {
		t.Fatal(err)
	}
	if _, err := done.await(t); err != nil {
		t.Error(err)
	}
}

// A transport without lanes behind a sidecar gets one message after another.
func TestSidecarWithoutLanes(t *testing.T) {
	srv := sockettest.New(t)
	rig := newBrokerRig(t)
	rig.channel = socket.SidecarChannel
	if err := socket.ServeTransport(rig.provider(), struct{ socket.Transport }{quietPool(t, srv.URL)}); err != nil {
		t.Fatal(err)
	}
	tr := socket.NewBrokerTransport(rig.consumer())
	t.Cleanup(func() { _ = tr.Close() })
	if _, err := tr.Call(t.Context(), reserve("first")); err != nil {
		t.Fatal(err)
	}
	lane := laneOf(t, tr.(wire.LaneTransport))
	one, two := newCompletion(), newCompletion()
	for id, done := range map[string]*completion{"1": one, "2": two} {
		if err := lane.Post(socket.TypeUseAllocation, id, allocation("x"), done); err != nil {
			t.Fatal(err)
		}
	}
	if err := lane.Post(socket.TypeUseAllocation, "", allocation("x"), nil); err != nil {
		t.Fatal(err)
	}
	for _, done := range []*completion{one, two} {
		if _, err := done.await(t); err != nil {
			t.Error(err)
		}
	}
	if err := srv.WaitFor(t.Context(), func(r *sockettest.Record) bool { return r.Count(socket.TypeUseAllocation) == 3 }); err != nil {
		t.Error(err)
	}
}
