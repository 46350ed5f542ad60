//go:build linux

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fault is something that breaks, and how it is mended.
type fault struct {
	name  string
	begin func(*world) error
	end   func(*world) error

	appGone   bool // the app does not answer meanwhile, whatever the middleware does
	appKilled bool // what has ended in the app's last moments may not be charged
}

// between is a fault of the proxy.
func between(name string, m mishap) fault {
	return fault{name: name, begin: func(w *world) error { return w.proxy.suffer(m) }, end: func(w *world) error { return w.proxy.suffer(mishap{}) }}
}

// faults are all that there are.
func faults() []fault {
	return []fault{
		{name: "none", begin: nothing, end: nothing},
		between("latency of 20 ms each way", mishap{delay: 20 * time.Millisecond}),
		between("connections overtake each other by up to 100 ms", mishap{scatter: 100 * time.Millisecond}),
		between("20 kB/s for each connection", mishap{bandwidth: 20_000}),
		between("the service reads 5 kB/s", mishap{slowReads: 5_000}),
		between("connection cut, and refused", mishap{refuse: true}),
		between("silence on open connections", mishap{silent: true}),
		between("a reset every 100 ms", mishap{resets: 100 * time.Millisecond}),
		between("handshakes get 401", mishap{status: 401}),
		between("handshakes get 429", mishap{status: 429}),
		between("accepted, and closed", mishap{hangUp: true}),
		between("garbage among the frames", mishap{garbage: true}),
		{
			name:  "service killed (SIGKILL)",
			begin: func(w *world) error { return w.service.kill() },
			end:   (*world).startService,
		},
		{
			name:  "service stopped (SIGSTOP)",
			begin: func(w *world) error { return w.service.signal(syscall.SIGSTOP) },
			end:   func(w *world) error { return w.service.signal(syscall.SIGCONT) },
		},
		{
			name:  "service restarted (SIGTERM)",
			begin: func(w *world) error { return w.service.stop() },
			end:   (*world).startService,
		},
		{
			name:    "app killed (SIGKILL)",
			begin:   func(w *world) error { return w.app.kill() },
			end:     (*world).startApp,
			appGone: true, appKilled: true,
		},
		{
			name: "app killed while the service is silent",
			begin: func(w *world) error {
				if err := w.proxy.suffer(mishap{silent: true}); err != nil {
					return err
				}
				<-time.After(500 * time.Millisecond) // so that the spool has something
				return w.app.kill()
			},
			end: func(w *world) error {
				if err := w.startApp(); err != nil { // with the configuration that it has kept
					return err
				}
				return w.proxy.suffer(mishap{})
			},
			appGone: true, appKilled: true,
		},
		{
			name:    "app stopped (SIGSTOP)",
			begin:   func(w *world) error { return w.app.signal(syscall.SIGSTOP) },
			end:     func(w *world) error { return w.app.signal(syscall.SIGCONT) },
			appGone: true,
		},
		{
			name: "spool's disk full, and the service silent",
			begin: func(w *world) error {
				if err := w.fillDisk(); err != nil {
					return fmt.Errorf("fill the disk: %w", err)
				}
				return w.proxy.suffer(mishap{silent: true})
			},
			end: func(w *world) error {
				if err := w.freeDisk(); err != nil {
					return err
				}
				return w.proxy.suffer(mishap{})
			},
		},
	}
}

func nothing(*world) error { return nil }

// schedule is the faults with that text in their names, in an order of the rng.
func schedule(rng *rand.Rand, text string) []fault {
	list := slices.DeleteFunc(faults(), func(f fault) bool { return !strings.Contains(f.name, text) })
	rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}
