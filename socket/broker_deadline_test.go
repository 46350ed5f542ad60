package socket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// trickle gives a byte each 5 ms until it is stopped, and then ends.
type trickle struct{ stop <-chan struct{} }

func (r trickle) Read(p []byte) (int, error) {
	select {
	case <-r.stop:
		return 0, io.EOF
	case <-time.After(5 * time.Millisecond):
		p[0] = '.'
		return 1, nil
	}
}

// blocked gives nothing until it is stopped.
type blocked struct{ stop <-chan struct{} }

func (r blocked) Read([]byte) (int, error) {
	<-r.stop
	return 0, io.EOF
}

// The timeout covers the exchange as a whole, whatever part of it takes the time.
func TestBrokerTimeoutCoversEverything(t *testing.T) {
	const timeout = 300 * time.Millisecond
	stop := make(chan struct{})
	defer close(stop)
	trickling := func(context.Context, *socket.Request) (io.Reader, error) { return trickle{stop}, nil }
	for _, test := range []struct {
		name    string
		body    io.Reader
		handler socket.Handler // nil: the provider does not receive
	}{
		{"upload trickles", trickle{stop}, func(_ context.Context, r *socket.Request) (io.Reader, error) {
			_, err := io.Copy(io.Discard, r.Reader)
			return strings.NewReader("all read"), err
		}},
		{"upload stands still", blocked{stop}, func(_ context.Context, r *socket.Request) (io.Reader, error) {
			_, err := io.Copy(io.Discard, r.Reader)
			return strings.NewReader("all read"), err
		}},
		{"upload is not read", bytes.NewReader(make([]byte, 8<<20)), deafHandler},
		{"queue", strings.NewReader("hello"), nil},
		{"queue, and an upload that trickles", trickle{stop}, nil},
		{"no answer", strings.NewReader("hello"), deafHandler},
		{"answer does not start", strings.NewReader("hello"), func(context.Context, *socket.Request) (io.Reader, error) {
			return blocked{stop}, nil
		}},
		{"answer trickles", strings.NewReader("hello"), trickling},
		{"answer stands still", strings.NewReader("hello"), func(context.Context, *socket.Request) (io.Reader, error) {
			return io.MultiReader(strings.NewReader("so far"), blocked{stop}), nil
		}},
		{"both ways trickle", trickle{stop}, func(_ context.Context, r *socket.Request) (io.Reader, error) { return r.Reader, nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			rig := newBrokerRig(t)
			if test.handler == nil {
				rig.provider()
			} else {
				rig.answering(test.handler)
			}
			consumer := rig.consumer()
			returnsWithin(t, 5*time.Second, "the exchange", func() {
				began := time.Now()
				resp, err := consumer.Send(test.body, timeout)
				if err == nil {
					_, err = io.Copy(io.Discard, resp)
				}
				expiredAfter(t, timeout, time.Since(began), err)
			})
			rig.atRest()
		})
	}
}

func TestBrokerDeadlineOfTheContext(t *testing.T) {
	rig := newBrokerRig(t)
	deadlines := make(chan time.Duration, 1)
	rig.answering(func(ctx context.Context, r *socket.Request) (io.Reader, error) {
		deadline, _ := ctx.Deadline()
		deadlines <- time.Until(deadline)
		return deafHandler(ctx, r)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := rig.consumer().SendContext(ctx, strings.NewReader("hello"))
	expiredAfter(t, 300*time.Millisecond, time.Since(began), err)
	if left := await(t, deadlines, "the provider has it"); left < 200*time.Millisecond || left > 350*time.Millisecond {
		t.Errorf("the provider's context had %v left of 300 ms", left)
	}
}

// A context that ends is the end of the exchange at once, on both sides.
func TestBrokerCancellation(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	for _, test := range []struct {
		name   string
		body   io.Reader
		answer io.Reader // nil: none
	}{
		{"before the answer", strings.NewReader("hello"), nil},
		{"during the upload", trickle{stop}, nil},
		{"during an upload that stands still", blocked{stop}, nil},
		{"during the answer", strings.NewReader("hello"), trickle{stop}},
		{"during an answer that stands still", strings.NewReader("hello"), io.MultiReader(strings.NewReader("so far"), blocked{stop})},
	} {
		t.Run(test.name, func(t *testing.T) {
			rig := newBrokerRig(t)
			provider, consumer := rig.provider(), rig.consumer()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			answered, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				resp, err := consumer.SendContext(ctx, test.body)
				if err == nil {
					close(answered)
					_, err = io.Copy(io.Discard, resp)
				}
				ended <- err
			}()
			req, err := provider.ReceiveContext(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if test.answer != nil {
				go func() { _ = provider.Respond(req.ID, test.answer, nil) }()
				await(t, answered, "the answer starts")
			}
			cancel()
			cancelled := time.Now()
			if err := await(t, ended, "the consumer's end"); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want context.Canceled", err)
			}
			if took := time.Since(cancelled); took > 50*time.Millisecond {
				t.Errorf("the consumer took %v", took)
			}
			await(t, req.Context.Done(), "the provider's context ends")
			if took := time.Since(cancelled); took > atOnce {
				t.Errorf("it took %v to reach the provider", took)
			}
			if req.Context.Err() == nil || context.Cause(req.Context) == nil {
				t.Error("the provider's context has no error")
			}
			rig.atRest()
		})
	}
}

func TestBrokerContextThatHasEnded(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(echoHandler)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	resp, err := rig.consumer().SendContext(ctx, strings.NewReader("hello"))
	if resp != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v, want context.Canceled", resp, err)
	}
}

