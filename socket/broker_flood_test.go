package socket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// handClient is a client whose frames are made by hand: it does what a Consumer or a Provider does not.
type handClient struct {
	t    testing.TB
	conn net.Conn
}

// byHand connects a handClient to the rig's channel.
func (b *brokerRig) byHand(role socket.Role) *handClient {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close() })
	c := &handClient{t: b.t, conn: conn}
	c.write(appendFrame(nil, frame.Hello, 0, 0, frame.HelloPayload{
		MinVersion: frame.ProtocolVersion, MaxVersion: frame.ProtocolVersion, Role: frame.Role(role), Channel: b.channel,
	}.Append(nil)))
	c.await(frame.Welcome)
	return c
}

func appendFrame(b []byte, kind frame.Type, flags frame.Flags, stream uint64, payload []byte) []byte {
	b = frame.Header{Length: uint32(len(payload)), Type: kind, Flags: flags, Stream: stream}.Append(b)
	return append(b, payload...)
}

// appendOpen appends an OPEN that is a whole request.
func appendOpen(b []byte, stream uint64, timeout time.Duration, body ...byte) []byte {
	prefix := frame.OpenPayload{RequestID: uuid.New(), Timeout: timeout}.AppendPrefix(nil)
	return appendFrame(b, frame.Open, frame.FlagEnd, stream, append(prefix, body...))
}

func appendReset(b []byte, stream uint64) []byte {
	return appendFrame(b, frame.Reset, 0, stream, frame.AppendEnd(nil, frame.Cancelled, ""))
}

func (c *handClient) write(b []byte) {
	c.t.Helper()
	_ = c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *handClient) read() (frame.Header, []byte) {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	var header [frame.HeaderSize]byte
	_, err := io.ReadFull(c.conn, header[:])
	var h frame.Header
	if err == nil {
		h, err = frame.ParseHeader(header[:])
	}
	payload := make([]byte, h.Length)
	if err == nil {
		_, err = io.ReadFull(c.conn, payload)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return h, payload
}

// await reads until a frame of that kind has come.
func (c *handClient) await(kind frame.Type) frame.Header {
	c.t.Helper()
	for {
		if h, _ := c.read(); h.Type == kind {
			return h
		}
	}
}

// settle returns when the broker has dealt with all that was written.
func (c *handClient) settle() {
	c.t.Helper()
	c.write(appendFrame(nil, frame.Ping, 0, 0, make([]byte, frame.PingSize)))
	c.await(frame.Ping)
}

// heapLive is what the program uses, without what the next collection frees.
func heapLive() int64 {
	var stats runtime.MemStats
	runtime.GC()
	runtime.GC() // the first one keeps what is in a sync.Pool
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func opensAreOutcomes(t *testing.T, rig *brokerRig) {
	t.Helper()
	r := rig.server.Stats().Requests
	if sum := r.Completed + r.Failed + r.NoProvider + r.Busy + r.Draining + r.ProviderLost + r.Expired + r.Cancelled; r.Opened == 0 || r.Opened != sum {
		t.Errorf("%d requests and %d outcomes: %+v", r.Opened, sum, r)
	}
}

// Requests that are given up as fast as they are made leave nothing behind, although somebody does not read.
func TestBrokerRapidReset(t *testing.T) {
	const rounds, perRound, allowed = 100, 500, 8 << 20
	const filling, size = 300, 60 << 10 // more than the system takes
	t.Run("a provider that does not read", func(t *testing.T) {
		rig := newBrokerRig(t)
		rig.byHand(socket.RoleProvider)
		consumer := rig.byHand(socket.RoleConsumer)
		id := uint64(0)
		for range filling {
			id++
			consumer.write(appendOpen(nil, id, time.Minute, make([]byte, size)...))
		}
		consumer.settle()
		before := heapLive()
		for range rounds * perRound {
			id++
			consumer.write(appendReset(appendOpen(nil, id, time.Minute), id))
		}
		consumer.settle()
		if grown := heapLive() - before; grown > allowed {
			t.Errorf("the heap has grown by %d KiB", grown>>10)
		}
		if r := rig.server.Stats().Requests; r.Cancelled != rounds*perRound {
			t.Errorf("%d were cancelled, want %d", r.Cancelled, rounds*perRound)
		}
	})
	t.Run("a consumer that does not read", func(t *testing.T) {
		rig := newBrokerRig(t)
		provider, consumer := rig.byHand(socket.RoleProvider), rig.byHand(socket.RoleConsumer)
		id := uint64(0)
		answered := func(n int, body []byte) {
			var opens, answers []byte
			for range n {
				id++
				opens = appendOpen(opens, id, time.Minute)
			}
			consumer.write(opens)
			for range n {
				answers = appendFrame(answers, frame.Head, frame.FlagEnd, provider.await(frame.Open).Stream, body)
			}
			provider.write(answers)
			provider.settle()
		}
		answered(filling, make([]byte, size))
		stuck := rig.server.Stats().Streams
		before := heapLive()
		for range rounds {
			answered(perRound, []byte("answer"))
			var resets []byte
			for i := range uint64(perRound) {
				resets = appendReset(resets, id-i)
			}
			consumer.write(resets)
			eventually(t, "what was given up is over", func() bool { return rig.server.Stats().Streams <= stuck })
		}
		if grown := heapLive() - before; grown > allowed {
			t.Errorf("the heap has grown by %d KiB", grown>>10)
		}
		if stuck == 0 {
			t.Error("the consumer's answers were all sent")
		}
	})
}

// Whoever gives up requests makes room for others, but handlers that do not notice stay as few as the limit says.
func TestBrokerRapidResetHandlers(t *testing.T) {
	const limit, perRound, rounds = 20, 10, 20
	rig := newBrokerRig(t, socket.WithLimits(socket.Limits{Streams: limit}))
	var running, most atomic.Int64
	finish := make(chan struct{})
	rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-finish
		return r.Reader, nil
	})
	consumer := rig.byHand(socket.RoleConsumer)
	go func() { _, _ = io.Copy(io.Discard, consumer.conn) }()
	for round := range uint64(rounds) {
		var opens, resets []byte
		for i := range uint64(perRound) {
			id := round*perRound + i + 1
			opens, resets = appendOpen(opens, id, time.Minute), appendReset(resets, id)
		}
		consumer.write(opens)
		eventually(t, "the handlers run", func() bool {
			return rig.server.Stats().Requests.Opened == (round+1)*perRound && running.Load() >= min(int64(round+1)*perRound, limit)
		})
		consumer.write(resets)
		eventually(t, "the requests are over", func() bool { return rig.server.Stats().Streams == 0 })
	}
	close(finish)
	echoes(t, rig.consumer(), "there are handlers again")
	if n := most.Load(); n != limit {
		t.Errorf("%d handlers ran at once, want %d", n, limit)
	}
}

