package broker

import (
	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// NewLink returns a connection to another relay: as a consumer, one over which that sends requests to the providers
// here; as a provider, one over which requests go to the providers there.
func (r *Relay) NewLink(role frame.Role, id uuid.UUID) *Conn {
	c := r.NewConn(role, id)
	c.remote = true
	c.places.Store(1)
	return c
}

// SetLoad says of a link how many providers the other relay has, and how many requests those have.
func (c *Conn) SetLoad(providers, running int) {
	c.places.Store(int64(max(providers, 1)))
	// What was told is some time ago; of what ran here since the last time the most may be part of it.
	c.others.Store(max(int64(running)-c.peak.Swap(c.outstanding.Load()), 0))
}

// Outstanding returns how many requests a provider, or a link, has.
func (c *Conn) Outstanding() int { return int(c.outstanding.Load()) }

// Usable reports whether a provider, or a link, may be chosen.
func (c *Conn) Usable() bool {
	c.Out.mu.Lock()
	defer c.Out.mu.Unlock()
	return !c.Out.closed && !c.retired
}

// Load is what a relay's own clients do on one channel.
type Load struct {
	ID                   uuid.UUID
	Consumers, Providers int
	Running              int // requests that the providers have
}

// Loads returns the load of every channel.
func (r *Relay) Loads() []Load {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Load, 0, len(r.channels))
	for _, ch := range r.channels {
		list = append(list, ch.load())
	}
	return list
}

// Load returns the load of a channel.
func (r *Relay) Load(id uuid.UUID) Load {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ch := r.channels[id]; ch != nil {
		return ch.load()
	}
	return Load{ID: id}
}

// load needs Relay.mu.
func (ch *channel) load() Load {
	l := Load{ID: ch.id}
	for _, c := range ch.conns {
		switch {
		case c.remote:
		case c.role == frame.Consumer:
			l.Consumers++
		case !c.leaving:
			l.Providers++
			l.Running += c.Outstanding()
		}
	}
	return l
}
