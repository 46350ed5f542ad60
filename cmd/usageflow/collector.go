package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// headroom is how many bytes of garbage may gather before it is collected, within bounds.
const headroom = 256 << 20

// tuneCollector keeps the room for garbage about the same, whatever is in use. Go's own rule, as much again as is in use, collects
// all the time while the ledgers are few, and with a million of them takes more memory than it saves time. The environment may know
// better.
func tuneCollector(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	percent := 100
	for {
		metrics.Read(live)
		if want := collectorPercent(live[0].Value.Uint64()); want != percent {
			debug.SetGCPercent(want)
			percent = want
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// collectorPercent is what GOGC should be where that many bytes are in use. It has steps, because a change stops the world.
func collectorPercent(live uint64) int {
	percent := 400
	for percent > 50 && live*uint64(percent)/100 > headroom {
		percent /= 2
	}
	return percent
}
