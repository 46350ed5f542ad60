//go:build unix

package socket_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// remoteRig is a rig whose broker is the one at addr.
func remoteRig(t testing.TB, addr string) *brokerRig {
	return &brokerRig{t: t, addr: addr, channel: uuid.New()}
}

func TestBrokerProviderIsKilled(t *testing.T) {
	for _, test := range []struct {
		name, role string
		answered   bool // the answer has started
	}{
		{"before its answer", "hold", false},
		{"midway in its answer", "stall", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, addr := startBrokerProcess(t, "0")
			rig := remoteRig(t, addr)
			provider, consumer := startProvider(t, test.role, addr, rig.channel), rig.consumer()
			started, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				resp, err := consumer.Send(strings.NewReader("question"), 30*time.Second)
				if err == nil {
					if _, err = io.CopyN(io.Discard, resp, partOfAnswer); err == nil {
						close(started)
						err = isStamp(resp, 1, 1) // which it is not: it never ends
					}
				}
				ended <- err
			}()
			if test.answered {
				await(t, started, "the answer starts")
			} else {
				provider.await("received")
			}
			killed := time.Now()
			provider.kill()
			err := await(t, ended, "the consumer's end")
			if took := time.Since(killed); took > 100*time.Millisecond {
				t.Errorf("it took %v", took)
			}
			if !errors.Is(err, socket.ErrProviderLost) {
				t.Errorf("got %v, want ErrProviderLost", err)
			}
			if _, err := consumer.Send(strings.NewReader("question"), 5*time.Second); !errors.Is(err, socket.ErrNoProvider) {
				t.Errorf("the next request: got %v, want ErrNoProvider", err)
			}
		})
	}
}

// An answer whose reader fails is an error at once, and not a short answer.
func TestBrokerAnswerReaderFails(t *testing.T) {
	_, addr := startBrokerProcess(t, "0")
	rig := remoteRig(t, addr)
	provider, consumer := startProvider(t, "fail", addr, rig.channel), rig.consumer()
	for range 5 {
		ended := make(chan error, 1)
		go func() {
			resp, err := consumer.Send(strings.NewReader("question"), 30*time.Second)
			if err == nil {
				_, err = io.Copy(io.Discard, resp)
			}
			ended <- err
		}()
		provider.await("failing")
		failed := time.Now()
		err := await(t, ended, "the consumer's end")
		if took := time.Since(failed); took > 100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		if remote, ok := errors.AsType[*socket.RemoteError](err); !ok || remote.Message != "the disk is gone" {
			t.Errorf("got %v, want what the provider's reader said", err)
		}
	}
}

func TestBrokerIsKilledAndComesBack(t *testing.T) {
	broker, addr := startBrokerProcess(t, "0")
	_, port, _ := strings.Cut(addr, ":")
	rig := remoteRig(t, addr)
	provider, consumer := rig.provider(), rig.consumer()
	ended := make(chan error, 1)
	go func() {
		_, err := consumer.Send(strings.NewReader("question"), 30*time.Second)
		ended <- err
	}()
	req, err := provider.ReceiveContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}

	killed := time.Now()
	broker.kill()
	if err := await(t, ended, "the consumer's end"); !errors.Is(err, socket.ErrConnectionLost) {
		t.Errorf("the running request: got %v, want ErrConnectionLost", err)
	}
	await(t, req.Context.Done(), "the provider's context ends")
	_, err = consumer.Send(strings.NewReader("question"), 30*time.Second)
	if !errors.Is(err, socket.ErrNotConnected) {
		t.Errorf("a new request: got %v, want ErrNotConnected", err)
	}
	if took := time.Since(killed); took > time.Second {
		t.Errorf("the errors took %v", took)
	}
	returnsWithin(t, time.Second, "Respond without a broker", func() {
		if err := provider.Respond(req.ID, strings.NewReader("late"), nil); err == nil {
			t.Error("Respond to a request of a broker that is gone gave no error")
		}
	})

	rig.serve(provider, echoHandler)
	startBrokerProcess(t, port)
	eventually(t, "both have reconnected", func() bool {
		got, err := exchange(consumer, "hello again", 5*time.Second)
		return err == nil && got == "hello again"
	})
	for range 100 {
		echoes(t, consumer, "hello again")
	}
}

