package socket

import (
	"container/list"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// serverConn is a client's connection. One goroutine runs serve: handshake, then reading.
type serverConn struct {
	server    *Server
	raw       net.Conn      // below TLS
	handshake *list.Element // in Server.handshakes, guarded by Server.mu

	// Static after the handshake.
	conn net.Conn
	peer Peer
	node *broker.Conn
	link *link

	ended chan struct{} // closed when serve has nothing more to do with conn
}

// serve runs the connection and returns when it has ended.
func (c *serverConn) serve() {
	s := c.server
	c.conn = c.raw
	err := c.greet()
	s.mu.Lock()
	s.handshakes.Remove(c.handshake) // where it is not there any more, nothing happens
	s.mu.Unlock()
	if err != nil {
		s.cfg.log.Debug("a client was not let in", "remote", c.conn.RemoteAddr().String(), "reason", err)
		_ = c.conn.Close() // it says no more
		return
	}
	c.run()
	s.changed(c.peer)
}

// run serves a connection that was let in, until it has ended.
func (c *serverConn) run() {
	s := c.server
	err := c.link.read(c.node.Receive)
	switch {
	case brokeProtocol(err):
		s.counts.violations.Add(1)
		s.cfg.log.Warn("a client broke the protocol", "role", c.peer.Role.String(), "channel", c.peer.Channel, "remote", c.conn.RemoteAddr().String(), "error", err)
		c.node.Abandon()
		c.link.farewell(frame.Protocol, err.Error())
	case !errors.Is(err, io.EOF) && !errors.As(err, new(*broker.Error)):
		s.cfg.log.Debug("a client's connection failed", "role", c.peer.Role.String(), "channel", c.peer.Channel, "error", err)
	}
	c.link.close()
	c.node.Close()
	c.link.wait()
	close(c.ended)
	s.mu.Lock()
	delete(s.conns, c)
	s.counts.bytesIn.Add(c.link.bytes.Load())
	s.counts.bytesOut.Add(c.node.Out.Written())
	s.mu.Unlock()
}

// abort ends a connection in its handshake.
func (c *serverConn) abort() { _ = c.raw.Close() } // serve sees it

// dismiss ends the connection after telling the client why.
func (c *serverConn) dismiss(code frame.Code, reason string) {
	c.node.Out.Control(frame.GoAway, frame.AppendEnd(nil, code, reason))
	c.link.flush()
	if !c.link.finish() {
		c.link.close()
		return
	}
	// The client closes when it has read that; one that does not is closed.
	select {
	case <-c.ended:
	case <-c.server.patience.Done():
		_ = c.conn.SetReadDeadline(time.Now().Add(linkFarewell))
	}
}

// greet is the handshake. When it returns nil the client has been let in, and may be chosen for requests.
func (c *serverConn) greet() error {
	s := c.server
	deadline := time.Now().Add(s.cfg.limits.HandshakeTimeout)
	if err := c.conn.SetDeadline(deadline); err != nil {
		return err
	}
	c.peer.RemoteAddr = c.conn.RemoteAddr()
	if s.cfg.tls != nil {
		conn := tls.Server(secure(c.conn), s.cfg.tls)
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		err := conn.HandshakeContext(ctx)
		cancel()
		if err != nil {
			return err
		}
		state := conn.ConnectionState()
		c.conn, c.peer.TLS = conn, &state
	}
	payload, err := readHandshake(c.conn, frame.Hello)
	var hello frame.HelloPayload
	if err == nil {
		hello, err = frame.ParseHello(payload)
	}
	if brokeProtocol(err) {
		return c.refuse(frame.Protocol, err.Error())
	}
	if err != nil {
		return err
	}
	c.peer.Role, c.peer.Channel, c.peer.Token = Role(hello.Role), hello.Channel, hello.Token
	if code, reason := c.judge(hello, deadline); code != 0 {
		return c.refuse(code, reason)
	}
	return c.letIn()
}

// judge says why a client is not let in, if so.
func (c *serverConn) judge(hello frame.HelloPayload, deadline time.Time) (frame.Code, string) {
	s := c.server
	if hello.MinVersion > frame.ProtocolVersion || hello.MaxVersion < frame.ProtocolVersion {
		return frame.BadVersion, fmt.Sprintf("the broker speaks version %d", frame.ProtocolVersion)
	}
	want, got := sha256.Sum256([]byte(s.cfg.token)), sha256.Sum256([]byte(hello.Token))
	if s.cfg.token != "" && subtle.ConstantTimeCompare(want[:], got[:]) != 1 {
		s.counts.unauthorized.Add(1)
		return frame.Unauthorized, "wrong token"
	}
	code, err := c.authorize(deadline)
	switch code {
	case frame.Unauthorized:
		s.counts.unauthorized.Add(1)
		s.cfg.log.Warn("a client was refused", "role", c.peer.Role.String(), "channel", c.peer.Channel, "remote", c.peer.RemoteAddr.String(), "error", err)
		return code, "refused"
	case frame.Busy:
		s.counts.full.Add(1)
	}
	if code != 0 {
		return code, err.Error()
	}
	return 0, ""
}

// authorize asks the user's authorizer, which may do anything. One that does not return in time is left
// behind. The code is 0 where it lets the client in.
func (c *serverConn) authorize(deadline time.Time) (frame.Code, error) {
	s := c.server
	if s.cfg.authorize == nil {
		return 0, nil
	}
	if s.authorizing.Add(1) > int64(s.cfg.limits.Connections) {
		s.authorizing.Add(-1)
		return frame.Busy, errors.New("too many clients wait for the authorizer")
	}
	said := make(chan error, 1)
	go func() {
		defer s.authorizing.Add(-1)
		err := errors.New("the authorizer has ended its goroutine")
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("the authorizer panicked: %v", p)
			}
			said <- err
		}()
		err = s.cfg.authorize(c.peer)
	}()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case err := <-said:
		if err != nil {
			return frame.Unauthorized, err
		}
		return 0, nil
	case <-timer.C:
		return frame.Unauthorized, errors.New("the authorizer took too long")
	case <-s.leaving:
		return frame.Draining, errors.New("the broker is stopping")
	}
}

