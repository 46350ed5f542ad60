package brokersystem

import (
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
)

// Every system, in one process.
func TestSystems(t *testing.T) {
	for _, tt := range []struct {
		system  string
		uploads bool
	}{{Relay, true}, {IDs, true}, {NATS, false}, {GRPC, true}, {Socket, true}, {SocketTLS, true}} {
		for _, shape := range []struct {
			name                  string
			conns, inFlight, size int
		}{{"one", 1, 1, 64}, {"many", 1, 64, 1024}, {"conns", 10, 1, 64}} {
			t.Run(tt.system+"/"+shape.name, func(t *testing.T) {
				c := connect(t, Config{System: tt.system, Conns: shape.conns, InFlight: shape.inFlight})
				for range 2 {
					r, err := brokerload.Run(c, shape.size, 20*time.Millisecond)
					if err != nil {
						t.Fatal(err)
					}
					if r.Requests < shape.conns*shape.inFlight || r.P50 <= 0 || r.P99 < r.P50 {
						t.Errorf("result = %+v", r)
					}
				}
			})
		}
		t.Run(tt.system+"/bulk", func(t *testing.T) {
			cfg := Config{System: tt.system, Conns: 1, InFlight: 1, Bulk: true}
			if !tt.uploads {
				if err := startNATSProvider(cfg, Endpoint{}); err == nil {
					t.Error("a provider takes uploads that can't come")
				}
				return
			}
			c := connect(t, cfg)
			for _, size := range []int64{1, brokerload.Block, 5*brokerload.Block + 3} {
				if n, err := c.Upload(size); n != size || err != nil {
					t.Errorf("Upload(%d) = %d, %v", size, n, err)
				}
			}
		})
	}
}

func connect(t *testing.T, cfg Config) brokerload.Client {
	t.Helper()
	if cfg.System == SocketTLS {
		var err error
		if cfg.Certificate, err = NewCertificate(); err != nil {
			t.Fatal(err)
		}
	}
	parts, err := New(cfg.System)
	if err != nil {
		t.Fatal(err)
	}
	at, err := parts.Broker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := parts.Provider(cfg, at); err != nil {
		t.Fatal(err)
	}
	c, err := parts.Client(cfg, at)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestUnknownSystem(t *testing.T) {
	if _, err := New("carrier pigeon"); err == nil {
		t.Error("New made a system that does not exist")
	}
}
