package socket_test

import (
	"bytes"
	"io"
	"runtime"
	"testing"
	"time"

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
