package natsmesh

import (
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/usageflow/usageflow-go-middleware/internal/mesh"
)

// find is the search for a broker that has providers of a channel.
type find struct {
	tries int
	timer *time.Timer
}

// dial is a tunnel that was asked for.
type dial struct {
	channel uuid.UUID
	find    *find // for which it is; nil where a beat has told of the broker
	at      time.Time
}

// linkKey names a connection over which requests go to another broker.
type linkKey struct{ channel, peer uuid.UUID }

type link struct {
	mesh.Link
	tunnel *tunnel
	idle   time.Time // since when nobody has had a use for it; zero: somebody has
}

// Find implements mesh.Mesh: it asks one of the brokers that have providers, of which NATS chooses one.
func (m *Mesh) Find(channel uuid.UUID) {
	m.mu.Lock()
	m.wanted[channel] = struct{}{}
	if m.finds[channel] != nil {
		m.mu.Unlock()
		return
	}
	if !m.up {
		m.mu.Unlock()
		m.node.Absent(channel)
		return
	}
	f := &find{}
	f.timer = time.AfterFunc(findTimeout, func() { m.give(channel, f) })
	m.finds[channel] = f
	m.mu.Unlock()
	go m.dial(m.channelSubject(channel), channel, f) // NATS may take its time, which the caller's connection has not
}

// dial asks for a tunnel.
func (m *Mesh) dial(subject string, channel uuid.UUID, f *find) {
	id := newTunnelID()
	m.mu.Lock()
	if f != nil {
		f.tries++
	}
	m.dials[id] = &dial{channel: channel, find: f, at: time.Now()}
	m.mu.Unlock()
	err := m.nc.PublishMsg(&nats.Msg{
		Subject: subject, Reply: m.subjectOf(m.id, id),
		Data: appendIDs(header{kind: kindDial, tunnel: id}.append(nil), channel, m.id),
	})
	if err != nil {
		m.refused(id)
	}
}

// give ends a search that has found nobody.
func (m *Mesh) give(channel uuid.UUID, f *find) {
	m.mu.Lock()
	searching := m.finds[channel] == f
	if searching {
		m.endFindLocked(channel, f)
	}
	m.mu.Unlock()
	if searching {
		m.node.Absent(channel)
	}
}

func (m *Mesh) endFindLocked(channel uuid.UUID, f *find) {
	f.timer.Stop()
	delete(m.finds, channel)
	for id, d := range m.dials {
		if d.find == f {
			delete(m.dials, id)
		}
	}
}

// nobody is called when NATS says that nobody is subscribed to the subject of a DIAL.
func (m *Mesh) nobody(subject string) {
	id, err := strconv.ParseUint(subject[strings.LastIndexByte(subject, '.')+1:], 16, 64)
	if err != nil {
		return
	}
	m.mu.Lock()
	d := m.dials[id]
	delete(m.dials, id)
	m.mu.Unlock()
	if d != nil && d.find != nil {
		m.give(d.channel, d.find)
	}
}

// refused is called when a broker has no tunnel to give: another is asked.
func (m *Mesh) refused(id uint64) {
	m.mu.Lock()
	d := m.dials[id]
	delete(m.dials, id)
	m.mu.Unlock()
	if d != nil {
		m.nextDial(d)
	}
}

// nextDial goes on with the search that d was for: NATS chooses again, perhaps another broker.
func (m *Mesh) nextDial(d *dial) {
	if d.find == nil {
		return
	}
	m.mu.Lock()
	again := d.find.tries < maxDials && m.up && m.finds[d.channel] == d.find
	m.mu.Unlock()
	if again {
		m.dial(m.channelSubject(d.channel), d.channel, d.find)
	} else {
		m.give(d.channel, d.find)
	}
}

// answerCalls answers DIALs that went to one of the brokers with providers.
func (m *Mesh) answerCalls() {
	for {
		select {
		case msg := <-m.calls:
			if h, rest, err := parseHeader(msg.Data); err == nil && h.kind == kindDial {
				m.answer(h, rest)
			}
		case <-m.ctx.Done():
			return
		}
	}
}

// answer answers a DIAL.
func (m *Mesh) answer(h header, rest []byte) {
	channel, peer, err := parseIDs(rest)
	if err != nil {
		return
	}
	load := m.node.Load(channel)
	t := newTunnel(m, h.tunnel, peer, false)
	m.mu.Lock()
	ok := load.Providers > 0 && !m.draining && m.up && peer != m.id && m.tunnels[t.id] == nil
	if ok {
		m.tunnels[t.id] = t
		m.heard[peer] = time.Now()
	}
	m.mu.Unlock()
	if !ok {
		t.sayClose()
		return
	}
	if err := m.publish(t.subject, appendLoad(append(header{kind: kindAccept, tunnel: t.id}.append(nil), m.id[:]...), load)); err != nil {
		t.fail(err)
	}
	m.node.Serve(channel, t)
}

// accepted takes the answer to a DIAL.
func (m *Mesh) accepted(h header, rest []byte) {
	peer, load, err := parseAccept(rest)
	if err != nil {
		return
	}
	t := newTunnel(m, h.tunnel, peer, true)
	m.mu.Lock()
	d := m.dials[h.tunnel]
	if d == nil || d.channel != load.Channel || m.draining {
		m.mu.Unlock()
		t.sayClose() // nobody waits for it any more
		return
	}
	delete(m.dials, h.tunnel)
	key := linkKey{d.channel, peer}
	known := m.links[key]
	if known != nil && known.Usable() {
		m.mu.Unlock()
		t.sayClose()
		m.nextDial(d) // it is nobody new
		return
	}
	if d.find != nil {
		m.endFindLocked(d.channel, d.find)
	}
	m.tunnels[t.id] = t
	m.heard[peer] = time.Now()
	m.mu.Unlock()
	l := &link{Link: m.node.Attach(d.channel, t), tunnel: t}
	l.SetLoad(load)
	m.mu.Lock()
	if m.tunnels[t.id] == t { // else it has ended already
		m.links[key] = l
	}
	m.mu.Unlock()
}
