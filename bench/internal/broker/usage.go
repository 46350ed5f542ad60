package broker

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
)

// Usage is what a process has used since its start.
type Usage struct {
	CPU     time.Duration
	Mallocs uint64
	Peak    uint64 // of its memory, in bytes; 0 where the system doesn't tell
}

// Since is what was used since before. The peak stays what it is.
func (u Usage) Since(before Usage) Usage {
	return Usage{CPU: u.CPU - before.CPU, Mallocs: u.Mallocs - before.Mallocs, Peak: u.Peak}
}

func readUsage() (u Usage, err error) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Mallocs = m.Mallocs
	if u.CPU, err = child.CPU(); err != nil {
		return u, err
	}
	u.Peak, err = peak()
	return u, err
}

// peak is the largest resident set so far: VmHWM, see proc_pid_status(5).
func peak() (uint64, error) {
	status, err := os.ReadFile("/proc/self/status")
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	_, after, _ := bytes.Cut(status, []byte("\nVmHWM:"))
	line, _, _ := bytes.Cut(after, []byte(" kB"))
	kB, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/self/status: VmHWM: %w", err)
	}
	return kB << 10, nil
}
