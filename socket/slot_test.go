package socket

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

func TestPauseAfter(t *testing.T) {
	down := errors.New("connection refused")
	unauthorized := fmt.Errorf("%w: 401", ErrUnauthorized)
	for _, tc := range []struct {
		name     string
		err      error
		tries    int
		state    slotState
		min, max time.Duration
		next     int
	}{
		{"first failure", down, 0, backingOff, 0, 5 * time.Second, 1},
		{"second", down, 1, backingOff, 0, 10 * time.Second, 2},
		{"third", down, 2, backingOff, 0, 20 * time.Second, 3},
		{"fourth", down, 3, backingOff, 0, 40 * time.Second, 4},
		{"fifth", down, 4, backingOff, 0, 60 * time.Second, 5},
		{"the round is over", down, 5, resting, 0, 60 * time.Second, 0},
		{"unauthorized", unauthorized, 0, resting, 30 * time.Second, 60 * time.Second, 0},
		{"retry after", &retryAfterError{503, 30 * time.Second}, 0, barred, 30 * time.Second, 33*time.Second + 1, 1},
		{"retry after a moment", &retryAfterError{429, time.Nanosecond}, 4, barred, 0, 60 * time.Second, 5},
	} {
		seen := map[time.Duration]bool{}
		for range 1000 {
			got := pauseAfter(tc.err, tc.tries)
			if got.state != tc.state || got.tries != tc.next {
				t.Fatalf("%s: %+v, want state %d and %d tries", tc.name, got, tc.state, tc.next)
			}
			if got.delay < max(tc.min, 100*time.Millisecond) || got.delay > tc.max {
				t.Fatalf("%s: a delay of %s, want %s to %s", tc.name, got.delay, tc.min, tc.max)
			}
			seen[got.delay] = true
		}
		if len(seen) < 500 {
			t.Errorf("%s: %d different delays in 1000, want jitter", tc.name, len(seen))
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                              0,
		"0":                             0,
		"-5":                            0,
		"7":                             7 * time.Second,
		"99999999999999999999":          0,
		"999999999":                     maxRetryAfter,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:04:04 GMT": 0,
		"Sat, 02 Jan 2027 03:04:05 GMT": maxRetryAfter,
		"soon":                          0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", value, got, want)
		}
	}
}
