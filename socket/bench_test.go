package socket_test

import (
	"testing"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// BenchmarkSendAsync shares the process, and most of the time, with the fake service: it shows whether
// something broke, and the allocations of both. The figures that count are those of `cd bench && go run . pool`.
func BenchmarkSendAsync(b *testing.B) {
	srv := sockettest.New(b, sockettest.WithoutRecording())
	m := newManager(b, srv, socket.ManagerConfig{})
	connect(b, m)
	b.ReportAllocs()
	b.SetParallelism(32) // goroutines for each processor
	b.RunParallel(func(pb *testing.PB) {
		p := reservation()
		for pb.Next() {
			if _, err := m.SendAsync(p); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
