package sockettest

import (
	"encoding/json"
	"fmt"
	"maps"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// A Reply is what the server does with one message. The zero value does what the server does by default.
type Reply struct {
	kind    replyKind
	payload any
	code    string
	message string
	raw     []byte
	end     action
	style   ReplyStyle
	after   <-chan struct{}
}

type replyKind int

const (
	replyDefault replyKind = iota
	replyOK
	replyError
	replySilence
	replyRaw
	replyEnd
)

// ReplyStyle says how a reply names the message that it answers. The zero value leaves it to the server.
type ReplyStyle int

const (
	// ByReplyTo: "replyTo" alone.
	ByReplyTo ReplyStyle = iota + 1
	// ByID: "id" alone.
	ByID
	// ByBoth: "replyTo", beside an "id" that is the service's own and matches nothing.
	ByBoth
)

// Default does what the server does without a handler.
func Default() Reply { return Reply{} }

// OK answers with payload, which must marshal to JSON.
func OK(payload any) Reply { return Reply{kind: replyOK, payload: payload} }

// Deny refuses with the code rate_limit_exceeded. fields, which may be nil, is the reply's payload:
// limit, remaining, resetAt, windowSeconds, policy.
func Deny(message string, fields map[string]any) Reply {
	r := Error("rate_limit_exceeded", message)
	if fields != nil {
		r.payload = maps.Clone(fields)
	}
	return r
}

// Error refuses with any code.
func Error(code, message string) Reply { return Reply{kind: replyError, code: code, message: message} }

// Silence never answers.
func Silence() Reply { return Reply{kind: replySilence} }

// Raw sends frame as it is, as one text frame, also for a message without an id.
func Raw(frame []byte) Reply { return Reply{kind: replyRaw, raw: frame} }

// Drop closes the connection without a close frame, once the replies before it are written.
func Drop() Reply { return Reply{kind: replyEnd, end: action{drop: true}} }

// Reset is Drop with a TCP reset.
func Reset() Reply { return Reply{kind: replyEnd, end: action{drop: true, withReset: true}} }

// CloseWith sends a close frame. The connection ends when the client has echoed it.
func CloseWith(code int, reason string) Reply {
	return Reply{kind: replyEnd, end: action{close: true, code: code, reason: reason}}
}

// Styled returns r with its own way to name the message that it answers.
func (r Reply) Styled(style ReplyStyle) Reply {
	r.style = style
	return r
}

// After returns r held back until ready is closed. Messages that come meanwhile are served.
func (r Reply) After(ready <-chan struct{}) Reply {
	r.after = ready
	return r
}

// Handle calls fn for every message from now on and does what it returns; a nil fn restores the default.
// fn runs on the reading goroutine of the message's connection: while it blocks, that connection is not
// read. It is called concurrently for different connections, after the message was recorded.
//
// No reply is ever sent to a message without an id, but Raw.
func (s *Server) Handle(fn func(Message) Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = fn
}

// receive records m, then answers it. bad says what is wrong with m, if anything.
func (s *Server) receive(c *conn, m Message, bad error) {
	s.mu.Lock()
	m.Seq = s.rec.add(m, bad)
	handler := s.handler
	s.event()
	s.mu.Unlock()

	var r Reply
	if handler != nil {
		r = handler(m)
	}
	if r.kind == replyDefault {
		def := s.defaultReply(m)
		def.style, def.after = r.style, r.after
		r = def
	}
	if r.after == nil {
		s.answer(c, m, r)
		return
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		select {
		case <-r.after:
			s.answer(c, m, r)
		case <-c.gate.done:
		}
	}()
}

// answer queues r on the connection.
func (s *Server) answer(c *conn, m Message, r Reply) {
	switch r.kind {
	case replyRaw:
		c.enqueue(action{frame: r.raw})
	case replyEnd:
		c.enqueue(r.end)
	case replyOK, replyError:
		payload := marshal(r.payload)
		if m.Type == socket.TypeRequestForAllocation && r.kind == replyOK {
			s.noteReservation(m, payload)
		}
		if m.ID != "" {
			c.enqueue(action{frame: s.frame(m, r, payload)})
		}
	}
}

// frame builds the reply's JSON.
func (s *Server) frame(m Message, r Reply, payload json.RawMessage) []byte {
	out := struct {
		Type    string          `json:"type"`
		ID      string          `json:"id,omitempty"`
		ReplyTo string          `json:"replyTo,omitempty"`
		Payload json.RawMessage `json:"payload,omitempty"`
		Error   string          `json:"error,omitempty"`
		Message string          `json:"message,omitempty"`
	}{Type: m.Type, Payload: payload, Error: r.code, Message: r.message}
	if r.kind == replyError {
		out.Type = socket.TypeError
		if r.payload == nil {
			out.Payload = nil
		}
	}
	style := r.style
	if style == 0 {
		style = s.opts.style
	}
	switch style {
	case ByID:
		out.ID = m.ID
	case ByBoth:
		out.ID, out.ReplyTo = fmt.Sprintf("service-%d", m.Seq), m.ID
	default:
		out.ReplyTo = m.ID
	}
	return marshal(out)
}

// marshal panics on what JSON cannot say: that is a mistake in the test's script.
func marshal(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("sockettest: reply cannot be marshalled: %v", err))
	}
	return b
}
