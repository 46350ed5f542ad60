// Package mesh is what a broker and a mesh of brokers ask of each other. socket.Server is a Node; socket/natsmesh
// has a Mesh.
package mesh

import (
	"net"

	"github.com/google/uuid"
)

// Mesh finds brokers that have providers, and makes connections to them. Find, Changed and Drain do not block for
// long, and nothing is called before Join or after Leave has returned.
type Mesh interface {
	// Join begins: others find the node from now on.
	Join(n Node) error
	// Find is called when a request on a channel finds no provider. It ends in Node.Attach, or in Node.Absent.
	Find(channel uuid.UUID)
	// Changed is called when a provider of a channel has come or gone. When it returns, others find one that has come.
	Changed(channel uuid.UUID)
	// Drain makes others find the node no more.
	Drain()
	// Leave ends every connection that the mesh has made, and waits for its goroutines.
	Leave()
}

// Node is a broker. Its methods are safe for concurrent use and do not block.
type Node interface {
	// Serve takes the requests of another broker, on a channel, over conn, until that ends.
	Serve(channel uuid.UUID, conn net.Conn)
	// Attach sends requests of a channel to another broker, over conn, until that ends. What waits for a provider is
	// sent there.
	Attach(channel uuid.UUID, conn net.Conn) Link
	// Absent says that no other broker has providers for a channel.
	Absent(channel uuid.UUID)
	// Loads are the channels with clients of this broker.
	Loads() []Load
	// Load is one of them.
	Load(channel uuid.UUID) Load
}

// Load is what a broker has on a channel.
type Load struct {
	Channel              uuid.UUID
	Consumers, Providers int // its own clients
	Running              int // requests that the providers have
}

// Link is a connection to another broker that has providers. Its methods are safe for concurrent use.
type Link interface {
	// SetLoad says what the other broker has.
	SetLoad(l Load)
	// Usable reports whether requests may still be sent over it.
	Usable() bool
	// Idle reports whether none runs.
	Idle() bool
	// Close ends it.
	Close()
}
