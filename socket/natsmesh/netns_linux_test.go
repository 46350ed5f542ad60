package natsmesh_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// namespace is a network namespace that the test made.
type namespace struct {
	t    *testing.T
	name string
}

func newNamespace(t *testing.T, name string) namespace {
	t.Helper()
	n := namespace{t, fmt.Sprintf("ufmesh-%d-%s", os.Getpid(), name)}
	n.ip("netns", "add", n.name)
	t.Cleanup(func() { n.ip("netns", "del", n.name) })
	n.ip("-n", n.name, "link", "set", "lo", "up")
	return n
}

func (n namespace) ip(args ...string) {
	n.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		n.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// exec is the command that runs another in the namespace.
func (n namespace) exec() []string { return []string{"ip", "netns", "exec", n.name} }

// link connects two namespaces: the first has the address 10.77.net.1, the second 10.77.net.2.
func (n namespace) link(other namespace, net int) {
	n.t.Helper()
	end := fmt.Sprintf("uf%d", net)
	n.ip("link", "add", end, "netns", n.name, "type", "veth", "peer", "name", end, "netns", other.name)
	for i, ns := range []namespace{n, other} {
		n.ip("-n", ns.name, "addr", "add", fmt.Sprintf("10.77.%d.%d/24", net, i+1), "dev", end)
		n.ip("-n", ns.name, "link", "set", end, "up")
	}
}

// Three hosts: NATS and a broker on one, the consumer's broker on the second, the provider's on the third. The link of the third is taken
// down in the middle of streams: the second is told within 5 s. When the link is up again, the provider is found again.
func TestLinkIsTakenDown(t *testing.T) {
	if _, err := exec.LookPath("ip"); os.Geteuid() != 0 || err != nil {
		if os.Getenv("USAGEFLOW_REQUIRE_NAMESPACES") != "" {
			t.Fatal("network namespaces need root, and ip of iproute2")
		}
		t.Skip("package socket/natsmesh: network namespaces need root, and ip of iproute2")
	}
	hub, near, far := newNamespace(t, "hub"), newNamespace(t, "near"), newNamespace(t, "far")
	hub.link(near, 1)
	hub.link(far, 2)
	startChild(t, hub.exec(), "nats", "0.0.0.0")
	startChild(t, hub.exec(), "broker", "nats://10.77.1.1:4222")
	_, nearPort := startChild(t, near.exec(), "broker", "nats://10.77.1.1:4222")
	_, farPort := startChild(t, far.exec(), "broker", "nats://10.77.2.1:4222")
	channel := uuid.NewString()
	startChild(t, far.exec(), "provider", farPort, channel)
	consumer, first := startChild(t, near.exec(), "consumer", nearPort, channel)
	for range 2 {
		if first != "streams" {
			consumer.until("streams")
		}
		first = ""
		start := time.Now()
		hub.ip("-n", hub.name, "link", "set", "uf2", "down")
		lost := consumer.until("lost")
		if took := time.Since(start); took > 5*time.Second || !strings.HasPrefix(lost, "lost true") {
			t.Errorf("%q after %v", lost, took)
		}
		consumer.until("refused socket: no provider")
		hub.ip("-n", hub.name, "link", "set", "uf2", "up")
	}
	consumer.until("streams")
}
