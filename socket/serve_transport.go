package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// ServeTransport answers the requests of a provider, which is one of the SidecarChannel, from t: messages to a
// UsageFlow service, of BrokerTransports. It returns at once; a goroutine of its own serves until the provider
// is closed. Where t is a pool it is connected. It stays the caller's, to be closed after the provider.
func ServeTransport(p *Provider, t Transport) error {
	if p == nil || t == nil {
		return errors.New("socket: ServeTransport needs a provider and a transport")
	}
	if pool, ok := t.(interface{ Connect() error }); ok {
		go func() {
			if err := pool.Connect(); err != nil {
				p.client.cfg.log.Warn("the sidecar is not connected; it tries on", "error", err)
			}
		}()
	}
	go func() {
		if err := p.Serve(context.Background(), newSidecar(t).answer); err != nil && !errors.Is(err, ErrClosed) {
			p.client.cfg.log.Error("the sidecar has ended", "error", err)
		}
	}()
	return nil
}

// sidecar answers messages from a transport.
type sidecar struct {
	transport Transport
	lanes     *sidecarLanes // nil where the transport has none
}

func newSidecar(t Transport) sidecar {
	s := sidecar{transport: t}
	if lanes, ok := t.(wire.LaneTransport); ok && lanes.Self() == any(t) {
		s.lanes = &sidecarLanes{transport: lanes, byID: map[string]*sidecarLaneEntry{}}
	}
	return s
}

// answer is a Handler.
func (s sidecar) answer(ctx context.Context, r *Request) (io.Reader, error) {
	kind := r.Metadata[sidecarKind]
	switch kind {
	case sidecarBatch:
		return s.answerBatch(ctx, r)
	case sidecarStatus:
		if !s.transport.IsConnected() {
			return nil, sidecarFailure(ErrNotConnected)
		}
		return &bytes.Reader{}, nil
	}
	m, err := readMessage(r.Reader)
	if err != nil {
		return nil, sidecarFailure(err)
	}
	if kind == sidecarNotify {
		if err := s.transport.Notify(ctx, m); err != nil {
			return nil, sidecarFailure(err)
		}
		return &bytes.Reader{}, nil
	}
	m.ID = "" // of several workers two may have the same; the transport makes one
	resp, err := s.transport.Call(ctx, m)
	if err == nil && resp == nil {
		err = errNoReply
	}
	var text []byte
	if err == nil {
		text, err = json.Marshal(resp)
	}
	if err != nil {
		return nil, sidecarFailure(err)
	}
	return bytes.NewReader(text), nil
}

// readMessage reads what a worker sent. Nothing goes on from here that would cost the others their connection.
func readMessage(r io.Reader) (*UsageFlowSocketMessage, error) {
	text, err := readAtMost(r, maxSidecarMessage)
	if err != nil {
		return nil, fmt.Errorf("reading the message: %w", err)
	}
	return parseMessage(text)
}

func parseMessage(text []byte) (*UsageFlowSocketMessage, error) {
	var envelope wire.Reply
	if err := envelope.Parse(text); err != nil {
		return nil, err
	}
	payload := json.RawMessage(envelope.Payload)
	switch {
	case len(text) > maxSidecarMessage:
		return nil, errMessageTooLarge
	case len(envelope.Type) == 0:
		return nil, errors.New("a message without a type")
	case payload == nil:
		payload = json.RawMessage("null")
	case !json.Valid(payload):
		return nil, errors.New("a payload that is no JSON")
	}
	return &UsageFlowSocketMessage{Type: string(envelope.Type), ID: string(envelope.ID), Payload: payload}, nil
}
