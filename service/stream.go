package service

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxReaders bounds the streams of events at the same time.
	maxReaders = 64
	// recentEvents is how many events that are past begin a stream.
	recentEvents = 200
	// streamComment is how often a stream without events says that it is there.
	streamComment = 15 * time.Second
)

// eventView is an event as it is streamed.
type eventView struct {
	N            uint64  `json:"n"`
	At           int64   `json:"at"`
	Type         string  `json:"type"`
	Application  string  `json:"application"`
	Alias        string  `json:"alias"`
	Amount       float64 `json:"amount"`
	Policy       string  `json:"policy"`
	AllocationID string  `json:"allocationId"`
	Status       int     `json:"status"`
	Reason       string  `json:"reason"`
	RequestID    string  `json:"requestId,omitempty"`
}

func (e *event) view() eventView {
	reason := e.why
	if e.flags != 0 {
		reason = strings.Join(e.flags.Names(), ", ")
	}
	return eventView{
		N: e.n, At: e.at, Type: eventNames[e.kind], Application: e.application, Alias: e.alias, Amount: e.amount.Units(),
		Policy: e.policy, AllocationID: e.allocation, Status: e.status, Reason: reason, RequestID: e.request,
	}
}

// eventFilter says which events a reader wants. The zero value wants all.
type eventFilter struct {
	application, kind, contains, request string
}

func (f *eventFilter) wants(e *event) bool {
	return (f.application == "" || f.application == e.application) && (f.kind == "" || f.kind == eventNames[e.kind]) &&
		strings.Contains(e.alias, f.contains) && (f.request == "" || f.request == e.request)
}

// serveEvents streams events: recent ones, then those that come, until the reader goes or the service does. After
// Last-Event-ID it goes on where that stream ended.
func (s *Service) serveEvents(w http.ResponseWriter, r *http.Request) {
	wake := s.events.follow(maxReaders)
	if wake == nil {
		w.Header().Set("Retry-After", "10")
		writeError(w, http.StatusServiceUnavailable, "unavailable", "as many streams of events are open as may be")
		return
	}
	defer s.events.unfollow(wake)
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Time{}); err != nil { // there is nothing to read, for as long as it takes
		s.serverError(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // a proxy would keep it back
	stream := &eventStream{
		log: s.events, w: w, rc: rc,
		filter: eventFilter{application: r.FormValue("application"), kind: r.FormValue("type"), contains: r.FormValue("q"), request: r.FormValue("request")},
	}
	if !stream.begin(r.Header.Get("Last-Event-ID")) {
		return
	}
	stream.run(r.Context(), s.ended, wake)
}

// eventStream writes events to one reader.
type eventStream struct {
	log    *eventLog
	w      http.ResponseWriter
	rc     *http.ResponseController
	filter eventFilter
	next   uint64
	events []event
	buf    bytes.Buffer
}

// begin writes what is past. It returns false where the reader has gone.
func (st *eventStream) begin(lastID string) bool {
	st.buf.WriteString(": events\n\n")
	events, next, _ := st.log.read(nil, 1)
	if last, err := strconv.ParseUint(lastID, 10, 64); err == nil && last < next {
		st.next = last + 1
		return st.catchUp()
	}
	wanted := events[:0]
	for i := range events {
		if st.filter.wants(&events[i]) {
			wanted = append(wanted, events[i])
		}
	}
	for _, e := range wanted[max(0, len(wanted)-recentEvents):] {
		st.write(&e)
	}
	st.next = next
	return st.flush()
}

// run writes what comes.
func (st *eventStream) run(reader, service context.Context, wake <-chan struct{}) {
	idle := time.NewTicker(streamComment)
	defer idle.Stop()
	for {
		select {
		case <-reader.Done():
			return
		case <-service.Done():
			return
		case <-wake:
			if !st.catchUp() {
				return
			}
		case <-idle.C:
			st.buf.WriteString(": still here\n\n")
			if !st.flush() {
				return
			}
		}
	}
}

// catchUp writes what has come since.
func (st *eventStream) catchUp() bool {
	var missed uint64
	st.events, st.next, missed = st.log.read(st.events[:0], st.next)
	if missed > 0 {
		fmt.Fprintf(&st.buf, "event: gap\ndata: {\"missed\":%d}\n\n", missed)
	}
	for i := range st.events {
		if st.filter.wants(&st.events[i]) {
			st.write(&st.events[i])
		}
	}
	return st.flush()
}

func (st *eventStream) write(e *event) {
	data, err := json.Marshal(e.view())
	if err != nil {
		return // numbers and texts: it does not happen
	}
	fmt.Fprintf(&st.buf, "id: %d\nevent: usage\ndata: %s\n\n", e.n, data)
}

// flush sends what is written. A reader that takes nothing for writeWait is let go.
func (st *eventStream) flush() bool {
	if st.buf.Len() == 0 {
		return true
	}
	err := st.rc.SetWriteDeadline(time.Now().Add(writeWait))
	if err == nil {
		_, err = st.w.Write(st.buf.Bytes())
	}
	if err == nil {
		err = st.rc.Flush()
	}
	st.buf.Reset()
	return err == nil
}
