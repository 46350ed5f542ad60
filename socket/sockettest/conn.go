package sockettest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	readLimit   = 16 << 20         // bytes of one message
	controlWait = 10 * time.Second // for a ping's answer or a close frame to be written
)

// conn is one accepted connection. The handler's goroutine reads it, one more writes it.
type conn struct {
	id   int
	s    *Server
	ws   *websocket.Conn
	gate *gateConn
	wake chan struct{} // capacity 1: the queue has grown

	mu    sync.Mutex
	queue []action
}

// action is one step of the writer: a text frame, or the end of the connection.
type action struct {
	frame     []byte
	close     bool // send a close frame with code and reason
	code      int
	reason    string
	drop      bool
	withReset bool
}

// serveConn completes the handshake and serves the connection until it ends. The connection counts as
// open before its client can know that it is: who has dialled finds it in Conns and can drop it.
func (s *Server) serveConn(w http.ResponseWriter, r *http.Request, gate *gateConn, epoch int) {
	c := &conn{s: s, gate: gate, wake: make(chan struct{}, 1)}
	if !s.register(c, epoch) {
		_ = gate.Close()
		return
	}
	defer s.unregister(c)
	ws, err := s.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // the upgrader has answered
	}
	defer func() { _ = gate.Close() }()
	c.ws = ws
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		c.writeLoop()
	}()
	c.readLoop()
}

// register gives c its number, unless the server was stopped during the handshake.
func (s *Server) register(c *conn, epoch int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch != s.epoch {
		return false
	}
	s.nextConn++
	c.id = s.nextConn
	s.conns[c.id] = c
	s.rec.conns++
	s.event()
	return true
}

func (s *Server) unregister(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c.id)
	s.rec.conns--
	s.event()
}

func (c *conn) readLoop() {
	c.ws.SetReadLimit(readLimit)
	c.ws.SetPingHandler(c.ping)
	c.ws.SetCloseHandler(c.closeFrame)
	for {
		if !c.gate.wait() { // what gorilla has buffered is held back too
			return
		}
		kind, data, err := c.ws.ReadMessage()
		if err != nil {
			return
		}
		m, err := decode(kind, data)
		m.Conn, m.Received = c.id, time.Now()
		c.s.receive(c, m, err)
	}
}

// decode reads the envelope of a message. The error says what is wrong with it by the protocol's rules.
func decode(kind int, data []byte) (Message, error) {
	var envelope struct {
		Type    string          `json:"type"`
		ID      string          `json:"id"`
		Payload json.RawMessage `json:"payload"`
	}
	err := json.Unmarshal(data, &envelope)
	m := Message{Type: envelope.Type, ID: envelope.ID, Payload: envelope.Payload}
	switch {
	case kind != websocket.TextMessage:
		err = errors.New("not a text frame")
	case err != nil:
		err = fmt.Errorf("not a message: %w", err)
	case m.Type == "":
		err = errors.New("no type")
	default:
		err = m.check()
	}
	return m, err
}

// ping records a ping and answers it.
func (c *conn) ping(data string) error {
	c.s.mu.Lock()
	c.s.rec.pings++
	deaf := c.s.deafPings
	c.s.event()
	c.s.mu.Unlock()
	if deaf {
		return nil
	}
	// A pong that cannot be written is no reason to stop reading: the reader finds out by itself.
	_ = c.ws.WriteControl(websocket.PongMessage, []byte(data), time.Now().Add(controlWait))
	return nil
}

// closeFrame records a close frame of the client and echoes it, unless the server sent the first one.
func (c *conn) closeFrame(code int, text string) error {
	c.s.mu.Lock()
	c.s.rec.closeFrames = append(c.s.rec.closeFrames, CloseFrame{Conn: c.id, Code: code, Text: text})
	c.s.event()
	c.s.mu.Unlock()
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), time.Now().Add(controlWait))
	return nil
}

// enqueue never blocks: the queue has no bound, so that a client that does not read stops nothing here.
func (c *conn) enqueue(a action) {
	c.mu.Lock()
	c.queue = append(c.queue, a)
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *conn) writeLoop() {
	for {
		select {
		case <-c.wake:
		case <-c.gate.done:
			return
		}
		c.mu.Lock()
		batch := c.queue
		c.queue = nil
		c.mu.Unlock()
		for _, a := range batch {
			if !c.do(a) {
				return
			}
		}
	}
}

// do carries out one action; false ends the writer.
func (c *conn) do(a action) bool {
	switch {
	case a.drop && a.withReset:
		c.gate.reset()
		return false
	case a.drop:
		_ = c.gate.Close()
		return false
	case a.close:
		// The reader goes on until the client's own close frame or its end.
		err := c.ws.WriteControl(websocket.CloseMessage,
			websocket.FormatCloseMessage(a.code, a.reason), time.Now().Add(controlWait))
		return err == nil
	default:
		return c.ws.WriteMessage(websocket.TextMessage, a.frame) == nil
	}
}
