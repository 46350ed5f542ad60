package core_test

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A flow, a pool or a server that a test left behind fails the run.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leaked(10 * time.Second); code == 0 && left != "" {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked returns the stacks of this module's goroutines that do not end within limit.
func leaked(limit time.Duration) string {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		stacks := moduleStacks()
		if stacks == "" {
			return ""
		}
		select {
		case <-again.C:
		case <-deadline.C:
			return stacks
		}
	}
}

func moduleStacks() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for i, stack := range strings.Split(string(buf), "\n\n") {
		if i > 0 && strings.Contains(stack, "usageflow-go-middleware") { // the first is this one
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}
