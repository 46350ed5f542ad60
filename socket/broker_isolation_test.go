package socket_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// A stamped body is a header of 16 bytes (id and size, in the channel's own half of the bytes) and then
// bytes that follow from them. Every byte of channel 0 is below 0x80, every byte of channel 1 is not.
const stampedHeader = 16

// stampedBody is a body of size bytes, header included, that belongs to request id of channel.
func stampedBody(channel byte, id uint32, size int) []byte {
	body := make([]byte, size)
	binary.BigEndian.PutUint64(body[:8], spread(uint64(id)))
	binary.BigEndian.PutUint64(body[8:], spread(uint64(size)))
	for i := stampedHeader; i < size; i++ {
		body[i] = byte(uint64(id)*31+uint64(i)*7) & 0x7f
	}
	for i := range body {
		body[i] |= channel << 7
	}
	return body
}

// spread puts the 32 lower bits of v four by four into the bytes of the result.
func spread(v uint64) uint64 {
	var out uint64
	for i := range 8 {
		out |= (v >> (4 * i) & 0xf) << (8 * i)
	}
	return out
}

func unspread(v uint64) uint64 {
	var out uint64
	for i := range 8 {
		out |= (v >> (8 * i) & 0xf) << (4 * i)
	}
	return out
}

// checkStamped returns the id of a body that is one of channel's, and says what is wrong otherwise.
func checkStamped(channel byte, body []byte) (uint32, error) {
	for i, c := range body {
		if c>>7 != channel {
			return 0, fmt.Errorf("byte %d of %d on channel %d belongs to another channel", i, len(body), channel)
		}
	}
	if len(body) < stampedHeader {
		return 0, fmt.Errorf("only %d bytes on channel %d", len(body), channel)
	}
	id := uint32(unspread(binary.BigEndian.Uint64(body)))
	if !bytes.Equal(body, stampedBody(channel, id, int(unspread(binary.BigEndian.Uint64(body[8:]))))) {
		return id, fmt.Errorf("request %d of channel %d is not what was sent", id, channel)
	}
	return id, nil
}

func TestBrokerChannelsAreIsolated(t *testing.T) {
	const requests, parallel = 10_000, 32 // of both channels together; per channel
	rig := newBrokerRig(t)
	var executed [2]atomic.Int32
	var wg sync.WaitGroup
	for channel := range byte(2) {
		id := uuid.New()
		for range 2 {
			rig.serve(rig.providerOn(id), func(_ context.Context, r *socket.Request) (io.Reader, error) {
				body, err := io.ReadAll(r.Reader)
				if err != nil {
					return nil, err
				}
				executed[channel].Add(1)
				if _, err := checkStamped(channel, body); err != nil {
					t.Errorf("provider: %v", err)
				}
				return bytes.NewReader(body), nil
			})
		}
		consumers := []*socket.Consumer{rig.consumerOn(id), rig.consumerOn(id)}
		var next atomic.Uint32
		for n := range parallel {
			random := rand.New(rand.NewPCG(uint64(channel), uint64(n)))
			wg.Go(func() {
				for id := next.Add(1); id <= requests/2; id = next.Add(1) {
					size := stampedHeader + random.IntN(2000)
					if id%200 == 0 {
						size += 150_000 // more than one frame, and more than the first credit
					}
					resp, err := consumers[n%2].Send(bytes.NewReader(stampedBody(channel, id, size)), 30*time.Second)
					if err != nil {
						t.Errorf("channel %d: %v", channel, err)
						continue
					}
					answer, err := io.ReadAll(resp)
					if err != nil || len(answer) != size {
						t.Errorf("channel %d: got %d bytes, %v, want %d", channel, len(answer), err, size)
						continue
					}
					if got, err := checkStamped(channel, answer); err != nil || got != id {
						t.Errorf("consumer: got the answer to %d, want %d: %v", got, id, err)
					}
				}
			})
		}
	}
	wg.Wait()
	for channel := range executed {
		if n := executed[channel].Load(); n != requests/2 {
			t.Errorf("channel %d executed %d requests, want %d", channel, n, requests/2)
		}
	}
	rig.atRest()
}
