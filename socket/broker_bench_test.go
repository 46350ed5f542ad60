package socket_test

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// One 64-byte echo through a broker in this process, one after the other and 64 at a time.
func BenchmarkBrokerEcho(b *testing.B) {
	payload := bytes.Repeat([]byte("64 bytes"), 8)
	echo := func(b *testing.B, c *socket.Consumer) {
		resp, err := c.Send(bytes.NewReader(payload), 5*time.Second)
		if err != nil {
			b.Errorf("Send: %v", err)
			return
		}
		if n, err := io.Copy(io.Discard, resp); err != nil || n != int64(len(payload)) {
			b.Errorf("got %d bytes, %v", n, err)
		}
	}
	b.Run("1", func(b *testing.B) {
		rig := newBrokerRig(b)
		rig.answering(echoHandler)
		consumer := rig.consumer()
		b.ReportAllocs()
		for b.Loop() {
			echo(b, consumer)
		}
	})
	b.Run("64", func(b *testing.B) {
		rig := newBrokerRig(b)
		rig.answering(echoHandler)
		consumer := rig.consumer()
		b.ReportAllocs()
		b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				echo(b, consumer)
			}
		})
	})
}

// Requests one after the other, whose answers nobody reads.
func BenchmarkThroughput(b *testing.B) {
	server := socket.NewServer("0", quietBroker())
	if err := server.Start(); err != nil {
		b.Fatal(err)
	}
	defer server.Stop()
	channelID, testData := uuid.New(), make([]byte, 1024)
	provider, err := socket.NewProvider("127.0.0.1:"+server.Port(), channelID, quietBroker())
	if err != nil {
		b.Fatal(err)
	}
	defer provider.Close()
	go func() { _ = provider.Serve(context.Background(), echoHandler) }()
	consumer, err := socket.NewConsumer("127.0.0.1:"+server.Port(), channelID, quietBroker())
	if err != nil {
		b.Fatal(err)
	}
	defer consumer.Close()
	for b.Loop() {
		if _, err := consumer.Send(bytes.NewReader(testData), 5*time.Second); err != nil {
			b.Fatal(err)
		}
	}
}

// One 64-byte echo after the other, beside what stands still: nothing, a transfer on another channel whose
// provider does not read, and 200 answers on the same connection that nobody reads. The metrics are medians
// and 99th percentiles of the single requests.
func BenchmarkBrokerBeside(b *testing.B) {
	endless := func(context.Context, *socket.Request) (io.Reader, error) { return stamp(1, 1<<40), nil }
	for _, beside := range []struct {
		name  string
		start func(rig *brokerRig, c *socket.Consumer)
	}{
		{"nothing", func(*brokerRig, *socket.Consumer) {}},
		{"a paused peer on another channel", func(rig *brokerRig, _ *socket.Consumer) {
			other := uuid.New()
			rig.providerOn(other) // takes the requests, and reads none
			consumer := rig.consumerOn(other)
			for range 20 {
				go func() { _, _ = consumer.Send(stamp(1, 24<<20), 10*time.Minute) }()
			}
			eventually(b, "the transfers stand still", func() bool { return rig.server.Stats().Streams == 20 })
		}},
		{"200 unread answers on the connection", func(rig *brokerRig, c *socket.Consumer) {
			for range 200 {
				if _, err := c.SendContext(b.Context(), strings.NewReader("endless")); err != nil {
					b.Fatal(err)
				}
			}
		}},
	} {
		b.Run(beside.name, func(b *testing.B) {
			rig := newBrokerRig(b)
			rig.answering(func(ctx context.Context, r *socket.Request) (io.Reader, error) {
				body, err := io.ReadAll(r.Reader)
				if err == nil && string(body) == "endless" {
					return endless(ctx, r)
				}
				return bytes.NewReader(body), err
			})
			consumer := rig.consumer()
			beside.start(rig, consumer)
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				began := time.Now()
				if _, err := exchange(consumer, "hello", 5*time.Second); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
		})
	}
}