// A provider that stands still for a while in the middle of a transfer. The transfer is whole, or it ends
// with an error; another channel does not notice.
func TestBrokerProviderIsPaused(t *testing.T) {
	pauses := []time.Duration{time.Second, 7 * time.Second}
	if os.Getenv("SOAK") != "" {
		pauses = append(pauses, 30*time.Second)
	}
	const size = 24_000_000
	for _, pause := range pauses {
		t.Run(pause.String(), func(t *testing.T) {
			_, addr := startBrokerProcess(t, "0")
			rig, other := remoteRig(t, addr), remoteRig(t, addr)
			provider, consumer := startProvider(t, "echo", addr, rig.channel), rig.consumer()

			other.answering(echoHandler)
			quit, worst := make(chan struct{}), make(chan time.Duration, 1)
			go othersRequests(t, other.consumer(), quit, worst)

			// The request stops after a part, and goes on when the provider has been stopped.
			stopped := make(chan struct{})
			source := io.LimitReader(stampSource(1), size)
			body := io.MultiReader(io.LimitReader(source, size/4), blocked{stopped}, source)
			ended := make(chan error, 1)
			first := &firstByte{came: make(chan struct{})}
			go func() {
				resp, err := consumer.Send(body, pause+30*time.Second)
				if err == nil {
					first.r = resp
					err = isStamp(first, 1, size)
				}
				ended <- err
			}()
			await(t, first.came, "the answer starts")
			if err := provider.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			close(stopped)
			var err error
			select {
			case err = <-ended: // it may be given up early
				if err == nil {
					t.Error("complete, without the provider")
				}
			case <-time.After(pause):
			}
			_ = provider.cmd.Process.Signal(syscall.SIGCONT)
			if err == nil {
				select {
				case err = <-ended:
				case <-time.After(40 * time.Second):
					t.Fatal("the transfer does not end")
				}
			}
			if err != nil && strings.Contains(err.Error(), "stamp 1: a clean end") || err != nil && strings.Contains(err.Error(), "foreign") {
				t.Errorf("short but complete, or wrong: %v", err)
			}
			t.Logf("after a pause of %v: %v", pause, err)
			close(quit)
			if took := await(t, worst, "the other channel's requests end"); took > time.Second {
				t.Errorf("a request on another channel took %v", took)
			}
			eventually(t, "the provider is back", func() bool {
				got, err := exchange(consumer, "hello again", 5*time.Second)
				return err == nil && got == "hello again"
			})
		})
	}
}

// Much data each way through three processes, none of which holds it.
func TestBrokerMemoryOfMuchData(t *testing.T) {
	size, limit := int64(256<<20), int64(64<<20)
	if os.Getenv("SOAK") != "" {
		size = 2 << 30
	}
	if raceDetector() {
		size, limit = size/4, 8*limit // its shadow memory is several times the program's own
	}
	broker, addr := startBrokerProcess(t, "0")
	channel := uuid.New()
	provider := startProvider(t, "echo", addr, channel)
	began := time.Now()
	consumer := startBrokerChild(t, "transfer", addr, channel.String(), strconv.FormatInt(size, 10))
	if got := consumer.awaitFor("transferred", 5*time.Minute); got[0] != "true" {
		t.Errorf("the transfer: %v, want it whole, and the first byte before the last is sent", got)
	}
	took := time.Since(began)
	for _, c := range []*brokerChild{broker, provider, consumer} {
		peak := c.peakMemory()
		t.Logf("%s: %.1f MiB at most, of %d MiB each way in %v", c.role, float64(peak)/(1<<20), size>>20, took)
		if peak > limit {
			t.Errorf("%s: %d MiB at most, want %d MiB", c.role, peak>>20, limit>>20)
		}
	}
}

// Many requests are running when the provider's process is killed: all of them end, each once.
func TestBrokerManyRequestsAtAKill(t *testing.T) {
	const requests = 200
	_, addr := startBrokerProcess(t, "0")
	rig := remoteRig(t, addr)
	provider, consumer := startProvider(t, "hold", addr, rig.channel), rig.consumer()
	var ended sync.WaitGroup
	errs := make(chan error, requests)
	for range requests {
		ended.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			_, err := consumer.SendContext(ctx, strings.NewReader("question"))
			errs <- err
		})
	}
	for range requests {
		provider.await("received")
	}
	provider.kill()
	killed := time.Now()
	returnsWithin(t, 10*time.Second, "all requests", ended.Wait)
	if took := time.Since(killed); took > 500*time.Millisecond {
		t.Errorf("it took %v", took)
	}
	for range requests {
		if err := <-errs; !errors.Is(err, socket.ErrProviderLost) {
			t.Errorf("got %v, want ErrProviderLost", err)
		}
	}
}
