// Package fake is a UsageFlow service for benchmarks: it allows everything, costs as little as it can,
// and can say exactly which reservations and settlements have reached it.
//
// It reads frames with gorilla/websocket, looks at type, id and allocationId only, and sends the replies
// to whatever one read has brought in one write. For tests use socket/sockettest instead.
package fake

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"sync"
	"time"
)

// Config is what the service answers to the three get_ messages, as raw JSON payloads.
type Config struct {
	Policies json.RawMessage `json:"policies,omitempty"`
	Config   json.RawMessage `json:"config,omitempty"`
	Blocked  json.RawMessage `json:"blocked,omitempty"`
}

// A Service is safe for concurrent use.
type Service struct {
	cfg      Config
	listener net.Listener
	seed     maphash.Seed

	mu      sync.Mutex
	counts  Counts
	logs    []*connLog
	waiting *waiter
}

// Counts says what has arrived, complete, since the last Reset.
type Counts struct {
	Reserved int `json:"reserved"`
	Used     int `json:"used"`
	Other    int `json:"other"`
	Broken   int `json:"broken"` // incomplete or unknown messages
	// Last is when the last of them was read.
	Last time.Time `json:"last"`
}

type waiter struct {
	want    int
	reached chan struct{}
}

// Start listens on a free port of 127.0.0.1. The service lives as long as the process.
func Start(cfg Config) (*Service, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg.WithDefaults(), listener: l, seed: maphash.MakeSeed()}
	go s.accept()
	return s, nil
}

// WithDefaults fills what is nil: no policies, everything monitored, nothing blocked.
func (c Config) WithDefaults() Config {
	if c.Policies == nil {
		c.Policies = json.RawMessage(`{"policies":[],"total":0,"accountReachLimit":false}`)
	}
	if c.Config == nil {
		c.Config = json.RawMessage(`{"monitoringPaths":[],"whitelistEndpoints":[],"accountReachLimit":false,"discoveryDisabled":false}`)
	}
	if c.Blocked == nil {
		c.Blocked = json.RawMessage(`{"endpoints":[],"total":0}`)
	}
	return c
}

// URL is what a client dials.
func (s *Service) URL() string { return "ws://" + s.listener.Addr().String() + "/ws" }

// Counts returns what has arrived so far.
func (s *Service) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts
}

// Await returns when n reservations and n settlements have arrived, or after timeout.
func (s *Service) Await(n int, timeout time.Duration) Counts {
	w := &waiter{want: n, reached: make(chan struct{})}
	s.mu.Lock()
	s.waiting = w
	s.wake()
	s.mu.Unlock()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-w.reached:
	case <-timer.C:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = nil
	return s.counts
}

// Reset starts the counts and the records anew.
func (s *Service) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = Counts{}
	for _, l := range s.logs {
		l.reset()
	}
}

// Verify returns an error unless exactly n allocations were reserved, each once, and each was settled
// once, its reservation first where both came on one connection.
func (s *Service) Verify(n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.counts; c.Reserved != n || c.Used != n || c.Broken != 0 {
		return fmt.Errorf("%d reservations, %d settlements and %d broken messages have come, want %d, %d and 0",
			c.Reserved, c.Used, c.Broken, n, n)
	}
	reserved := make(map[uint64]*connLog, n)
	position := make(map[uint64]int, n)
	for _, l := range s.logs {
		for i, e := range l.take() {
			if e.used {
				continue
			}
			if reserved[e.id] != nil {
				return errors.New("an allocation was reserved twice")
			}
			reserved[e.id], position[e.id] = l, i
		}
	}
	used := make(map[uint64]bool, n)
	for _, l := range s.logs {
		for i, e := range l.take() {
			switch from := reserved[e.id]; {
			case !e.used:
			case from == nil:
				return errors.New("an allocation was settled that was not reserved")
			case used[e.id]:
				return errors.New("an allocation was settled twice")
			case from == l && position[e.id] > i:
				return errors.New("an allocation was settled before it was reserved")
			default:
				used[e.id] = true
			}
		}
	}
	return nil
}

// add counts what one read of a connection has brought.
func (s *Service) add(c Counts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Reserved += c.Reserved
	s.counts.Used += c.Used
	s.counts.Other += c.Other
	s.counts.Broken += c.Broken
	s.counts.Last = time.Now()
	s.wake()
}

// wake ends the Await whose numbers are reached. The caller holds mu.
func (s *Service) wake() {
	if w := s.waiting; w != nil && s.counts.Reserved >= w.want && s.counts.Used >= w.want {
		s.waiting = nil
		close(w.reached)
	}
}

// connLog remembers the allocations that came on one connection, in order: 64-bit hashes of their ids.
type connLog struct {
	mu      sync.Mutex
	entries []entry
}

type entry struct {
	id   uint64
	used bool
}

func (l *connLog) append(batch []entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = append(l.entries, batch...)
}

func (l *connLog) take() []entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entries
}

func (l *connLog) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries = l.entries[:0]
}