// A channel that asks for all of the budget leaves some to the others.
func TestBrokerOneChannelOfMany(t *testing.T) {
	const requests = 500
	rig := newBrokerRig(t, socket.WithLimits(socket.Limits{Memory: 16 << 20}))
	rig.provider() // which receives nothing
	greedy := rig.byHand(socket.RoleConsumer)
	var opens []byte
	for id := range uint64(requests) {
		opens = appendOpen(opens, id+1, time.Hour)
	}
	greedy.write(opens)
	greedy.settle()
	if stats := rig.server.Stats(); stats.Requests.Busy == 0 || stats.Reserved < 8<<20 {
		t.Errorf("the budget was not asked for: %+v", stats)
	}
	other := *rig
	other.channel = uuid.New()
	other.answering(echoHandler)
	echoes(t, other.consumer(), "hello")
}

// An answer that nobody reads holds its part of the budget until the request's time is over, and no longer,
// although all of it was given to the broker.
func TestBrokerUnreadAnswersExpire(t *testing.T) {
	const requests, timeout = 300, 500 * time.Millisecond
	rig := newBrokerRig(t)
	provider, consumer := rig.byHand(socket.RoleProvider), rig.byHand(socket.RoleConsumer)
	var opens []byte
	for id := range uint64(requests) {
		opens = appendOpen(opens, id+1, timeout)
	}
	consumer.write(opens)
	for range requests {
		provider.write(appendFrame(nil, frame.Head, frame.FlagEnd, provider.await(frame.Open).Stream, make([]byte, 60<<10)))
	}
	provider.settle()
	rig.atRest()
	if r := rig.server.Stats().Requests; r.Expired == 0 {
		t.Errorf("every answer was read: %+v", r)
	}
	opensAreOutcomes(t, rig)
}

