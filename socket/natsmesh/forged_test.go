package natsmesh_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// A message that is missing, or comes twice, ends the streams of its tunnel and no others; what is no message, and what belongs to no tunnel, does
// nothing at all.
func TestMissingMessages(t *testing.T) {
	url := startNATS(t, -1).ClientURL()
	spy, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	defer spy.Close()
	seen := make(chan *nats.Msg, 100_000)
	if _, err := spy.ChanSubscribe("usageflow.mesh.broker.*.*", seen); err != nil {
		t.Fatal(err)
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	a, b, one, two := broker(t, url), broker(t, url), uuid.New(), uuid.New()
	endless := func(ctx context.Context, _ *socket.Request) (io.Reader, error) { return endlessReader{ctx}, nil }
	provider(t, b, one, endless)
	provider(t, b, two, endless)
	stream := func(channel uuid.UUID) io.Reader {
		t.Helper()
		answer, err := consumer(t, a, channel).Send(strings.NewReader("x"), time.Hour)
		if err == nil {
			_, err = io.CopyN(io.Discard, answer, 1<<20)
		}
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	first := stream(one)
	// The last large DATA went to the consumer's broker: nobody reads, so that there is none after it.
	var last *nats.Msg
	for more := true; more; {
		select {
		case msg := <-seen:
			if len(msg.Data) > 1000 {
				last = msg
			}
		case <-time.After(200 * time.Millisecond):
			more = false
		}
	}
	if last == nil || last.Data[0] != 3 {
		t.Fatal("no DATA was seen")
	}
	second := stream(two)
	for _, data := range [][]byte{nil, {3}, {0xff}, []byte(strings.Repeat("x", 25)), []byte(strings.Repeat("x", 5000)), {1: 1, 40: 9}, append([]byte{2}, last.Data[1:60]...)} {
		for _, subject := range []string{last.Subject, "usageflow.mesh.beat", "usageflow.mesh.channel." + one.String()} {
			if err := spy.Publish(subject, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	unknown := append([]byte(nil), last.Data...)
	unknown[5]++ // of the tunnel's id
	if err := spy.Publish(last.Subject, unknown); err != nil {
		t.Fatal(err)
	}
	for _, r := range []io.Reader{first, second} {
		if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil {
			t.Fatalf("what means nothing has ended a stream: %v", err)
		}
	}
	ahead := append([]byte(nil), last.Data...)
	binary.BigEndian.PutUint64(ahead[9:], binary.BigEndian.Uint64(ahead[9:])+1000)
	if err := spy.Publish(last.Subject, ahead); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, first); !errors.Is(err, socket.ErrProviderLost) {
		t.Errorf("the stream in which a message is missing ended with %v", err)
	}
	if _, err := io.CopyN(io.Discard, second, 1<<20); err != nil {
		t.Errorf("the stream of another channel: %v", err)
	}
	eventually(t, "the other end has ended it too", func() bool { return b.Stats().Streams == 1 })
	stream(one)
}
