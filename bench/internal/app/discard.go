package app

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/fake"
	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Discard is a transport to nowhere: it allows every reservation and confirms every settlement at once,
// and answers the three get_ messages as a fake service would. It is what shows the cost of everything
// but the network. Safe for concurrent use.
type Discard struct {
	catalog map[string]json.RawMessage
	posted  atomic.Int64
	gate    sync.Mutex
}

var (
	_ socket.Transport   = (*Discard)(nil)
	_ wire.LaneTransport = (*Discard)(nil)
	_ wire.Lane          = (*Discard)(nil)
)

// NewDiscard answers get_ messages with cfg.
func NewDiscard(cfg fake.Config) *Discard {
	cfg = cfg.WithDefaults()
	return &Discard{catalog: map[string]json.RawMessage{
		socket.TypeGetPolicies:         cfg.Policies,
		socket.TypeGetConfig:           cfg.Config,
		socket.TypeGetBlockedEndpoints: cfg.Blocked,
	}}
}

// Hold makes everything that is posted wait, until the function that it returns is called: what a
// request leaves to other goroutines is then not done meanwhile.
func (d *Discard) Hold() (release func()) {
	d.gate.Lock()
	return d.gate.Unlock
}

// Posted is how many messages have been posted.
func (d *Discard) Posted() int64 { return d.posted.Load() }

// Post implements wire.Lane.
func (d *Discard) Post(_, _ string, _ []byte, done wire.Completion) error {
	d.gate.Lock()
	d.posted.Add(1)
	d.gate.Unlock()
	if done != nil {
		done.Complete(&wire.Reply{}, nil)
	}
	return nil
}

// Alive implements wire.Lane.
func (d *Discard) Alive() bool { return true }

// Busy implements wire.Lane.
func (d *Discard) Busy() bool { return false }

// Self implements wire.LaneTransport.
func (d *Discard) Self() any { return d }

// Lane implements wire.LaneTransport.
func (d *Discard) Lane(context.Context) (wire.Lane, error) { return d, nil }

// Call implements socket.Transport.
func (d *Discard) Call(_ context.Context, p *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	resp := &socket.UsageFlowSocketResponse{Type: p.Type}
	if raw, ok := d.catalog[p.Type]; ok {
		return resp, json.Unmarshal(raw, &resp.Payload)
	}
	d.posted.Add(1)
	return resp, nil
}

// Notify implements socket.Transport.
func (d *Discard) Notify(context.Context, *socket.UsageFlowSocketMessage) error {
	d.gate.Lock()
	defer d.gate.Unlock()
	d.posted.Add(1)
	return nil
}

// IsConnected implements socket.Transport.
func (d *Discard) IsConnected() bool { return true }

// Close implements socket.Transport.
func (d *Discard) Close() error { return nil }