// The server needs at most about twice the budget, also for frames that fit badly into its buffers.
func TestBrokerMemoryOfSmallFrames(t *testing.T) {
	const streams, window, large = 24, 1 << 20, 32 << 10
	rig := newBrokerRig(t, socket.WithLimits(socket.Limits{Memory: 32 << 20, Window: window}))
	provider, consumer := rig.byHand(socket.RoleProvider), rig.byHand(socket.RoleConsumer)
	var opens []byte
	for id := range uint64(streams) {
		opens = appendOpen(opens, id+1, time.Minute)
		opens = appendFrame(opens, frame.Credit, 0, id+1, frame.AppendCredit(nil, 1<<30))
	}
	consumer.write(opens)
	allowed, sum := map[uint64]int{}, 0
	for sum < streams*window {
		h, payload := provider.read()
		n := frame.InitialWindow
		if h.Type == frame.Credit {
			credit, err := frame.ParseCredit(payload)
			if err != nil {
				t.Fatal(err)
			}
			n = int(credit)
		}
		allowed[h.Stream] += n
		sum += n
	}
	before := heapLive()
	for id, n := range allowed {
		b := appendFrame(nil, frame.Head, 0, id, nil)
		for range n / (large + 1) {
			b = appendFrame(b, frame.Data, 0, id, make([]byte, large))
			b = appendFrame(b, frame.Data, 0, id, []byte("x"))
		}
		provider.write(b)
	}
	provider.settle()
	reserved := rig.server.Stats().Reserved
	if grown := heapLive() - before; grown > 2*reserved+8<<20 {
		t.Errorf("the heap has grown by %d MiB where %d MiB are reserved", grown>>20, reserved>>20)
	} else if grown < reserved/2 {
		t.Errorf("the heap has grown by %d MiB only: most was sent", grown>>20)
	}
}

// What breaks the protocol is no request.
func TestBrokerOutcomesAfterAViolation(t *testing.T) {
	rig := newBrokerRig(t)
	consumer := rig.byHand(socket.RoleConsumer)
	consumer.write(appendOpen(appendOpen(nil, 5, time.Minute), 5, time.Minute))
	consumer.await(frame.GoAway)
	eventually(t, "the consumer is gone", func() bool { return rig.server.Stats().Consumers == 0 })
	opensAreOutcomes(t, rig)
	if stats := rig.server.Stats(); stats.Refused.Violations != 1 || stats.Requests.Opened != 1 {
		t.Errorf("want one request and one violation: %+v", stats)
	}
}

// Who does not read why requests are refused is not listened to any more, and does not delay Stop.
func TestBrokerUnreadRefusals(t *testing.T) {
	const chunks, perChunk = 1000, 1000
	rig := newBrokerRig(t)
	consumer := rig.byHand(socket.RoleConsumer)
	_ = consumer.conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	written, id := error(nil), uint64(0)
	for chunk := 0; chunk < chunks && written == nil; chunk++ {
		var opens []byte
		for range perChunk {
			id++
			opens = appendOpen(opens, id, time.Minute)
		}
		_ = consumer.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		_, written = consumer.conn.Write(opens)
	}
	if !errors.Is(written, os.ErrDeadlineExceeded) {
		t.Errorf("after %d requests: got %v, want that the broker reads no more", id, written)
	}
	if took := returnsWithin(t, 10*time.Second, "Stop", func() { _ = rig.server.Stop() }); took > 2*time.Second {
		t.Errorf("Stop took %v", took)
	}
}

// A request that comes when the broker has said its last word does not cost the client what it has yet to read.
func TestBrokerShutdownAndALateRequest(t *testing.T) {
	const size = 900 << 10
	rig := newBrokerRig(t)
	rig.answering(func(context.Context, *socket.Request) (io.Reader, error) {
		return bytes.NewReader(make([]byte, size)), nil
	})
	c := rig.byHand(socket.RoleConsumer)
	_ = c.conn.(*net.TCPConn).SetReadBuffer(16 << 10)
	c.write(appendFrame(appendOpen(nil, 1, time.Minute), frame.Credit, 0, 1, frame.AppendCredit(nil, size)))
	eventually(t, "the answer is given to the network", func() bool { return rig.server.Stats().Requests.Completed == 1 })
	before, down := rig.server.Stats().BytesOut, make(chan error, 1)
	go func() { down <- rig.server.Shutdown(context.Background()) }()
	const goAways = 2 * (frame.HeaderSize + 2) // "stopping", and the last word; each with a reason
	eventually(t, "the broker has said its last word", func() bool {
		return rig.server.Stats().BytesOut > before+goAways+uint64(len("the broker is stopping"))
	})
	c.write(appendOpen(nil, 2, time.Minute))
	c.write(appendFrame(nil, frame.Credit, 0, 1, frame.AppendCredit(nil, 1000)))
	got := 0
	for h, payload := c.read(); h.Type != frame.GoAway; h, payload = c.read() {
		if h.Type == frame.Head || h.Type == frame.Data {
			got += len(payload)
		}
	}
	if got != size {
		t.Errorf("%d bytes of the answer have come, want %d", got, size)
	}
	_ = c.conn.Close()
	if err := await(t, down, "Shutdown returns"); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}
