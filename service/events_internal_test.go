package service

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestEventLog(t *testing.T) {
	l := newEventLog()
	if events, next, missed := l.read(nil, 1); len(events) != 0 || next != 1 || missed != 0 {
		t.Errorf("empty: %v, %d, %d", events, next, missed)
	}
	wake := l.follow(1)
	if l.follow(1) != nil {
		t.Error("a second reader of one is let in")
	}
	for range 3 {
		l.add(&event{kind: eventReserved})
	}
	<-wake
	select {
	case <-wake:
		t.Error("three events wake a reader twice")
	default:
	}
	events, next, missed := l.read(nil, 2)
	if len(events) != 2 || events[0].n != 2 || next != 4 || missed != 0 {
		t.Errorf("from 2 on: %v, %d, %d", events, next, missed)
	}
	for range eventRing {
		l.add(&event{kind: eventSettled})
	}
	if events, next, missed = l.read(nil, 2); len(events) != eventRing || events[0].n != 4 || next != eventRing+4 || missed != 2 {
		t.Errorf("over the ring: %d from %d on, %d, %d", len(events), events[0].n, next, missed)
	}
	l.unfollow(wake)
	if l.follow(1) == nil {
		t.Error("no room after the reader has gone")
	}
}

func TestRates(t *testing.T) {
	var r rates
	for second := int64(1000); second < 1400; second++ {
		var all sync.WaitGroup
		for kind := range eventRefused + 1 {
			all.Go(func() {
				for range int(kind) + 1 {
					r.add(second, kind)
				}
			})
		}
		all.Wait()
	}
	r.add(1000, eventVoided) // it is too late for that
	r.add(1399, eventVoided)
	views := r.view(900, 1400)
	if len(views) != rateSeconds || views[0].At != 1101 || views[rateSeconds-1] != (rateView{At: 1400}) || views[rateSeconds-2] != (rateView{1399, 1, 2, 3, 5}) {
		t.Errorf("%d seconds, from %+v to %+v", len(views), views[0], views[rateSeconds-2:])
	}
	if views := r.view(1399, 1400); len(views) != 2 || views[0].At != 1399 {
		t.Errorf("since the start: %+v", views)
	}
}

// BenchmarkEvent is what an event costs when nobody listens.
func BenchmarkEvent(b *testing.B) {
	s := &Service{events: newEventLog()}
	c := &conn{service: s, name: "acme"}
	r := &request{Payload: requestPayload{Alias: "GET /api/users/:id acme"}}
	d := &Decision{ID: "id", Allowed: true}
	b.ReportAllocs()
	for b.Loop() {
		c.decided(r, 1e6, d)
	}
}

// oneDocument is a store whose document the test changes.
type oneDocument struct {
	mu      sync.Mutex
	version int64
	loads   int
	fails   error
}

func (o *oneDocument) LoadDocument(context.Context) ([]byte, int64, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.loads++
	return []byte(`{"format":1,"applications":[]}`), o.version, o.fails
}

func (o *oneDocument) SaveDocument(context.Context, []byte, int64) (int64, error) {
	return 0, errors.New("not here")
}

// The version is looked at once a second, and what is new put in force; a failure does not end that.
func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &oneDocument{version: 1}
		installed := 0
		r := &registry{store: store, log: slog.New(slog.NewTextHandler(io.Discard, nil)), install: func(*Config) { installed++ }, version: -1}
		ctx, cancel := context.WithCancel(t.Context())
		var polling sync.WaitGroup
		polling.Go(func() { r.poll(ctx) })
		step := func(version int64, err error, want int) {
			t.Helper()
			store.mu.Lock()
			store.version, store.fails = version, err
			store.mu.Unlock()
			time.Sleep(2 * pollInterval) // of the bubble's clock
			synctest.Wait()
			if installed != want {
				t.Errorf("version %d, %v: %d were installed, want %d", version, err, installed, want)
			}
		}
		step(1, nil, 1)
		step(1, nil, 1)
		step(2, errors.New("no disk"), 1)
		step(2, nil, 2)
		cancel()
		polling.Wait()
		if store.loads != 8 {
			t.Errorf("%d looks in 8 s", store.loads)
		}
	})
}
