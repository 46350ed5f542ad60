package socket

import (
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// What Retryable says of a request's error is what docs/protocol.md says of its code.
func TestRetryableIsWhatTheCodeSays(t *testing.T) {
	for code := frame.NoProvider; code <= frame.Stopped+1; code++ {
		err := brokerError(&broker.Error{Code: code})
		if got := Retryable(err); got != code.Retryable() {
			t.Errorf("Retryable(%v) is %v; of %v the protocol says %v", err, got, code, code.Retryable())
		}
		if code.Retryable() && code.Dispatched() {
			t.Errorf("%v is retryable, and a provider may have seen the request", code)
		}
	}
}
