package socket_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestMain fails the run if a goroutine of this package, or one that serves it, is still there at the end.
func TestMain(m *testing.M) {
	code := m.Run()
	stopMeshNATS()
	if code == 0 {
		if leaked := leakedGoroutines(5 * time.Second); leaked != "" {
			fmt.Fprintf(os.Stderr, "leaked goroutines:\n%s\n", leaked)
			code = 1
		}
	}
	os.Exit(code)
}

// leakedGoroutines returns the stacks of the goroutines that are still there after patience and are
// neither the caller's nor the testing package's.
func leakedGoroutines(patience time.Duration) string {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		leaked := otherGoroutines()
		if leaked == "" || time.Now().After(end) {
			return leaked
		}
	}
}

func otherGoroutines() string {
	buf := make([]byte, 1<<20)
	stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
	var others []string
	for _, stack := range stacks[1:] { // the first one is the caller's
		if strings.Contains(stack, "created by testing.") || strings.Contains(stack, "testing.(*M)") ||
			strings.Contains(stack, "os/signal.") || strings.Contains(stack, "runtime.ensureSigM") {
			continue
		}
		others = append(others, stack)
	}
	return strings.Join(others, "\n\n")
}
