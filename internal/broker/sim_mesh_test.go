package broker

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// TestMeshSchedules runs three relays, each with clients of its own, through random schedules: they find each other when a request
// meets no provider, and their links break as connections do.
func TestMeshSchedules(t *testing.T) {
	schedules := *simSchedules
	if testing.Short() {
		schedules /= 10
	}
	var requests, completed, elsewhere, links, again int
	outcomes, codes := map[Outcome]uint64{}, map[frame.Code]bool{}
	for i := range schedules {
		w := newWorld(t, *simSeed+uint64(i), 3)
		w.run()
		requests += len(w.questions)
		completed += w.completed
		for o, n := range w.outcomes() {
			outcomes[o] += n
		}
		maps.Copy(codes, w.codes)
		for _, q := range w.questions {
			if q.task != nil && q.task.c.relay != q.c.relay && q.over && q.read > 0 {
				elsewhere++
			}
		}
		links += w.linked
		again += w.again
		if t.Failed() {
			t.Fatalf("seed %d: go test ./internal/broker -run MeshSchedules -sim.seed %d -sim.schedules 1", w.seed, w.seed)
		}
	}
	t.Logf("%d requests, %d with a whole answer, %d answered by another relay's provider, %d links, %d found no provider for the second time; outcomes: %v; codes: %v",
		requests, completed, elsewhere, links, again, outcomes, codes)
	if elsewhere == 0 || links == 0 || again == 0 {
		t.Error("the schedules show too little")
	}
	for _, code := range []frame.Code{frame.NoProvider, frame.Busy, frame.Draining, frame.ProviderLost, frame.Deadline} {
		if !codes[code] {
			t.Errorf("no request ended with %v: the schedules show too little", code)
		}
	}
}

// seek is a channel for whose requests a relay has no provider.
type seek struct {
	relay   *Relay
	channel uuid.UUID
}

// simLink is a connection between two relays: one's requests go over it to the other's providers.
type simLink struct {
	from, to *Relay
	channel  uuid.UUID
	conns    [2]*Conn // at from, at to
	wires    [2]wire  // what goes to to, what comes back
}

// join lets the relays, where there are several, look for each other.
func (w *world) join() {
	if len(w.relays) == 1 {
		return
	}
	for _, r := range w.relays {
		r.Seek = func(channel uuid.UUID) {
			for _, s := range w.seeks {
				if s.relay == r && s.channel == channel {
					w.again++
					return
				}
			}
			w.seeks = append(w.seeks, seek{r, channel})
		}
	}
}

// meshStep lets the mesh do what it might do next.
func (w *world) meshStep() {
	switch {
	case len(w.seeks) > 0:
		w.find()
	case len(w.links) > 0 && w.faults && w.chance(20):
		w.cutLink(w.random.IntN(len(w.links)))
	}
}

// find deals with the first of those who look for a provider.
func (w *world) find() {
	s := w.seeks[0]
	w.seeks = w.seeks[1:]
	var found []*Relay
	for _, r := range w.relays {
		linked := slices.ContainsFunc(w.links, func(l *simLink) bool { return l.from == s.relay && l.to == r && l.channel == s.channel })
		if ch := r.channels[s.channel]; r != s.relay && !linked && ch != nil && len(*ch.providers.Load()) > 0 {
			found = append(found, r)
		}
	}
	if len(found) == 0 || w.chance(5) {
		s.relay.Absent(s.channel)
		return
	}
	w.link(s.relay, found[w.random.IntN(len(found))], s.channel)
}

func (w *world) link(from, to *Relay, channel uuid.UUID) {
	l := &simLink{from: from, to: to, channel: channel}
	l.conns = [2]*Conn{from.NewLink(frame.Provider, channel), to.NewLink(frame.Consumer, channel)}
	for i, c := range l.conns {
		other := l.conns[1-i]
		c.Out.Flush = func() {}
		l.wires[i] = wire{w: w, of: other.role, out: &c.Out, receive: other.Receive, at: other}
	}
	to.Connect(l.conns[1])
	w.links = append(w.links, l)
	w.linked++
	from.Connect(l.conns[0])
}

func (w *world) cutLink(i int) {
	l := w.links[i]
	w.links = append(w.links[:i:i], w.links[i+1:]...)
	l.wires[0].drop()
	l.wires[1].drop()
	for _, i := range w.random.Perm(2) {
		l.conns[i].Close()
	}
}
