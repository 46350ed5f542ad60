package socket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

type panicReader struct{}

func (panicReader) Read([]byte) (int, error) { panic("the reader of a user panics") }

// idleReader returns nothing and no error, idle times, before it reads from r.
type idleReader struct {
	idle int
	r    io.Reader
}

func (r *idleReader) Read(p []byte) (int, error) {
	if r.idle--; r.idle >= 0 {
		return 0, nil
	}
	return r.r.Read(p)
}

// overReader claims to have read more than there was room for.
type overReader struct{}

func (overReader) Read(p []byte) (int, error) { return len(p) + 1, nil }

// negativeReader claims to have read less than nothing.
type negativeReader struct{}

func (negativeReader) Read([]byte) (int, error) { return -1, nil }

// Readers as users may write them. want is what arrives; where it is empty, an error does.
func oddReaders() map[string]struct {
	r    io.Reader
	want string
} {
	return map[string]struct {
		r    io.Reader
		want string
	}{
		"typed nil *bytes.Buffer":    {(*bytes.Buffer)(nil), ""},
		"typed nil *strings.Reader":  {(*strings.Reader)(nil), ""},
		"panics":                     {panicReader{}, ""},
		"panics midway":              {io.MultiReader(strings.NewReader("x"), panicReader{}), ""},
		"claims too much":            {overReader{}, ""},
		"claims a negative length":   {negativeReader{}, ""},
		"fails":                      {errorReader{errors.New("no")}, ""},
		"fails midway":               {io.MultiReader(strings.NewReader("x"), errorReader{io.ErrUnexpectedEOF}), ""},
		"returns nothing for a time": {&idleReader{idle: 50, r: strings.NewReader("late")}, "late"},
		"data together with EOF":     {io.LimitReader(&dataWithEOF{"whole"}, 100), "whole"},
	}
}

type dataWithEOF struct{ data string }

func (r *dataWithEOF) Read(p []byte) (int, error) { return copy(p, r.data), io.EOF }

func TestBrokerOddBodies(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(echoHandler)
	consumer := rig.consumer()
	for name, odd := range oddReaders() {
		t.Run(name, func(t *testing.T) {
			returnsWithin(t, 10*time.Second, "the exchange", func() {
				resp, err := consumer.Send(odd.r, 5*time.Second)
				var got []byte
				if err == nil {
					got, err = io.ReadAll(resp)
				}
				if odd.want != "" && (err != nil || string(got) != odd.want) || odd.want == "" && err == nil {
					t.Errorf("got %q, %v, want %q or, if that is empty, an error", got, err, odd.want)
				}
			})
			echoes(t, consumer, "and goes on")
		})
	}
	rig.atRest()
}

func TestBrokerOddAnswers(t *testing.T) {
	rig := newBrokerRig(t)
	provider, consumer := rig.provider(), rig.consumer()
	for name, odd := range oddReaders() {
		t.Run(name, func(t *testing.T) {
			go func() {
				if id, _, ok := provider.Receive(); ok {
					_ = provider.Respond(id, odd.r, nil)
				}
			}()
			returnsWithin(t, 10*time.Second, "the exchange", func() {
				got, err := exchange(consumer, "question", 5*time.Second)
				if odd.want != "" && (err != nil || got != odd.want) || odd.want == "" && err == nil {
					t.Errorf("got %q, %v, want %q or, if that is empty, an error", got, err, odd.want)
				}
				if errors.Is(err, context.DeadlineExceeded) {
					t.Error("the error came only with the deadline")
				}
			})
		})
	}
	rig.serve(provider, echoHandler)
	echoes(t, consumer, "and goes on")
	rig.atRest()
}

