package natsmesh_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// numbers is a stream of n bytes that no other stream has: words that count, each with the stream's number.
type numbers struct {
	stream uint64
	at, n  int
}

func (s *numbers) Read(p []byte) (int, error) {
	if s.at == s.n {
		return 0, io.EOF
	}
	p = p[:min(len(p)&^7, s.n-s.at)]
	for i := 0; i+8 <= len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], uint64(s.at+i)<<20|s.stream)
	}
	s.at += len(p)
	return len(p), nil
}

// isNumbers reads r to its end, which must be all of want.
func isNumbers(r io.Reader, want *numbers) error {
	got, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	for want.at < want.n {
		part := min(len(got), want.n-want.at)
		if _, err := io.ReadFull(r, got[:part]); err != nil {
			return fmt.Errorf("after %d bytes: %w", want.at, err)
		}
		from := want.at
		if _, err := io.ReadFull(want, expected[:part]); err != nil {
			return err
		}
		if !bytes.Equal(got[:part], expected[:part]) {
			return fmt.Errorf("bytes %d to %d are others", from, want.at)
		}
	}
	if n, err := io.Copy(io.Discard, r); n != 0 || err != nil {
		return fmt.Errorf("%d bytes too many, %w", n, err)
	}
	return nil
}

// Three brokers in three processes, the provider at the third: a thousand streams of 10 MiB arrive as they were sent.
func TestStreamsOverThreeProcesses(t *testing.T) {
	streams, size := 1000, 10<<20
	if raceEnabled || testing.Short() {
		streams = 50
	}
	url := startNATS(t, -1).ClientURL()
	var ports [3]string
	for i := range ports {
		_, ports[i] = startChild(t, nil, "broker", url)
	}
	channel := uuid.New()
	providerAt(t, ports[2], channel, func(_ context.Context, r *socket.Request) (io.Reader, error) {
		var n [8]byte
		_, err := io.ReadFull(r.Reader, n[:])
		return &numbers{stream: binary.LittleEndian.Uint64(n[:]), n: size}, err
	})
	c := consumerAt(t, ports[0], channel)
	start := time.Now()
	var next atomic.Int64
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for i := next.Add(1); i <= int64(streams); i = next.Add(1) {
				answer, err := c.Send(bytes.NewReader(binary.LittleEndian.AppendUint64(nil, uint64(i))), 5*time.Minute)
				if err == nil {
					err = isNumbers(answer, &numbers{stream: uint64(i), n: size})
				}
				if err != nil {
					t.Errorf("stream %d: %v", i, err)
				}
			}
		})
	}
	all.Wait()
	took := time.Since(start)
	t.Logf("%d streams of %d MiB in %v: %.0f MiB/s", streams, size>>20, took, float64(streams*size>>20)/took.Seconds())
}

// A broker that is killed, and one that is stopped in its tracks as if its host were cut off: who streams from it is told within 5 s, and
// a provider of another broker is found.
func TestBrokerIsLost(t *testing.T) {
	for name, lose := range map[string]func(*child) error{"killed": (*child).killed, "cut off": (*child).paused} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := startNATS(t, -1).ClientURL()
			_, near := startChild(t, nil, "broker", url)
			lost, far := startChild(t, nil, "broker", url)
			_, other := startChild(t, nil, "broker", url)
			channel := uuid.New()
			providerAt(t, far, channel, func(ctx context.Context, _ *socket.Request) (io.Reader, error) { return endlessReader{ctx}, nil })
			c := consumerAt(t, near, channel)
			var answers []io.Reader
			for range 20 {
				answer, err := c.Send(strings.NewReader("x"), time.Hour)
				if err == nil {
					_, err = io.CopyN(io.Discard, answer, 1<<20)
				}
				if err != nil {
					t.Fatal(err)
				}
				answers = append(answers, answer)
			}
			start := time.Now()
			if err := lose(lost); err != nil {
				t.Fatal(err)
			}
			for _, answer := range answers {
				if _, err := io.Copy(io.Discard, answer); !errors.Is(err, socket.ErrProviderLost) {
					t.Errorf("a stream ended with %v", err)
				}
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			providerAt(t, other, channel, says("other"))
			eventually(t, "the other is found", func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				answer, err := c.SendContext(ctx, strings.NewReader("x"))
				if err != nil {
					return false
				}
				text, err := io.ReadAll(answer)
				return string(text) == "other: x" && err == nil
			})
		})
	}
}

func (c *child) killed() error { return c.cmd.Process.Kill() }
