package socket

import (
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// Customary keys of a request's metadata.
const (
	// MetadataIdentity names the customer that the request is for; core.Flow.Handler charges it.
	MetadataIdentity = "identity"
	// MetadataIdempotencyKey is the same for a request that is sent again; core.Flow.Handler charges it once.
	MetadataIdempotencyKey = "idempotency-key"
	// MetadataRequestID is the usageflowRequestId of the HTTP request that the request comes from.
	MetadataRequestID = "usageflow-request-id"
	// MetadataTraceparent is that of W3C's Trace Context.
	MetadataTraceparent = "traceparent"
)

// SendOption changes one request.
type SendOption interface{ applyToRequest(r *broker.Request) error }

type sendOption func(*broker.Request) error

func (o sendOption) applyToRequest(r *broker.Request) error { return o(r) }

// WithMetadata makes a request carry m, at most 8 KiB of keys and values; the provider finds it in
// Request.Metadata. Of several the last counts.
func WithMetadata(m map[string]string) SendOption {
	return sendOption(func(r *broker.Request) (err error) {
		r.Metadata = nil
		if len(m) == 0 {
			return nil
		}
		if r.Metadata, err = frame.AppendMetadata(nil, m); err != nil {
			return fmt.Errorf("socket: metadata of more than %d bytes", frame.MaxMetadata)
		}
		return nil
	})
}
