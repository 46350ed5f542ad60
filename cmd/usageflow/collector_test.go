package main

import "testing"

func TestCollectorPercent(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		live uint64
		want int
	}{{0, 400}, {64 * mib, 400}, {65 * mib, 200}, {200 * mib, 100}, {400 * mib, 50}, {4000 * mib, 50}} {
		if got := collectorPercent(test.live); got != test.want {
			t.Errorf("%d MiB in use: %d, want %d", test.live/mib, got, test.want)
		}
	}
}
