package service

import (
	"sync"
	"time"
)

// eventRing is how many of the last events are kept.
const eventRing = 1000

// eventKind is what has happened. The first rateKinds of them are counted per second.
type eventKind uint8

const (
	eventReserved eventKind = iota
	eventDenied
	eventSettled
	eventVoided
	eventRefused
)

var eventNames = [...]string{"reserved", "denied", "settled", "voided", "refused"}

// event is something that an agent has done. It holds what is at hand; how it looks is made up when somebody reads it.
type event struct {
	n                                           uint64
	at                                          int64 // Unix ms
	kind                                        eventKind
	flags                                       Flag
	application, alias, policy, allocation, why string
	request                                     string // its id, of what is settled or voided
	amount                                      Micros
	status                                      int
}

// eventLog keeps the last events, in memory. Readers follow it at their own pace and keep nobody waiting: who falls back by more
// than the ring holds misses the rest, and is told how many. It is safe for concurrent use.
type eventLog struct {
	mu      sync.Mutex
	ring    [eventRing]event
	next    uint64 // the number of the next event; the first is 1
	readers map[chan struct{}]struct{}
}

func newEventLog() *eventLog {
	return &eventLog{next: 1, readers: map[chan struct{}]struct{}{}}
}

// add adds e, whose number it makes.
func (l *eventLog) add(e *event) {
	l.mu.Lock()
	e.n = l.next
	l.ring[e.n%eventRing] = *e
	l.next++
	for wake := range l.readers {
		select {
		case wake <- struct{}{}:
		default: // it has been told already
		}
	}
	l.mu.Unlock()
}

// follow returns a channel that tells of new events until unfollow; nil where there are max readers.
func (l *eventLog) follow(most int) chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.readers) >= most {
		return nil
	}
	wake := make(chan struct{}, 1)
	l.readers[wake] = struct{}{}
	return wake
}

func (l *eventLog) unfollow(wake chan struct{}) {
	l.mu.Lock()
	delete(l.readers, wake)
	l.mu.Unlock()
}

// read appends the events from number from on, and returns which number comes next and how many are lost.
func (l *eventLog) read(events []event, from uint64) (found []event, next, missed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := uint64(1)
	if l.next > eventRing {
		oldest = l.next - eventRing
	}
	if from < oldest {
		missed, from = oldest-from, oldest
	}
	for n := from; n < l.next; n++ {
		events = append(events, l.ring[n%eventRing])
	}
	return events, max(from, l.next), missed
}

// decided, settled and refused note what an agent's message has come to; repeats were noted before.
func (c *conn) decided(r *request, amount Micros, d *Decision) {
	if d.Repeated {
		return
	}
	e := event{
		at: time.Now().UnixMilli(), kind: eventReserved, application: c.name, alias: r.Payload.Alias, policy: d.Policy,
		allocation: d.ID, amount: amount, status: r.Payload.Metadata.Status,
	}
	if !d.Allowed {
		e.kind, e.why, e.allocation = eventDenied, codeRateLimited, r.Payload.AllocationID
	}
	c.note(&e)
}

func (c *conn) settled(r *request, receipt *Receipt) {
	if receipt.Repeated {
		return
	}
	e := event{
		at: time.Now().UnixMilli(), kind: eventSettled, application: c.name, alias: r.Payload.Alias, allocation: receipt.ID,
		amount: receipt.Amount, status: r.Payload.Metadata.Status, flags: receipt.Flags, request: r.Payload.Metadata.RequestID,
	}
	if receipt.State == StateVoided {
		e.kind = eventVoided
	}
	c.note(&e)
}

func (c *conn) refused(r *request, why *refusal) {
	p := &r.Payload
	e := event{
		at: time.Now().UnixMilli(), kind: eventRefused, application: c.name, alias: p.Alias[:min(len(p.Alias), maxAlias)],
		allocation: p.AllocationID[:min(len(p.AllocationID), maxID)], why: why.code, status: p.Metadata.Status,
	}
	if p.Amount != nil {
		e.amount, _ = ToMicros(*p.Amount) // what is no amount is 0
	}
	c.note(&e)
}

func (c *conn) note(e *event) {
	c.service.rates.add(e.at/1000, e.kind)
	c.service.events.add(e)
}
