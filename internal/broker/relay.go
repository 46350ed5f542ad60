package broker

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// Limits bound what a Relay holds. All are positive.
type Limits struct {
	Streams int   // per connection
	Window  int   // bytes on their way per stream and direction
	Memory  int64 // bytes reserved for all streams
}

// Relay is the broker: it passes the frames of each request between the consumer that opened it and the
// one provider that was chosen for it. All methods are safe for concurrent use.
type Relay struct {
	limits  Limits
	workers []worker
	// Seek, if set, is called when a request finds no provider, with its channel: somebody is to look for other relays that have
	// one, and then calls Connect, or Absent, soon. It does not block. Static after construction.
	Seek func(uuid.UUID)
	// alarm is called, if set, when there is a deadline before the one that Expire returned last.
	alarm   func()
	next    atomic.Int64 // that deadline
	leaving atomic.Bool

	reserved  atomic.Int64
	running   atomic.Int64 // exchanges with a consumer's leg
	discarded atomic.Uint64
	counts    [numOutcomes]atomic.Uint64

	mu       sync.Mutex
	channels map[uuid.UUID]*channel
}

// NewRelay returns a relay with that many workers, 1 or more. alarm may be nil.
func NewRelay(limits Limits, workers int, alarm func()) *Relay {
	r := &Relay{limits: limits, workers: make([]worker, workers), alarm: alarm, channels: map[uuid.UUID]*channel{}}
	r.next.Store(math.MaxInt64)
	return r
}

// worker owns the requests whose ids hash to it.
type worker struct {
	mu      sync.Mutex
	running deadlines[*exchange]
	_       [64]byte // of its own cache line
}

func (r *Relay) worker(id uuid.UUID) *worker {
	return &r.workers[binary.BigEndian.Uint64(id[8:])%uint64(len(r.workers))]
}

// Expire ends every request whose time is over and returns when the next one's is, math.MaxInt64 for never.
func (r *Relay) Expire(now int64) (next int64) {
	var b Batch
	r.next.Store(math.MaxInt64)
	for i := range r.workers {
		w := &r.workers[i]
		for {
			w.mu.Lock()
			x, ok := w.running.first()
			if ok && x.deadline.at > now {
				r.noteDeadline(x.deadline.at)
				ok = false
			}
			w.mu.Unlock()
			if !ok {
				break
			}
			x.end(frame.Deadline, nil, &b)
		}
	}
	b.Flush()
	return r.next.Load()
}

// noteDeadline makes sure that Expire is called at that time, and says whether it was not sure before.
func (r *Relay) noteDeadline(at int64) bool {
	for {
		next := r.next.Load()
		if at >= next {
			return false
		}
		if r.next.CompareAndSwap(next, at) {
			return true
		}
	}
}

// Drain makes the relay refuse new requests and tells every client to go elsewhere.
func (r *Relay) Drain() {
	r.leaving.Store(true)
	var b Batch
	for _, c := range r.conns() {
		c.sendAway()
		b.touch(&c.Out)
	}
	b.Flush()
}

// sendAway tells the client that the relay takes no new requests.
func (c *Conn) sendAway() {
	c.Out.mu.Lock()
	c.Out.goAway("the broker is stopping")
	c.Out.mu.Unlock()
}

// Running returns how many requests are not over.
func (r *Relay) Running() int { return int(r.running.Load()) }

// channelShare is how many times what is free of the budget one channel may hold: alone 4/5 of all, two
// of them 4/9 each. So there is always some for the others.
const channelShare = 4

// reserve takes n bytes of the budget for ch, if it has them.
func (r *Relay) reserve(ch *channel, n int64) bool {
	all, its := r.reserved.Add(n), ch.reserved.Add(n)
	if all <= r.limits.Memory && its <= channelShare*(r.limits.Memory-all+n) {
		return true
	}
	r.release(ch, n)
	return false
}

func (r *Relay) release(ch *channel, n int64) {
	r.reserved.Add(-n)
	ch.reserved.Add(-n)
}

// channel is what the connections with one channel id share.
type channel struct {
	id        uuid.UUID
	turn      atomic.Uint64           // how often a provider was chosen
	providers atomic.Pointer[[]*Conn] // never changed in place
	remotes   atomic.Pointer[[]*Conn] // likewise: other relays that have providers
	reserved  atomic.Int64            // of Relay.reserved
	conns     []*Conn                 // guarded by Relay.mu

	waitMu  sync.Mutex           // nothing is locked under it
	waiting map[*detour]struct{} // for a provider
}

// NewConn returns a connection that is not yet connected. Its Out.Flush is to be set.
func (r *Relay) NewConn(role frame.Role, id uuid.UUID) *Conn {
	c := &Conn{relay: r, role: role, id: id, legs: map[uint64]*leg{}}
	c.Out.init(func() int { return len(c.legs) })
	return c
}

// Connect makes c one that is served, and a provider one that may be chosen.
func (r *Relay) Connect(c *Conn) {
	ch := r.connect(c)
	if c.role == frame.Provider {
		r.resume(ch)
	}
	unserved := c.remote && c.role == frame.Consumer && len(*ch.providers.Load()) == 0
	if unserved || r.leaving.Load() { // who has told the others may not have seen it
		c.sendAway()
	}
}

func (r *Relay) connect(c *Conn) *channel {
	r.mu.Lock()
	defer r.mu.Unlock()
	ch := r.channels[c.id]
	if ch == nil {
		ch = &channel{id: c.id}
		r.channels[c.id] = ch
	}
	c.channel = ch
	ch.conns = append(ch.conns, c)
	ch.setProviders()
	return ch
}

