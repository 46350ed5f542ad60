package brokerload

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var l Latencies
	for i := range 1000 {
		l.Add(time.Duration(i+1) * time.Microsecond)
	}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{0.5, 500 * time.Microsecond}, {0.99, 990 * time.Microsecond}, {1, time.Millisecond}} {
		got := l.Quantile(tt.q)
		if diff := (got - tt.want).Abs(); diff > tt.want/100 {
			t.Errorf("quantile %v = %v, want %v", tt.q, got, tt.want)
		}
	}
	if got := l.Count(); got != 1000 {
		t.Errorf("count = %d, want 1000", got)
	}
}

func TestBucketsHoldTheirMiddle(t *testing.T) {
	for i := range buckets {
		if got := bucket(middle(i)); got != i {
			t.Fatalf("bucket(middle(%d)) = %d", i, got)
		}
	}
	if got := bucket(time.Hour); got != buckets-1 {
		t.Errorf("an hour is in bucket %d of %d", got, buckets)
	}
}

// echo answers what spoil makes of the payload.
type echo struct{ spoil func(answer []byte) error }

func (e echo) Call(payload, answer []byte) error {
	copy(answer, payload)
	return e.spoil(answer)
}

func (e echo) Upload(size int64) (int64, error) { return size, nil }

func TestAWrongAnswerFailsTheLap(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name  string
		spoil func(answer []byte) error
		ok    bool
	}{
		{"right", func([]byte) error { return nil }, true},
		{"first byte", func(b []byte) error { b[0]++; return nil }, false},
		{"last byte", func(b []byte) error { b[len(b)-1]++; return nil }, false},
		{"error", func([]byte) error { return broken }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := Run(Calls{Conns: []Caller{echo{tt.spoil}}, InFlight: 2}, 64, time.Millisecond)
			if (err == nil) != tt.ok || (r.Requests > 0) != tt.ok {
				t.Errorf("Run = %+v, %v", r, err)
			}
		})
	}
}

func TestWindowExpectsAnswersInOrder(t *testing.T) {
	w := newWorker(3, 64)
	f := w.Window(2)
	now := time.Now()
	first := bytes.Clone(f.Next(now))
	second := bytes.Clone(f.Next(now))
	if f.Room() != 0 || f.InFlight() != 2 {
		t.Errorf("room %d, in flight %d, want 0 and 2", f.Room(), f.InFlight())
	}
	if err := f.Check(first, now); err != nil {
		t.Error(err)
	}
	if err := f.Check(first, now); err == nil {
		t.Error("the first answer was taken for the second")
	}
	if bytes.Equal(first, second) {
		t.Error("two payloads are alike")
	}
}

func TestSource(t *testing.T) {
	const size = 3*Block + 5
	n, err := Drain(Source(size), make([]byte, 1000))
	if n != size || err != nil {
		t.Errorf("Drain = %d, %v; want %d", n, err, size)
	}
	if b, _ := io.ReadAll(Source(10)); bytes.Equal(b, make([]byte, 10)) {
		t.Error("the source is all zeros")
	}
}