// refuse says why the client is not let in.
func (c *serverConn) refuse(code frame.Code, reason string) error {
	err := writeHandshake(c.conn, frame.GoAway, frame.AppendEnd(nil, code, reason))
	if err == nil {
		awaitEnd(c.conn)
	}
	return errors.Join(fmt.Errorf("%v: %s", code, reason), err)
}

// letIn welcomes the client. Its place in the channel is taken before it is told so: what it sends next, or
// what others send to its channel, finds it there.
func (c *serverConn) letIn() error {
	s := c.server
	c.node = s.relay.NewConn(frame.Role(c.peer.Role), c.peer.Channel)
	c.startLink()
	err := c.conn.SetDeadline(time.Time{})
	if err == nil {
		err = c.enter()
	}
	if err == nil {
		welcome := frame.WelcomePayload{Version: frame.ProtocolVersion, Streams: uint32(s.cfg.limits.Streams), Window: uint32(s.cfg.limits.Window)}
		c.node.Out.Control(frame.Welcome, welcome.Append(nil))
		s.relay.Connect(c.node)
		s.changed(c.peer)
		c.link.flush()
	}
	if err != nil {
		c.leave()
	}
	return err
}

// startLink starts the I/O of the connection of node.
func (c *serverConn) startLink() {
	c.link = newLink(c.conn, &c.node.Out)
	c.link.backlog = maxBacklog
	c.node.Out.Flush = c.link.flush
}

// enter makes the connection one that is served, if there is a place for it.
func (c *serverConn) enter() error {
	s := c.server
	s.mu.Lock()
	state, places := s.state, s.cfg.limits.Connections+s.links-len(s.conns)
	if state == serverRunning && places > 0 {
		s.conns[c] = struct{}{}
	}
	s.mu.Unlock()
	switch {
	case state != serverRunning:
		return c.refuse(frame.Draining, "the broker is stopping")
	case places <= 0:
		s.counts.full.Add(1)
		return c.refuse(frame.Busy, "the broker has as many connections as it may")
	}
	return nil
}

// leave undoes letIn.
func (c *serverConn) leave() {
	c.server.mu.Lock()
	delete(c.server.conns, c)
	c.server.mu.Unlock()
	c.link.close()
	c.node.Close()
	c.link.wait()
}
