package socket

import (
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// A refusal stays one when its payload can't be read; an approval does not.
func TestRefusalWithABrokenPayload(t *testing.T) {
	for text, refused := range map[string]bool{
		`{"type":"error","replyTo":"1","error":"no","payload":{"limit":nope}}`: true,
		`{"type":"error","replyTo":"1","payload":[x]}`:                         true,
		`{"type":"ok","replyTo":"1","payload":{"limit":nope}}`:                 false,
	} {
		var r wire.Reply
		if err := r.Parse([]byte(text)); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		resp, err := newResponse(&r, "1")
		if refused != (err == nil) {
			t.Errorf("%s: %+v, %v", text, resp, err)
		}
		if refused && (!resp.Refused() || resp.Payload != nil) {
			t.Errorf("%s: %+v", text, resp)
		}
	}
}
