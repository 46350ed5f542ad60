package core

import (
	"sync"
	"time"
)

// logLimitPeriod is the least time between two lines of one logLimiter.
const logLimitPeriod = time.Second

// logLimiter keeps a line that many requests may cause from filling the log.
type logLimiter struct {
	mu     sync.Mutex // guards what follows
	saidAt time.Time
	unsaid int64
}

// say calls line, with the number of lines that were left out since the last one, unless that is too short ago.
func (l *logLimiter) say(line func(unsaid int64)) {
	now := time.Now()
	l.mu.Lock()
	if now.Sub(l.saidAt) < logLimitPeriod {
		l.unsaid++
		l.mu.Unlock()
		return
	}
	unsaid := l.unsaid
	l.saidAt, l.unsaid = now, 0
	l.mu.Unlock()
	line(unsaid)
}
