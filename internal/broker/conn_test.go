package broker

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// rig is a relay with one consumer and one provider, whose clients are frames that a test makes.
type rig struct {
	t                  *testing.T
	relay              *Relay
	consumer, provider *Conn
}

func newRig(t *testing.T) *rig {
	relay := NewRelay(Limits{Streams: 100, Window: 1 << 20, Memory: 1 << 30}, 1, nil)
	r := &rig{t: t, relay: relay, consumer: relay.NewConn(frame.Consumer, uuid.UUID{1}), provider: relay.NewConn(frame.Provider, uuid.UUID{1})}
	for _, c := range []*Conn{r.consumer, r.provider} {
		c.Out.Flush = func() {}
		relay.Connect(c)
	}
	return r
}

// send lets c receive a frame.
func (r *rig) send(c *Conn, t frame.Type, flags frame.Flags, stream uint64, payload []byte) error {
	r.t.Helper()
	raw := append(frame.Header{Length: uint32(len(payload)), Type: t, Flags: flags, Stream: stream}.Append(nil), payload...)
	var in Inbox
	defer in.Close()
	var f Frame
	for len(raw) > 0 {
		n := copy(in.Space(), raw)
		raw = raw[n:]
		in.Filled(n)
	}
	if ok, err := in.Next(&f); !ok || err != nil {
		r.t.Fatalf("%v: %v, %v", t, ok, err)
	}
	var b Batch
	return c.Receive(&f, 0, &b)
}

func openPayload(metadata string, data int) []byte {
	p := frame.OpenPayload{RequestID: uuid.UUID{7}, Timeout: time.Second, Metadata: []byte(metadata)}
	return append(p.AppendPrefix(nil), make([]byte, data)...)
}

// sent returns what the outbox has to send, frame by frame.
func sent(t *testing.T, out *Outbox) (frames []string) {
	t.Helper()
	var p Parcel
	var all []byte
	if ok, _ := out.Begin(); ok {
		for out.Take(&p) {
			for b := p.Next(0); b != nil; b = p.Next(len(b)) {
				all = append(all, b...)
			}
		}
	}
	for len(all) > 0 {
		h, err := frame.ParseHeader(all)
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint(h.Type, " ", h.Stream)
		if payload := all[frame.HeaderSize:][:h.Length]; h.Type == frame.Reset || h.Type == frame.GoAway {
			code, _, _ := frame.ParseEnd(payload)
			name += " " + code.String()
		}
		frames = append(frames, name)
		all = all[frame.HeaderSize+int(h.Length):]
	}
	return frames
}

func expect(t *testing.T, out *Outbox, want ...string) {
	t.Helper()
	if got := sent(t, out); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestViolationsCostTheirSender(t *testing.T) {
	for name, violate := range map[string]func(r *rig) error{
		"bad metadata":       func(r *rig) error { return r.send(r.consumer, frame.Open, 0, 1, openPayload("\x00", 0)) },
		"OPEN of a provider": func(r *rig) error { return r.send(r.provider, frame.Open, 0, 1, openPayload("", 0)) },
		"an old id": func(r *rig) error {
			if err := r.send(r.consumer, frame.Open, frame.FlagEnd, 5, openPayload("", 0)); err != nil {
				r.t.Error(err)
			}
			return r.send(r.consumer, frame.Open, frame.FlagEnd, 5, openPayload("", 0))
		},
		"an id that was not opened": func(r *rig) error { return r.send(r.consumer, frame.Data, 0, 9, []byte("x")) },
		"credit of such an id":      func(r *rig) error { return r.send(r.provider, frame.Credit, 0, 9, frame.AppendCredit(nil, 1)) },
		"an empty GOAWAY":           func(r *rig) error { return r.send(r.consumer, frame.GoAway, 0, 0, nil) },
		"a short PING":              func(r *rig) error { return r.send(r.consumer, frame.Ping, 0, 0, []byte("x")) },
		"a second HELLO":            func(r *rig) error { return r.send(r.consumer, frame.Hello, 0, 0, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if err := violate(r); !errors.Is(err, ErrProtocol) && !errors.Is(err, frame.ErrInvalid) {
				t.Errorf("got %v, want a violation", err)
			}
		})
	}
}

func TestAnswersOutOfPlace(t *testing.T) {
	for name, step := range map[string]struct {
		t     frame.Type
		flags frame.Flags
		from  func(*rig) *Conn
		data  int
	}{
		"DATA before HEAD":   {frame.Data, 0, func(r *rig) *Conn { return r.provider }, 1},
		"too much data":      {frame.Head, 0, func(r *rig) *Conn { return r.provider }, frame.MaxPayload},
		"HEAD of a consumer": {frame.Head, 0, func(r *rig) *Conn { return r.consumer }, 0},
		"more of a request":  {frame.Data, 0, func(r *rig) *Conn { return r.consumer }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if err := r.send(r.consumer, frame.Open, frame.FlagEnd, 1, openPayload("", 0)); err != nil {
				t.Fatal(err)
			}
			if name == "too much data" { // some of the credit is used before
				if err := r.send(r.provider, frame.Head, 0, 1, []byte("x")); err != nil {
					t.Fatal(err)
				}
				step.t = frame.Data
			}
			if err := r.send(step.from(r), step.t, step.flags, 1, make([]byte, step.data)); !errors.Is(err, ErrProtocol) {
				t.Errorf("got %v, want a violation", err)
			}
		})
	}
}

