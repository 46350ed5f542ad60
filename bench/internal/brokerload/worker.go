package brokerload

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"
)

// stampSize is the size of what is unique in a payload; it stands at both ends.
const stampSize = 8

// A Worker makes payloads, no two of a lap alike, and checks and times their answers. It belongs to one goroutine.
type Worker struct {
	id        uint64
	payload   []byte
	answer    []byte
	sent      uint64
	latencies Latencies
	err       error
}

func newWorker(id, size int) *Worker {
	w := &Worker{id: uint64(id), payload: make([]byte, size), answer: make([]byte, size, size+1)}
	for i := range w.payload {
		w.payload[i] = byte(i)
	}
	return w
}

// Next is the payload of the next request, valid until the next call.
func (w *Worker) Next() []byte {
	w.sent++
	stamp(w.payload, w.id, w.sent)
	return w.payload
}

// Check compares an answer with the payload that was sent, and counts it with the time that it took.
func (w *Worker) Check(payload, answer []byte, took time.Duration) error {
	if !bytes.Equal(payload, answer) {
		return fmt.Errorf("sent %x, the answer is %x", payload, answer)
	}
	w.latencies.Add(took)
	return nil
}

func (w *Worker) call(c Caller) error {
	payload := w.Next()
	start := time.Now()
	if err := c.Call(payload, w.answer); err != nil {
		return err
	}
	took := time.Since(start)
	err := w.Check(payload, w.answer, took)
	clear(w.answer[:stampSize]) // so that the next call can't pass without filling it
	return err
}

func stamp(payload []byte, id, seq uint64) {
	v := id<<48 | seq
	binary.LittleEndian.PutUint64(payload, v)
	binary.LittleEndian.PutUint64(payload[len(payload)-stampSize:], v)
}

// A Window is the requests of a worker whose answers come in the order in which they were sent.
type Window struct {
	w        *Worker
	starts   []time.Time // of the requests in flight, by their number modulo the size
	expected []byte
	answered uint64
}

// Window makes room for size requests in flight.
func (w *Worker) Window(size int) *Window {
	return &Window{w: w, starts: make([]time.Time, size), expected: bytes.Clone(w.payload), answered: w.sent}
}

// InFlight is how many requests have no answer.
func (f *Window) InFlight() int { return int(f.w.sent - f.answered) }

// Room is how many more may be sent.
func (f *Window) Room() int { return len(f.starts) - f.InFlight() }

// Next is the payload of the next request, sent at now. There must be room.
func (f *Window) Next(now time.Time) []byte {
	payload := f.w.Next()
	f.starts[f.w.sent%uint64(len(f.starts))] = now
	return payload
}

// Check takes the answer to the oldest request in flight.
func (f *Window) Check(answer []byte, now time.Time) error {
	f.answered++
	stamp(f.expected, f.w.id, f.answered)
	return f.w.Check(f.expected, answer, now.Sub(f.starts[f.answered%uint64(len(f.starts))]))
}
