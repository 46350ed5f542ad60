package core

import (
	"sync"
	"time"
)

// receipt says that the settlement of a job can't be lost any more, or that it is. nil is that of a call for which
// nobody waits.
type receipt struct {
	once sync.Once
	done chan struct{}
}

func newReceipt() *receipt { return &receipt{done: make(chan struct{})} }

// give ends the wait for r. Only the first counts.
func (r *receipt) give() {
	if r != nil {
		r.once.Do(func() { close(r.done) })
	}
}

// awaitReceipt waits until the settlement of c can't be lost any more, where that can be soon.
func (f *Flow) awaitReceipt(c *Call) {
	if f.outbox.spool == nil && (f.breaker.open() || !f.transport.IsConnected()) {
		return
	}
	timer := time.NewTimer(f.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-c.receipt.done:
	case <-timer.C:
	case <-f.ctx.Done():
	}
}