func TestGoodbyeFollowsTheLastRequest(t *testing.T) {
	r := newRig(t)
	for id := range uint64(3) { // too much to be sent at once
		if err := r.send(r.consumer, frame.Open, 0, id+1, openPayload("", 40<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.send(r.provider, frame.GoAway, 0, 0, frame.AppendEnd(nil, frame.Draining, "")); err != nil {
		t.Fatal(err)
	}
	if err := r.send(r.consumer, frame.Open, 0, 4, openPayload("", 0)); err != nil {
		t.Fatal(err)
	}
	expect(t, &r.provider.Out, "OPEN 1", "OPEN 2", "OPEN 3", "GOAWAY 0 DRAINING")
	expect(t, &r.consumer.Out, "RESET 4 NO_PROVIDER")
}

func TestWhatAProviderHandsBack(t *testing.T) {
	for _, test := range []struct {
		code     frame.Code
		answered bool
		want     string
	}{
		{frame.Draining, false, "RESET 1 DRAINING"},
		{frame.Rejected, false, "RESET 1 REJECTED"},
		{frame.Deadline, true, "RESET 1 DEADLINE"},
		{frame.Draining, true, "RESET 1 PROVIDER_LOST"},
		{frame.Rejected, true, "RESET 1 PROVIDER_LOST"},
		{frame.Unsent, false, "RESET 1 PROVIDER_LOST"},
	} {
		t.Run(fmt.Sprint(test.code, test.answered), func(t *testing.T) {
			r := newRig(t)
			if err := r.send(r.consumer, frame.Open, frame.FlagEnd, 1, openPayload("", 0)); err != nil {
				t.Fatal(err)
			}
			expect(t, &r.provider.Out, "OPEN 1")
			if test.answered {
				if err := r.send(r.provider, frame.Head, 0, 1, nil); err != nil {
					t.Fatal(err)
				}
				expect(t, &r.consumer.Out, "HEAD 1")
			}
			if err := r.send(r.provider, frame.Reset, 0, 1, frame.AppendEnd(nil, test.code, "")); err != nil {
				t.Fatal(err)
			}
			expect(t, &r.consumer.Out, test.want)
		})
	}
}

// A provider that is lost before OPEN was sent to it has done nothing with the request.
func TestUnsent(t *testing.T) {
	r := newRig(t)
	for id := range uint64(10) {
		if err := r.send(r.consumer, frame.Open, 0, id+1, openPayload("", 40<<10)); err != nil {
			t.Fatal(err)
		}
	}
	var p Parcel
	if ok, _ := r.provider.Out.Begin(); !ok || !r.provider.Out.Take(&p) {
		t.Fatal("there is nothing to send")
	}
	r.provider.Close()
	got := map[string]int{}
	for _, f := range sent(t, &r.consumer.Out) {
		got[f[strings.LastIndex(f, " ")+1:]]++
	}
	if got["UNSENT"] == 0 || got["PROVIDER_LOST"] == 0 || got["UNSENT"]+got["PROVIDER_LOST"] != 10 {
		t.Errorf("got %v, want some of both", got)
	}
}

// Many streams whose data was dropped stand before one that has some.
func TestDroppedStreamsDoNotHoldUpOthers(t *testing.T) {
	r := newRig(t)
	const many = 3 * maxTurns
	for id := range uint64(many) {
		if err := r.send(r.consumer, frame.Open, 0, id+1, openPayload("", 60<<10)); err != nil {
			t.Fatal(err)
		}
	}
	for id := range uint64(many - 1) {
		if err := r.send(r.consumer, frame.Reset, 0, id+1, frame.AppendEnd(nil, frame.Cancelled, "")); err != nil {
			t.Fatal(err)
		}
	}
	frames := sent(t, &r.provider.Out)
	if last := fmt.Sprint("OPEN ", many); len(frames) == 0 || frames[len(frames)-1] != last {
		t.Errorf("got %q, want %q at the end", frames, last)
	}
}

// Pings and credit that nobody takes do not add up.
func TestControlIsMerged(t *testing.T) {
	r := newRig(t)
	if err := r.send(r.consumer, frame.Open, 0, 1, openPayload("", 0)); err != nil {
		t.Fatal(err)
	}
	expect(t, &r.provider.Out, "OPEN 1")
	for range 1000 {
		for _, err := range []error{
			r.send(r.provider, frame.Ping, 0, 0, make([]byte, frame.PingSize)),
			r.send(r.consumer, frame.Credit, 0, 1, frame.AppendCredit(nil, 100)),
			r.send(r.provider, frame.GoAway, 0, 0, frame.AppendEnd(nil, frame.Draining, "")),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	expect(t, &r.provider.Out, "PING 0", "GOAWAY 0 DRAINING", "CREDIT 1")
}

func TestReadingAfterTheEnd(t *testing.T) {
	e := NewEndpoint(EndpointConfig{Role: frame.Consumer, Welcome: frame.WelcomePayload{Streams: 1, Window: frame.InitialWindow}, Flush: func() {}})
	var s Stream
	if err := e.Open(&s, Request{Timeout: time.Second, Whole: true}, 0); err != nil {
		t.Fatal(err)
	}
	if err := e.Open(new(Stream), Request{Timeout: time.Second}, 0); err == nil {
		t.Error("a second stream was opened where one is allowed")
	}
	var b Batch
	f := Frame{Header: frame.Header{Type: frame.Head, Flags: frame.FlagEnd, Stream: 1}, Payload: []byte("all")}
	if err := e.Receive(&f, 0, &b); err != nil {
		t.Fatal(err)
	}
	e.Close(ErrLost) // too late to matter
	if all, err := io.ReadAll(&s); string(all) != "all" || err != nil {
		t.Errorf("got %q, %v", all, err)
	}
}
