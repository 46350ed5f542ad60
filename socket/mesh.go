package socket

import (
	"net"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
	"github.com/usageflow/usageflow-go-middleware/internal/mesh"
)

// Mesh joins brokers on many hosts to one: see WithMesh. Package natsmesh has one.
type Mesh interface{ mesh.Mesh }

// WithMesh makes a server one of a mesh: a request that finds no provider here goes to one of another server. Providers of
// this server go first, then the server with the least to do. The SidecarChannel is not part of it: each sidecar has its
// own key. A mesh belongs to one server, which joins it in Start and leaves it when it stops. nil changes nothing.
func WithMesh(m Mesh) ServerOption {
	return option{server: func(c *serverConfig) {
		if m != nil {
			c.mesh = m
		}
	}}
}

// meshNode is a Server as its mesh sees it.
type meshNode struct{ server *Server }

var _ mesh.Node = meshNode{}

// seek is called by the relay when a request finds no provider.
func (s *Server) seek(channel uuid.UUID) {
	if channel == SidecarChannel {
		s.relay.Absent(channel)
		return
	}
	s.cfg.mesh.Find(channel)
}

// changed tells the mesh that a client has come or gone, if it is a provider.
func (s *Server) changed(p Peer) {
	if s.cfg.mesh != nil && p.Role == RoleProvider && p.Channel != SidecarChannel {
		s.cfg.mesh.Changed(p.Channel)
	}
}

// Serve implements mesh.Node.
func (n meshNode) Serve(channel uuid.UUID, conn net.Conn) {
	n.server.link(RoleConsumer, channel, conn)
}

// Attach implements mesh.Node.
func (n meshNode) Attach(channel uuid.UUID, conn net.Conn) mesh.Link {
	return meshLink{n.server.link(RoleProvider, channel, conn)}
}

// Absent implements mesh.Node.
func (n meshNode) Absent(channel uuid.UUID) { n.server.relay.Absent(channel) }

// Loads implements mesh.Node.
func (n meshNode) Loads() []mesh.Load {
	var list []mesh.Load
	for _, l := range n.server.relay.Loads() {
		if l.ID != SidecarChannel {
			list = append(list, meshLoad(l))
		}
	}
	return list
}

// Load implements mesh.Node.
func (n meshNode) Load(channel uuid.UUID) mesh.Load {
	if channel == SidecarChannel {
		return mesh.Load{Channel: channel}
	}
	return meshLoad(n.server.relay.Load(channel))
}

func meshLoad(l broker.Load) mesh.Load {
	return mesh.Load{Channel: l.ID, Consumers: l.Consumers, Providers: l.Providers, Running: l.Running}
}

// link serves a connection to or from another server: no handshake is needed, as the mesh knows who is there.
func (s *Server) link(role Role, channel uuid.UUID, conn net.Conn) *serverConn {
	c := &serverConn{server: s, raw: conn, conn: conn, ended: make(chan struct{}), peer: Peer{Role: role, Channel: channel, RemoteAddr: conn.RemoteAddr()}}
	c.node = s.relay.NewLink(frame.Role(role), channel)
	c.startLink()
	connected := make(chan struct{})
	s.mu.Lock()
	running := s.state == serverRunning
	if running {
		s.conns[c] = struct{}{}
		s.links++
		s.wg.Go(func() {
			<-connected
			c.link.flush()
			c.run()
			s.mu.Lock()
			s.links--
			s.mu.Unlock()
		})
	}
	s.mu.Unlock()
	if running {
		s.relay.Connect(c.node) // from here on requests find it
		close(connected)
	} else {
		c.leave()
	}
	return c
}

// meshLink is a connection to another server that has providers.
type meshLink struct{ conn *serverConn }

var _ mesh.Link = meshLink{}

// SetLoad implements mesh.Link.
func (l meshLink) SetLoad(load mesh.Load) { l.conn.node.SetLoad(load.Providers, load.Running) }

// Usable implements mesh.Link.
func (l meshLink) Usable() bool { return l.conn.node.Usable() }

// Idle implements mesh.Link.
func (l meshLink) Idle() bool { return l.conn.node.Outstanding() == 0 }

// Close implements mesh.Link.
func (l meshLink) Close() { l.conn.link.close() }
