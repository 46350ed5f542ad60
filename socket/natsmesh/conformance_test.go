package natsmesh_test

import (
	"os/exec"
	"testing"
)

// The tests of one broker hold for two of a mesh, one with the consumers and one with the providers. Left out are the limit of
// connections, which each broker has for itself, and what is not the mesh's: the SidecarChannel.
func TestConformance(t *testing.T) {
	cmd := exec.Command("go", "test", "-count=1", "..", "-run", "^TestBroker", "-skip", "ConnectionLimit|BrokerTransport", "-broker.mesh")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
