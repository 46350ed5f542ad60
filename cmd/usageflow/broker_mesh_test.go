package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Two brokers with --mesh: a consumer of one gets its answer from a provider of the other, and the sidecar of each is its own.
func TestBrokerMesh(t *testing.T) {
	nats, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	nats.Start()
	defer nats.Shutdown()
	if !nats.ReadyForConnections(patience) {
		t.Fatal("NATS does not start")
	}
	near, far := newProgram(t, "USAGEFLOW_BROKER_MESH="+nats.ClientURL()).broker(), newProgram(t).broker("--mesh", nats.ClientURL())
	channel := uuid.New()
	provider, err := socket.NewProvider(far.addr, channel, silent)
	if err != nil {
		t.Fatal(err)
	}
	defer provider.Close()
	go func() {
		_ = provider.Serve(context.Background(), func(_ context.Context, r *socket.Request) (io.Reader, error) {
			body, err := io.ReadAll(r.Reader)
			return bytes.NewReader(bytes.ToUpper(body)), err
		})
	}()
	consumer, err := socket.NewConsumer(near.addr, channel, silent)
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	answer, err := consumer.Send(strings.NewReader("over the mesh"), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(answer); string(text) != "OVER THE MESH" || err != nil {
		t.Errorf("got %q, %v", text, err)
	}
	near.metric("usageflow_broker_mesh_links 1")
	far.metric("usageflow_broker_mesh_links 1")
	for _, b := range []*brokerProcess{near, far} {
		b.signal(syscall.SIGTERM)
		if err := <-b.ended; err != nil {
			t.Errorf("after SIGTERM: %v\n%s", err, b.log)
		}
	}
}

func TestBrokerMeshRefusals(t *testing.T) {
	for _, tc := range []struct{ args, says string }{
		{"--mesh-creds x", "need --mesh"},
		{"--mesh-ca x", "need --mesh"},
		{"--mesh nats://127.0.0.1:4222 --mesh-subject a.*", "can't begin a subject"},
		{"--mesh nats://127.0.0.1:4222 --mesh-creds nowhere.creds", "nowhere.creds"},
		{"--mesh nats://127.0.0.1:4222 --mesh-ca nowhere.pem", "nowhere.pem"},
	} {
		_, stderr, status := newProgram(t).run(append([]string{"broker", "--listen", "127.0.0.1:0", "--metrics", "off"}, strings.Fields(tc.args)...)...)
		if status != 1 || !strings.Contains(stderr, tc.says) {
			t.Errorf("%s: status %d, %s", tc.args, status, stderr)
		}
	}
}
