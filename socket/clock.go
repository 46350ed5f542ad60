package socket

import (
	"sync"
	"time"
)

// clockTick is how often a clock calls watch.
const clockTick = 5 * time.Second

// clock is a goroutine that calls expire when a deadline has come, and watch now and then.
type clock struct {
	expire func(now int64) (next int64) // when to call it again; 0 or a far time for never
	watch  func(now int64)

	poke chan struct{}
	done chan struct{}
	wg   sync.WaitGroup
	once sync.Once
}

func newClock(expire func(now int64) int64, watch func(now int64)) *clock {
	return &clock{expire: expire, watch: watch, poke: make(chan struct{}, 1), done: make(chan struct{})}
}

func (c *clock) start() { c.wg.Go(c.run) }

// alarm says that there is an earlier deadline. It does not block.
func (c *clock) alarm() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

func (c *clock) run() {
	timer := time.NewTimer(clockTick)
	defer timer.Stop()
	tick := sinceEpoch() + int64(clockTick)
	for {
		now := sinceEpoch()
		if now >= tick {
			c.watch(now)
			tick = now + int64(clockTick)
		}
		next := c.expire(now)
		if next <= 0 || next > tick {
			next = tick
		}
		timer.Reset(time.Duration(next - sinceEpoch()))
		select {
		case <-c.done:
			return
		case <-c.poke:
		case <-timer.C:
		}
	}
}

// stop ends the goroutine and waits for it. It is not called by expire or watch.
func (c *clock) stop() {
	c.once.Do(func() { close(c.done) })
	c.wg.Wait()
}
