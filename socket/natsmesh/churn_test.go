package natsmesh_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Providers come and go and NATS restarts, under load: no request is executed twice, each ends in time, an answer is always whole, and what
// says that nobody has begun is true. Afterwards nothing is left.
func TestChurn(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 7))
	nats := startNATS(t, -1)
	url, port := nats.ClientURL(), 0
	if _, err := fmt.Sscanf(url[strings.LastIndexByte(url, ':')+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	small := socket.WithLimits(socket.Limits{Memory: 4 << 20, Streams: 20})
	brokers := []*socket.Server{broker(t, url), broker(t, url), broker(t, url, small)}
	channels := []uuid.UUID{uuid.New(), uuid.New()}
	var executed sync.Map // id -> *atomic.Int64
	handler := func(_ context.Context, r *socket.Request) (io.Reader, error) {
		body, err := io.ReadAll(r.Reader)
		if err != nil {
			return nil, err
		}
		id, _, _ := strings.Cut(string(body), " ")
		n, _ := executed.LoadOrStore(id, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		return strings.NewReader(string(body)), nil
	}
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var answered, failed atomic.Int64
	for i, s := range brokers {
		for j, channel := range channels {
			c := consumer(t, s, channel)
			for k := range 4 {
				load.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						id := fmt.Sprintf("%d-%d-%d-%d", i, j, k, n)
						body := id + " " + strings.Repeat("x", n%7*20_000)
						start := time.Now()
						answer, err := c.Send(io.MultiReader(strings.NewReader(body)), 5*time.Second)
						var text []byte
						if err == nil {
							text, err = io.ReadAll(answer)
						}
						took := time.Since(start)
						if took > 15*time.Second {
							t.Errorf("%s took %v", id, took)
						}
						times := int64(0)
						if v, ok := executed.Load(id); ok {
							times = v.(*atomic.Int64).Load()
						}
						switch {
						case err == nil && (string(text) != body || times != 1):
							t.Errorf("%s: an answer of %d bytes, executed %d times", id, len(text), times)
						case err != nil && (times > 1 || socket.Retryable(err) && times != 0):
							t.Errorf("%s: %v, executed %d times", id, err, times)
						case err == nil:
							answered.Add(1)
						default:
							failed.Add(1)
							if errors.Is(err, context.DeadlineExceeded) {
								t.Errorf("%s: %v", id, err)
							}
						}
					}
				})
			}
		}
	}
	for round := range 12 {
		var list []*socket.Provider
		var served sync.WaitGroup
		for range 1 + random.IntN(4) {
			p, err := socket.NewProvider("127.0.0.1:"+brokers[random.IntN(3)].Port(), channels[random.IntN(2)], quiet)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, p)
			served.Go(func() { _ = p.Serve(context.Background(), handler) })
		}
		pause := time.NewTimer(time.Duration(100+random.IntN(300)) * time.Millisecond)
		<-pause.C
		if round%4 == 3 {
			nats.Shutdown()
			nats.WaitForShutdown()
			nats = startNATS(t, port)
		}
		for _, p := range list {
			_ = p.Close()
		}
		served.Wait()
	}
	stop()
	load.Wait()
	t.Logf("%d answered, %d failed", answered.Load(), failed.Load())
	if answered.Load() < 100 {
		t.Error("the run says little")
	}
	for i, s := range brokers {
		eventually(t, fmt.Sprintf("nothing is left at broker %d", i), func() bool {
			st := s.Stats()
			return st.Streams == 0 && st.Reserved == 0 && st.Links == 0
		})
		if st := s.Stats(); st.Refused.Violations != 0 {
			t.Errorf("broker %d: %+v", i, st)
		}
	}
}
