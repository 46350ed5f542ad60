package socket

import (
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
)

type serverCounts struct {
	unauthorized, full, evicted, violations atomic.Uint64
	bytesIn, bytesOut                       atomic.Uint64 // of connections that have ended
}

// ServerStats is what a server does now and has done since it started. Consumers, Providers, Handshakes,
// Links, Streams, Reserved and Channels are of now; the rest counts since the start.
type ServerStats struct {
	// Consumers and Providers are connections; Handshakes are those that have not said who they are.
	Consumers, Providers, Handshakes int
	// Links are connections to and from other servers of the mesh, one for each channel and direction.
	Links int
	// Streams is how many requests run: their answers have not been written whole.
	Streams  int
	Requests RequestStats
	Refused  RefusedStats
	// BytesIn and BytesOut were received and sent since the start, frame headers included.
	BytesIn, BytesOut uint64
	// Reserved is how many bytes of Limits.Memory are taken.
	Reserved int64
	// Discarded is how many bytes of requests or answers arrived, or waited to be sent, when nobody
	// waited for them any more: their request was over. Of a request that is not over no byte is ever dropped.
	Discarded uint64
	// Channels are those with a client, in no order.
	Channels []ChannelStats
}

// RequestStats counts requests since the start. Opened is the sum of the others and of those that run.
type RequestStats struct {
	Opened       uint64
	Completed    uint64 // the whole answer was passed on
	Failed       uint64 // the provider answered with an error, or refused the request's id
	NoProvider   uint64 // refused with ErrNoProvider
	Busy         uint64 // refused with ErrBusy
	Draining     uint64 // refused with ErrDraining
	ProviderLost uint64 // ended with ErrProviderLost
	Expired      uint64 // their time was over
	Cancelled    uint64 // the consumer gave up, or was lost
}

// RefusedStats counts clients since the start.
type RefusedStats struct {
	Unauthorized uint64 // refused with ErrUnauthorized
	Full         uint64 // refused for Limits.Connections
	Evicted      uint64 // given up in the handshake for newer ones
	Violations   uint64 // let in, and closed for breaking the protocol
}

// ChannelStats is what goes on on one channel.
type ChannelStats struct {
	ID                   uuid.UUID
	Consumers, Providers int
	// Running is how many of its requests are not over.
	Running int
	// QueueAge is the age of the oldest of them whose answer has not begun.
	QueueAge time.Duration
}

// Stats looks at every connection and running request: call it a few times a second at most.
func (s *Server) Stats() ServerStats {
	r := s.relay.Stats(sinceEpoch())
	st := ServerStats{
		Consumers: r.Consumers, Providers: r.Providers, Links: r.Links, Streams: r.Running,
		Requests: RequestStats{
			Opened: r.Opened, Completed: r.Outcomes[broker.Completed], Failed: r.Outcomes[broker.Failed],
			NoProvider: r.Outcomes[broker.NoProvider], Busy: r.Outcomes[broker.Busy], Draining: r.Outcomes[broker.Draining],
			ProviderLost: r.Outcomes[broker.ProviderLost], Expired: r.Outcomes[broker.Expired], Cancelled: r.Outcomes[broker.Cancelled],
		},
		Refused: RefusedStats{
			Unauthorized: s.counts.unauthorized.Load(), Full: s.counts.full.Load(),
			Evicted: s.counts.evicted.Load(), Violations: s.counts.violations.Load(),
		},
		Reserved: r.Reserved, Discarded: r.Discarded,
	}
	for _, ch := range r.Channels {
		st.Channels = append(st.Channels, ChannelStats(ch))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Handshakes = s.handshakes.Len()
	st.BytesIn, st.BytesOut = s.counts.bytesIn.Load(), s.counts.bytesOut.Load()
	for c := range s.conns {
		st.BytesIn += c.link.bytes.Load()
		st.BytesOut += c.node.Out.Written()
	}
	return st
}
