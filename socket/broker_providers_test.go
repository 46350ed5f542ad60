package socket_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Each request's body and answer come in several pieces. The answer is the body with each byte replaced by
// the provider's number, after the request's own: so it shows who answered, and that nobody else did.
func TestBrokerSharesRequestsAmongProviders(t *testing.T) {
	const requests, parallel, chunks, chunk = 1000, 32, 4, 300
	for _, providers := range []int{1, 2, 3, 10} {
		t.Run(fmt.Sprint(providers), func(t *testing.T) {
			rig := newBrokerRig(t)
			seen := make([]sync.Map, providers) // the requests that each provider executed
			for i := range providers {
				rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
					body, err := io.ReadAll(r.Reader)
					if err != nil {
						return nil, err
					}
					if want := requestBody(binary.BigEndian.Uint64(body), chunks, chunk); !bytes.Equal(body, bytes.Join(want, nil)) {
						return nil, fmt.Errorf("provider %d got a body of %d bytes that nobody sent", i, len(body))
					}
					if _, again := seen[i].LoadOrStore(binary.BigEndian.Uint64(body), true); again {
						return nil, fmt.Errorf("provider %d got a request twice", i)
					}
					mark := bytes.Repeat([]byte{byte(i)}, chunk)
					return piped(body[:8], mark, mark, mark[:1], mark[:chunk-1]), nil
				})
			}

			consumers := []*socket.Consumer{rig.consumer(), rig.consumer()}
			var next atomic.Uint64
			var wg sync.WaitGroup
			for n := range parallel {
				wg.Go(func() {
					for id := next.Add(1); id <= requests; id = next.Add(1) {
						if err := multiChunkRequest(consumers[n%2], id, chunks, chunk); err != nil {
							t.Errorf("request %d: %v", id, err)
						}
					}
				})
			}
			wg.Wait()

			all, fewest, most := 0, requests, 0
			for i := range seen {
				n := 0
				seen[i].Range(func(any, any) bool { n++; return true })
				all, fewest, most = all+n, min(fewest, n), max(most, n)
			}
			if all != requests {
				t.Errorf("%d requests were executed, want %d", all, requests)
			}
			if most > 2*fewest {
				t.Errorf("one provider got %d requests, another %d", most, fewest)
			}
			rig.atRest()
			if done := rig.server.Stats().Requests; done.Opened != requests || done.Completed != requests {
				t.Errorf("the server counted %+v, want %d opened and completed", done, requests)
			}
		})
	}
}

// requestBody is the body of request id, in pieces.
func requestBody(id uint64, chunks, chunk int) [][]byte {
	pieces := [][]byte{binary.BigEndian.AppendUint64(nil, id)}
	for i := range chunks {
		pieces = append(pieces, bytes.Repeat([]byte{byte(id) + byte(i)}, chunk+i))
	}
	return pieces
}

func multiChunkRequest(c *socket.Consumer, id uint64, chunks, chunk int) error {
	resp, err := c.Send(piped(requestBody(id, chunks, chunk)...), 30*time.Second)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(resp)
	if err != nil {
		return err
	}
	if len(answer) != 8+3*chunk || binary.BigEndian.Uint64(answer) != id {
		return fmt.Errorf("got %d bytes, starting with %q", len(answer), answer[:min(8, len(answer))])
	}
	if marks := answer[8:]; bytes.Count(marks, marks[:1]) != len(marks) {
		return errors.New("more than one provider answered")
	}
	return nil
}

func TestBrokerSlowProviderGetsFewer(t *testing.T) {
	rig := newBrokerRig(t)
	var counts [3]atomic.Int32
	for i := range counts {
		work := 2 * time.Millisecond
		if i == 0 {
			work *= 10
		}
		rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
			counts[i].Add(1)
			<-time.After(work)
			return r.Reader, nil
		})
	}
	consumer := rig.consumer()
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			for range 50 {
				if got, err := exchange(consumer, "job", 10*time.Second); err != nil || got != "job" {
					t.Errorf("got %q, %v", got, err)
				}
			}
		})
	}
	wg.Wait()
	slow, fast := counts[0].Load(), min(counts[1].Load(), counts[2].Load())
	if slow == 0 || 2*slow > fast {
		t.Errorf("the slow provider got %d, a fast one %d, want less than half", slow, fast)
	}
}

func TestBrokerNoProviderThenAProvider(t *testing.T) {
	rig := newBrokerRig(t)
	consumer := rig.consumer()
	for range 10 {
		began := time.Now()
		_, err := consumer.Send(strings.NewReader("hello"), 5*time.Second)
		if !errors.Is(err, socket.ErrNoProvider) {
			t.Fatalf("got %v, want ErrNoProvider", err)
		}
		if took := time.Since(began); took > atOnce {
			t.Errorf("ErrNoProvider took %v", took)
		}
	}
	first := rig.answering(echoHandler)
	for range 100 {
		echoes(t, consumer, "hello")
	}
	if err := first.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	eventually(t, "the provider's leaving is known", func() bool { return rig.server.Stats().Providers == 0 })
	if _, err := consumer.Send(strings.NewReader("hello"), 5*time.Second); !errors.Is(err, socket.ErrNoProvider) {
		t.Errorf("after it has left: got %v, want ErrNoProvider", err)
	}
	rig.atRest()
}

func TestBrokerLateAnswersHarmNobody(t *testing.T) {
	rig := newBrokerRig(t)
	provider := rig.provider()
	consumer := rig.consumer()
	echo := make(chan struct{}) // closed: the provider turns into one that echoes
	received, gone := make(chan struct{}, 1), make(chan struct{})
	go func() {
		for {
			id, r, ok := provider.Receive()
			if !ok {
				return
			}
			select {
			case <-echo:
			default:
				received <- struct{}{}
				<-gone
				r = strings.NewReader("too late")
			}
			_ = provider.Respond(id, r, nil) // an error, where the provider knows already
		}
	}()

	late := func() {
		began := time.Now()
		_, err := consumer.Send(strings.NewReader("hello"), 100*time.Millisecond)
		expiredAfter(t, 100*time.Millisecond, time.Since(began), err)
		await(t, received, "the provider has it")
		gone <- struct{}{}
	}
	late()
	before := runtime.NumGoroutine()
	for range 10 {
		late()
	}
	close(echo)
	for range 100 {
		echoes(t, consumer, "in time")
	}
	rig.atRest()
	settlesAt(t, before)
}

func TestBrokerAnImmediateSendSucceeds(t *testing.T) {
	rig := newBrokerRig(t)
	for i := range 1000 {
		channel := uuid.New()
		provider, err := socket.NewProvider(rig.addr, channel, quietBroker())
		if err != nil {
			t.Fatalf("%d: NewProvider: %v", i, err)
		}
		go func() {
			if id, r, ok := provider.Receive(); ok {
				_ = provider.Respond(id, r, nil)
			}
		}()
		consumer, err := socket.NewConsumer(rig.addr, channel, quietBroker())
		if err != nil {
			t.Fatalf("%d: NewConsumer: %v", i, err)
		}
		if got, err := exchange(consumer, "at once", 5*time.Second); err != nil || got != "at once" {
			t.Fatalf("%d: got %q, %v", i, got, err)
		}
		_ = consumer.Close()
		_ = provider.Close()
	}
	eventually(t, "all have left", func() bool {
		stats := rig.server.Stats()
		return stats.Consumers == 0 && stats.Providers == 0
	})
}
