package socket_test

import (
	"flag"
	"log/slog"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/natsmesh"
)

// meshed makes the tests of the broker run over a mesh of two: TestConformance in natsmesh sets it.
var meshed = flag.Bool("broker.mesh", false, "run the tests of the broker with the providers at another broker")

// meshNATS is where the brokers of all tests meet. TestMain stops it.
var meshNATS struct {
	once   sync.Once
	server *natsserver.Server
	err    error
}

func startMeshNATS() {
	meshNATS.server, meshNATS.err = natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true})
	if meshNATS.err == nil {
		meshNATS.server.Start()
		meshNATS.server.ReadyForConnections(10 * time.Second)
	}
}

func stopMeshNATS() {
	if s := meshNATS.server; s != nil {
		s.Shutdown()
		s.WaitForShutdown()
	}
}

func meshOption(t testing.TB) socket.ServerOption {
	t.Helper()
	meshNATS.once.Do(startMeshNATS)
	if meshNATS.err != nil {
		t.Fatal(meshNATS.err)
	}
	m, err := natsmesh.New(natsmesh.Config{URL: meshNATS.server.ClientURL(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return socket.WithMesh(m)
}
