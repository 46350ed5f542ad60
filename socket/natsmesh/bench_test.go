package natsmesh_test

import (
	"testing"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// BenchmarkLockStep is one small request after another, to a provider of the same broker and to one of another.
func BenchmarkLockStep(b *testing.B) {
	url := startNATS(b, -1).ClientURL()
	near, far := broker(b, url), broker(b, url)
	for name, s := range map[string]*socket.Server{"local": near, "mesh": far} {
		b.Run(name, func(b *testing.B) {
			channel := uuid.New()
			provider(b, s, channel, says(name))
			c := consumer(b, near, channel)
			if text, err := send(c, "x"); text != name+": x" {
				b.Fatal(text, err)
			}
			for b.Loop() {
				if _, err := send(c, "x"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
