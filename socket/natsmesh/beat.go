package natsmesh

import (
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/usageflow/usageflow-go-middleware/internal/mesh"
)

// beat says that this broker is there, and looks after the connections to the others.
func (m *Mesh) beat() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-m.ctx.Done():
			return
		}
		m.mu.Lock()
		draining := m.draining
		m.mu.Unlock()
		var loads []mesh.Load
		if !draining {
			loads = m.node.Loads()
		}
		m.publishBeat(loads)
		m.tidy(time.Now())
	}
}

// watch looks after the others, also while NATS takes nothing.
func (m *Mesh) watch() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			m.checkSilence(now)
		case <-m.ctx.Done():
			return
		}
	}
}

// publishBeat tells the others what this broker has.
func (m *Mesh) publishBeat(loads []mesh.Load) {
	for first := true; first || len(loads) > 0; first = false {
		b := append([]byte(nil), m.id[:]...)
		n := min(len(loads), beatLoads)
		for _, l := range loads[:n] {
			if l.Providers > 0 {
				b = appendLoad(b, l)
			}
		}
		loads = loads[n:]
		_ = m.publish(m.cfg.Subject+".beat", b) // lost, if NATS is
	}
}

// receiveBeat takes what a broker says of itself. One that has providers for which consumers here wait, and to which there is no
// connection yet, gets one: so requests go to the broker with the least to do.
func (m *Mesh) receiveBeat(msg *nats.Msg) {
	peer, loads, err := parseBeat(msg.Data)
	if err != nil {
		return
	}
	var news []mesh.Load
	m.mu.Lock()
	m.heard[peer] = time.Now()
	m.up = m.up || peer == m.id // it was only slow
	if peer != m.id && !m.draining {
		for _, load := range loads {
			l := m.links[linkKey{load.Channel, peer}]
			_, wanted := m.wanted[load.Channel]
			switch {
			case l != nil && l.Usable():
				l.SetLoad(load)
			case wanted && !m.dialingLocked(load.Channel):
				news = append(news, load)
			}
		}
	}
	m.mu.Unlock()
	for _, load := range news {
		m.dial(m.subjectOf(peer, 0), load.Channel, nil)
	}
}

// dialingLocked reports whether a tunnel for the channel was asked for.
func (m *Mesh) dialingLocked(channel uuid.UUID) bool {
	for _, d := range m.dials {
		if d.channel == channel {
			return true
		}
	}
	return false
}

// checkSilence gives up the brokers of which nothing was heard for too long; and all, where nothing was heard of NATS.
func (m *Mesh) checkSilence(now time.Time) {
	m.mu.Lock()
	silent := map[uuid.UUID]bool{}
	for peer, at := range m.heard {
		if now.Sub(at) > silence {
			silent[peer] = true
			delete(m.heard, peer)
		}
	}
	m.mu.Unlock()
	switch {
	case len(silent) == 0:
	case silent[m.id]:
		m.lost(errSilent)
	default:
		m.failTunnels(errSilent, func(t *tunnel) bool { return silent[t.peer] }, false)
	}
}

// tidy closes connections to other brokers of which nobody here has a use any more, and forgets who did not answer.
func (m *Mesh) tidy(now time.Time) {
	m.mu.Lock()
	var over []*link
	for key, l := range m.links {
		unused := m.node.Load(key.channel).Consumers == 0
		switch {
		case !l.Idle() || l.Usable() && !unused:
			l.idle = time.Time{}
		case !l.Usable():
			over = append(over, l)
		case l.idle.IsZero():
			l.idle = now
		case now.Sub(l.idle) > linkRest:
			over = append(over, l)
		}
	}
	for channel := range m.wanted {
		if m.node.Load(channel).Consumers == 0 {
			delete(m.wanted, channel)
		}
	}
	for id, d := range m.dials {
		if d.find == nil && now.Sub(d.at) > findTimeout {
			delete(m.dials, id)
		}
	}
	m.mu.Unlock()
	for _, l := range over {
		l.Close()
	}
}