func TestBrokerNilReaders(t *testing.T) {
	rig := newBrokerRig(t)
	provider, consumer := rig.provider(), rig.consumer()
	responded := make(chan error, 1)
	go func() {
		if id, _, ok := provider.Receive(); ok {
			responded <- provider.Respond(id, nil, nil)
		}
	}()
	_, err := exchange(consumer, "question", 5*time.Second)
	if _, ok := errors.AsType[*socket.RemoteError](err); !ok {
		t.Errorf("an answer that is nil without an error: the consumer got %v, want a RemoteError", err)
	}
	if err := await(t, responded, "Respond returns"); err == nil {
		t.Error("an answer that is nil without an error: Respond gave none")
	}

	rig.serve(provider, func(_ context.Context, r *socket.Request) (io.Reader, error) {
		body, err := io.ReadAll(r.Reader)
		if len(body) > 0 || err != nil {
			return strings.NewReader("not empty"), err
		}
		return nil, nil //nolint:nilnil // that is the misuse
	})
	for name, send := range map[string]func() (io.Reader, error){
		"Send":        func() (io.Reader, error) { return consumer.Send(nil, time.Second) },
		"SendContext": func() (io.Reader, error) { return consumer.SendContext(t.Context(), nil) },
	} {
		returnsWithin(t, 5*time.Second, name, func() {
			if _, err := send(); err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s without a reader, to a handler without an answer: got %v, want an error at once", name, err)
			}
		})
	}
	if got, err := exchange(consumer, "x", 5*time.Second); got != "not empty" || err != nil {
		t.Errorf("got %q, %v: the provider does not go on", got, err)
	}
	rig.atRest()
}

func TestBrokerRespondOutOfTurn(t *testing.T) {
	rig := newBrokerRig(t)
	provider, other, consumer := rig.provider(), rig.providerOn(uuid.New()), rig.consumer()
	hello := func() io.Reader { return strings.NewReader("hello") }
	if err := provider.Respond(uuid.New(), hello(), nil); err == nil {
		t.Error("Respond to an unknown id: no error")
	}
	if err := provider.Respond(uuid.Nil, nil, nil); err == nil {
		t.Error("Respond to the nil id: no error")
	}

	responds := make(chan []error, 1)
	go func() {
		id, _, ok := provider.Receive()
		if !ok {
			return
		}
		responds <- []error{
			other.Respond(id, strings.NewReader("forged"), nil),
			provider.Respond(id, hello(), nil),
			provider.Respond(id, strings.NewReader("second"), nil),
			provider.Respond(id, nil, errors.New("third")),
		}
	}()
	if got, err := exchange(consumer, "question", 5*time.Second); got != "hello" || err != nil {
		t.Errorf("got %q, %v, want the first answer", got, err)
	}
	for i, err := range await(t, responds, "all have responded") {
		if (err == nil) != (i == 1) {
			t.Errorf("Respond number %d: got %v, want an error from all but number 1", i, err)
		}
	}

	// The consumer has gone before the answer.
	leaving := rig.consumer()
	sent := make(chan error, 1)
	go func() {
		_, err := leaving.Send(strings.NewReader("question"), 5*time.Second)
		sent <- err
	}()
	req, err := provider.ReceiveContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = leaving.Close()
	if err := await(t, sent, "Send ends with Close"); !errors.Is(err, socket.ErrClosed) {
		t.Errorf("Send on a consumer that is closed: got %v, want ErrClosed", err)
	}
	await(t, req.Context.Done(), "the provider's context ends")
	returnsWithin(t, time.Second, "Respond to nobody", func() { _ = provider.Respond(req.ID, hello(), nil) })
	rig.atRest()
}

func TestBrokerHugeErrorMessage(t *testing.T) {
	message := make([]byte, 300<<10)
	if _, err := io.ReadFull(stamp(7, int64(len(message))), message); err != nil { // neither text nor UTF-8
		t.Fatal(err)
	}
	rig := newBrokerRig(t)
	for name, test := range map[string]string{"huge": string(message), "empty": "", "one NUL": "\x00"} {
		t.Run(name, func(t *testing.T) {
			channel := uuid.New()
			rig.serve(rig.providerOn(channel), func(context.Context, *socket.Request) (io.Reader, error) {
				return nil, errors.New(test)
			})
			_, err := exchange(rig.consumerOn(channel), "question", 5*time.Second)
			remote, ok := errors.AsType[*socket.RemoteError](err)
			if !ok {
				t.Fatalf("got %v, want a RemoteError", err)
			}
			if remote.Message != test {
				t.Errorf("got a message of %d bytes that differs from the %d sent", len(remote.Message), len(test))
			}
			if socket.Retryable(err) {
				t.Error("what a provider says is not retryable")
			}
		})
	}
	rig.atRest()
}