// A consumer that closes an answer it has not read has given up.
func TestBrokerClosingAnAnswerReachesTheProvider(t *testing.T) {
	rig := newBrokerRig(t)
	provider, consumer := rig.provider(), rig.consumer()
	stop := make(chan struct{})
	defer close(stop)
	requests := make(chan *socket.Request, 1)
	go func() {
		if req, err := provider.ReceiveContext(t.Context()); err == nil {
			requests <- req
			_ = provider.Respond(req.ID, trickle{stop}, nil)
		}
	}()
	resp, err := consumer.SendContext(t.Context(), strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	req := await(t, requests, "the request")
	_ = resp.Close()
	await(t, req.Context.Done(), "the provider's context ends")
	if n, err := resp.Read(make([]byte, 8)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("Read after Close: got %d, %v, want an error", n, err)
	}
	_ = resp.Close()
	rig.atRest()
}

func TestBrokerExpiredRequestsAreNotDelivered(t *testing.T) {
	rig := newBrokerRig(t)
	provider, consumer := rig.provider(), rig.consumer()
	for range 20 {
		_, err := consumer.Send(strings.NewReader("expired"), 50*time.Millisecond)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want context.DeadlineExceeded", err)
		}
	}
	answer := make(chan error, 1)
	go func() {
		got, err := exchange(consumer, "fresh", 5*time.Second)
		if err == nil && got != "fresh" {
			err = errors.New("got " + got)
		}
		answer <- err
	}()
	req, err := provider.ReceiveContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(req.Reader)
	if string(body) != "fresh" { // the last of them: that it is over was still on its way
		await(t, req.Context.Done(), "the end of a request that expired")
		if req, err = provider.ReceiveContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		body, err = io.ReadAll(req.Reader)
	}
	if string(body) != "fresh" || err != nil {
		t.Errorf("the first request that Receive delivers is %q, %v, want the fresh one", body, err)
	}
	_ = provider.Respond(req.ID, bytes.NewReader(body), nil)
	if err := await(t, answer, "the answer"); err != nil {
		t.Error(err)
	}
	if stats := rig.server.Stats().Requests; stats.Expired+stats.Cancelled != 20 {
		t.Errorf("the server counted %+v, want 20 that expired or were given up", stats)
	}
	rig.atRest()
}

// An upload that its sender abandons ends everywhere, and never looks complete.
func TestBrokerAbandonedUpload(t *testing.T) {
	failing := errors.New("the disk is gone")
	for _, test := range []struct {
		name   string
		before int64 // bytes before the failure
		answer bool  // the answer has started when it comes
	}{
		{"at the start", 0, false},
		{"midway", 1 << 20, false},
		{"after the answer has started", 1 << 20, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			rig := newBrokerRig(t)
			provider, consumer := rig.provider(), rig.consumer()
			fail := make(chan struct{})
			body := io.MultiReader(stamp(1, test.before), blocked{fail}, errorReader{failing})
			ended := make(chan error, 1)
			go func() {
				resp, err := consumer.Send(body, 10*time.Second)
				if err == nil {
					_, err = io.Copy(io.Discard, resp)
				}
				ended <- err
			}()
			var req *socket.Request
			if test.before == 0 {
				close(fail) // the provider need not get it at all
			} else {
				var err error
				if req, err = provider.ReceiveContext(t.Context()); err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, req.Reader, test.before); err != nil {
					t.Fatalf("the first part of the body: %v", err)
				}
				if test.answer {
					go func() { _ = provider.Respond(req.ID, io.MultiReader(strings.NewReader("so far"), req.Reader), nil) }()
				}
				close(fail)
			}
			if err := await(t, ended, "the consumer's end"); !errors.Is(err, failing) {
				t.Errorf("Send: got %v, want the reader's own error, wrapped", err)
			}
			if req != nil {
				await(t, req.Context.Done(), "the provider's context ends")
				if !test.answer {
					if n, err := io.Copy(io.Discard, req.Reader); err == nil {
						t.Errorf("the provider's reader came to a clean end after %d bytes more", n)
					}
				}
			}
			rig.atRest()
			rig.serve(provider, echoHandler)
			echoes(t, consumer, "both go on")
		})
	}
}
