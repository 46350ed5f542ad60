// Package machine tells how busy the machine is as a whole.
package machine

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of /proc/stat (USER_HZ, 100 a second on every Linux that Go runs on).
const clockTick = 10 * time.Millisecond

// Busy is the time that all cores together have spent other than idle; false where the system doesn't
// tell, which is everywhere but on Linux. See proc_stat(5).
func Busy() (time.Duration, bool) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, false
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal ...
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, false
	}
	var ticks int64
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, false
		}
		if i != 3 && i != 4 { // idle, waiting for a disk
			ticks += n
		}
	}
	return time.Duration(ticks) * clockTick, true
}