// setProviders lists those who may be chosen. It needs Relay.mu.
func (ch *channel) setProviders() {
	var list, remotes []*Conn
	for _, c := range ch.conns {
		switch {
		case c.role != frame.Provider || c.leaving:
		case c.remote:
			remotes = append(remotes, c)
		default:
			list = append(list, c)
		}
	}
	ch.providers.Store(&list)
	ch.remotes.Store(&remotes)
}

// retire makes sure that c is chosen no more. gone says that it is not there either. Where it was the last provider,
// other relays are told.
func (r *Relay) retire(c *Conn, gone bool) {
	var b Batch
	for _, l := range r.remove(c, gone) {
		l.sendAway()
		b.touch(&l.Out)
	}
	b.Flush()
}

// remove is retire, and returns the other relays that are to be told.
func (r *Relay) remove(c *Conn, gone bool) (told []*Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.channel == nil || c.leaving && !gone {
		return nil // it was never connected, or said so before
	}
	served := len(*c.channel.providers.Load()) > 0
	c.leaving = true
	if gone {
		c.channel.conns = slices.DeleteFunc(c.channel.conns, func(other *Conn) bool { return other == c })
	}
	c.channel.setProviders()
	if len(c.channel.conns) == 0 && r.channels[c.channel.id] == c.channel {
		delete(r.channels, c.channel.id)
	}
	if served && len(*c.channel.providers.Load()) == 0 {
		for _, l := range c.channel.conns {
			if l.remote && l.role == frame.Consumer {
				told = append(told, l)
			}
		}
	}
	return told
}

func (r *Relay) conns() []*Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []*Conn
	for _, ch := range r.channels {
		list = append(list, ch.conns...)
	}
	return list
}

// local returns the provider with the fewest requests, of several the one that was chosen least recently;
// or nil and why.
func (r *Relay) local(ch *channel) (*Conn, frame.Code) {
	providers := *ch.providers.Load()
	if len(providers) == 0 {
		return nil, frame.NoProvider
	}
	var best *Conn
	fewest, oldest := int64(r.limits.Streams), uint64(0)
	for _, c := range providers {
		n, chosen := c.outstanding.Load(), c.chosen.Load()
		if n < fewest || n == fewest && best != nil && chosen < oldest {
			best, fewest, oldest = c, n, chosen
		}
	}
	if best == nil {
		return nil, frame.Busy
	}
	best.chosen.Store(ch.turn.Add(1))
	return best, 0
}

// choose is local, and where that has none the relay with the least to do for each of its providers, but none of
// those that were tried.
func (r *Relay) choose(ch *channel, tried []*Conn) (*Conn, frame.Code) {
	best, code := r.local(ch)
	if best != nil {
		return best, 0
	}
	least, oldest := 0.0, uint64(0)
	for _, c := range *ch.remotes.Load() {
		n, chosen := c.outstanding.Load(), c.chosen.Load()
		if slices.Contains(tried, c) {
			continue
		}
		if n >= int64(r.limits.Streams) {
			code = frame.Busy
			continue
		}
		load := float64(n+c.others.Load()) / float64(c.places.Load())
		if best == nil || load < least || load == least && chosen < oldest {
			best, least, oldest = c, load, chosen
		}
	}
	if best == nil {
		return nil, code
	}
	best.chosen.Store(ch.turn.Add(1))
	return best, 0
}

// Stats is what a relay has done and does.
type Stats struct {
	Consumers, Providers, Running int
	Links                         int // to and from other relays
	Opened                        uint64
	Outcomes                      map[Outcome]uint64
	Reserved                      int64
	Discarded                     uint64
	Channels                      []ChannelStats
}

// ChannelStats is what a relay does on one channel.
type ChannelStats struct {
	ID                            uuid.UUID
	Consumers, Providers, Running int
	// QueueAge is the age of the oldest request whose answer has not begun.
	QueueAge time.Duration
}

// Stats looks at every running request.
func (r *Relay) Stats(now int64) Stats {
	s := Stats{Running: r.Running(), Reserved: r.reserved.Load(), Discarded: r.discarded.Load(), Outcomes: map[Outcome]uint64{}}
	for o := range r.counts {
		if Outcome(o) != opened {
			s.Outcomes[Outcome(o)] = r.counts[o].Load()
		}
	}
	s.Opened = r.counts[opened].Load()
	byChannel := map[*channel]*ChannelStats{}
	r.mu.Lock()
	for id, ch := range r.channels {
		st := &ChannelStats{ID: id}
		for _, c := range ch.conns {
			switch {
			case c.remote:
				s.Links++
			case c.role == frame.Consumer:
				st.Consumers++
			default:
				st.Providers++
			}
		}
		if st.Consumers+st.Providers > 0 {
			byChannel[ch] = st
		}
		s.Consumers += st.Consumers
		s.Providers += st.Providers
	}
	r.mu.Unlock()
	for i := range r.workers {
		w := &r.workers[i]
		w.mu.Lock()
		for _, x := range w.running.all() {
			if st := byChannel[x.consumer.conn.channel]; st != nil {
				st.Running++
				if !x.answered.Load() {
					st.QueueAge = max(st.QueueAge, time.Duration(now-x.opened))
				}
			}
		}
		w.mu.Unlock()
	}
	for _, st := range byChannel {
		s.Channels = append(s.Channels, *st)
	}
	return s
}
