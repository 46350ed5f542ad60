//go:build linux

package main

import (
	"os"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
)

func TestMain(m *testing.M) {
	appMain()
	os.Exit(m.Run())
}

// TestChaos makes every fault twice, the second time with leases.
func TestChaos(t *testing.T) {
	var log logtest.Buffer // both processes write to it
	r, err := execute(t.Context(), options{seed: 20261125, rounds: 2, lasts: 400 * time.Millisecond, timeout: time.Second, log: &log, out: t.Output()})
	r.table(t.Output())
	if err != nil {
		t.Error(err)
	}
	for _, wrong := range r.faulty {
		t.Error(wrong)
	}
	if t.Failed() {
		text := log.String()
		t.Logf("the end of the processes' logs:\n%s", text[max(0, len(text)-20_000):])
	}
}