func TestBrokerNilContexts(t *testing.T) {
	var none context.Context
	rig := newBrokerRig(t)
	provider, consumer := rig.provider(), rig.consumer()
	returnsWithin(t, 10*time.Second, "a call with a nil context", func() {
		received := make(chan struct{})
		go func() {
			defer close(received)
			if req, err := provider.ReceiveContext(none); err == nil {
				_ = provider.Respond(req.ID, req.Reader, nil)
			}
		}()
		if resp, err := consumer.SendContext(none, strings.NewReader("hello")); err == nil {
			if got, err := io.ReadAll(resp); string(got) != "hello" || err != nil {
				t.Errorf("SendContext: got %q, %v", got, err)
			}
		}
		go func() { _ = provider.Serve(none, echoHandler) }()
		_ = rig.server.Shutdown(none)
	})
}

func TestBrokerNilHandler(t *testing.T) {
	rig := newBrokerRig(t)
	provider, consumer := rig.provider(), rig.consumer()
	ended := make(chan error, 1)
	go func() { ended <- provider.Serve(t.Context(), nil) }()
	if _, err := exchange(consumer, "hello", 300*time.Millisecond); err == nil {
		t.Error("no error from a provider without a handler")
	}
	_ = provider.Close()
	if err := await(t, ended, "Serve ends"); err == nil {
		t.Error("Serve without a handler gave no error")
	}
}

func TestBrokerHandlerThatPanics(t *testing.T) {
	rig := newBrokerRig(t)
	rig.answering(func(_ context.Context, r *socket.Request) (io.Reader, error) {
		body, err := io.ReadAll(r.Reader)
		switch string(body) {
		case "panic":
			panic("the handler of a user panics")
		case "panic with nil":
			panic(nil)
		}
		return bytes.NewReader(body), err
	})
	consumer := rig.consumer()
	for _, body := range []string{"panic", "panic with nil", "panic"} {
		if got, err := exchange(consumer, body, 5*time.Second); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %q, %v, want an error at once", body, got, err)
		}
		echoes(t, consumer, "and serves on")
	}
	rig.atRest()
}

func TestBrokerUselessOptions(t *testing.T) {
	server := socket.NewServer("0", nil, quietBroker(), socket.WithTLS(nil), socket.WithToken(""), socket.WithAddress(""),
		socket.WithAuthorizer(nil), socket.WithLimits(socket.Limits{}), socket.WithLogger(nil))
	if err := server.Start(); err != nil {
		t.Fatalf("Start: %v", err)
	}
	defer server.Stop()
	if host, port, err := net.SplitHostPort(server.Addr().String()); err != nil || host != "127.0.0.1" || port != server.Port() {
		t.Errorf("the address is %v, want 127.0.0.1 and port %s", server.Addr(), server.Port())
	}
	for _, channel := range []uuid.UUID{uuid.Nil, uuid.Max, uuid.New()} {
		options := []socket.ClientOption{nil, socket.WithTLS(nil), socket.WithToken(""), socket.WithDial(nil), socket.WithLogger(nil)}
		provider, err := socket.NewProvider(server.Addr().String(), channel, options...)
		if err != nil && channel == uuid.Nil {
			continue // it may be refused
		} else if err != nil {
			t.Fatalf("NewProvider on %v: %v", channel, err)
		}
		defer provider.Close()
		go func() { _ = provider.Serve(t.Context(), echoHandler) }()
		consumer, err := socket.NewConsumer(server.Addr().String(), channel, options...)
		if err != nil {
			t.Fatalf("NewConsumer on %v: %v", channel, err)
		}
		defer consumer.Close()
		resp, err := consumer.SendContext(t.Context(), strings.NewReader("hello"), socket.WithMetadata(nil))
		if err != nil {
			t.Fatalf("SendContext on %v: %v", channel, err)
		}
		if got, err := io.ReadAll(resp); string(got) != "hello" || err != nil {
			t.Errorf("on %v: got %q, %v", channel, got, err)
		}
	}
}
