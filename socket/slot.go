package socket

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// A slot keeps one connection up for the life of the pool. Its goroutine, run, does everything in turn:
// dial, serve, back off. Others read conn, and may wake the goroutine from its waiting.
type slot struct {
	m     *UsageFlowSocketManager
	index int
	conn  atomic.Pointer[conn] // nil while it is not connected; set by run, emptied by conn.fail
	kick  chan struct{}        // capacity 1: try now. Sent and drained with mu held
	done  chan struct{}        // closed when run has ended

	mu      sync.Mutex // guards what follows
	attempt chan struct{}
	state   slotState
	err     error
}

type slotState int

const (
	dialing    slotState = iota // or about to
	serving                     // connected, or just disconnected
	backingOff                  // a try failed; Connect cuts the wait short
	resting                     // the tries are used up; so does a message that finds nothing connected
	barred                      // the service said when to come back; nothing cuts the wait short
)

func newSlot(m *UsageFlowSocketManager, index int) *slot {
	return &slot{
		m: m, index: index,
		kick:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		attempt: make(chan struct{}),
	}
}

func (s *slot) run() {
	defer close(s.done)
	tries := 0 // in this round, that failed
	for first := true; !s.m.isClosing(); first = false {
		c, err := s.dial()
		var rest pause
		if err == nil {
			s.connected(c)
			s.tried(first)
			began := time.Now()
			err = c.serve()
			if time.Since(began) >= stableAfter {
				tries = 0
			}
			rest = pauseAfter(err, tries)
			s.enter(rest.state, err)
		} else {
			rest = pauseAfter(err, tries)
			s.enter(rest.state, err)
			s.tried(first)
			s.m.log.Debug("usageflow connection failed", "slot", s.index, "error", err, "next_try_in", rest.delay)
		}
		tries = rest.tries
		if kicked := s.wait(rest.delay); kicked {
			tries = 0
		}
	}
}

// connected opens the slot to messages.
func (s *slot) connected(c *conn) {
	s.mu.Lock()
	s.state, s.err = serving, nil
	s.conn.Store(c)
	s.mu.Unlock()
	s.m.slotUp()
}

func (s *slot) enter(state slotState, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.err = state, err
}

// tried releases those who wait for the end of the try that is over; its outcome is visible by now.
func (s *slot) tried(first bool) {
	s.mu.Lock()
	done := s.attempt
	s.attempt = make(chan struct{})
	s.mu.Unlock()
	if first {
		s.m.slotTried()
	}
	close(done)
}

// tryNow cuts the slot's waiting short, and returns what is closed when the next try, or the one under
// way, has ended; nil if there is no need for one, or none is allowed.
func (s *slot) tryNow() (attempt <-chan struct{}, connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state == serving && s.conn.Load() != nil:
		return nil, true
	case s.state == barred:
		return nil, false
	case s.state != dialing:
		s.kickLocked() // where it is just disconnected, the kick waits for it to begin waiting
	}
	return s.attempt, false
}

// wakeFromRest starts a new round of tries, if the last one is used up.
func (s *slot) wakeFromRest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == resting && !errors.Is(s.err, ErrUnauthorized) {
		s.kickLocked()
	}
}

func (s *slot) kickLocked() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

func (s *slot) lastError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// wait waits until the next try is due, and reports whether it was cut short.
func (s *slot) wait(delay time.Duration) (kicked bool) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-s.m.closing:
	case <-s.kick:
		kicked = true
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = dialing
	select {
	case <-s.kick: // the try that it asks for is this one
		kicked = true
	default:
	}
	return kicked
}

// A pause is the time until the next try, and what can cut it short. tries is the number of tries that
// have failed by then, of maxReconnectTries in a round.
type pause struct {
	state slotState
	delay time.Duration
	tries int
}

// pauseAfter is the pause after err, the end of a connection or of a try to make one.
func pauseAfter(err error, tries int) pause {
	var busy *retryAfterError
	switch {
	case errors.As(err, &busy):
		// A tenth more at most, so that not everyone who was sent away is back in the same instant.
		return pause{barred, max(busy.after+rand.N(busy.after/10+1), backoff(tries)), tries + 1}
	case errors.Is(err, ErrUnauthorized):
		// Another key needs another manager, but the service may have been wrong about this one.
		return pause{resting, restPeriod/2 + rand.N(restPeriod/2), 0}
	case tries >= maxReconnectTries:
		return pause{resting, jitter(restPeriod), 0}
	}
	return pause{backingOff, backoff(tries), tries + 1}
}

// backoff is the delay before the next try: up to 5, 10, 20, 40 and then 60 s. The jitter is over the
// whole range ("full jitter"): ten slots come back spread over the delay, the first of them early.
func backoff(tries int) time.Duration {
	return jitter(min(5*time.Second<<min(tries, 4), restPeriod))
}

func jitter(longest time.Duration) time.Duration {
	const shortest = 100 * time.Millisecond
	return shortest + rand.N(longest-shortest)
}
