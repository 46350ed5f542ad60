// Package brokersystem has the systems that the broker benchmark compares: this module's broker, and peers
// that carry requests from clients to a provider through a process between them.
//
// Each has three parts, which run in processes of their own: a broker, a provider that echoes, or counts
// what is uploaded, and a client. All live as long as their process.
package brokersystem

import (
	"fmt"
	"net"
	"os"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
)

// The systems.
const (
	Relay     = "relay"      // bytes copied between one connection of the client and one of the provider
	IDs       = "ids"        // frames with stream ids, many clients on one connection of the provider
	NATS      = "nats"       // request/reply over an embedded nats-server
	GRPC      = "grpc"       // unary calls through the relay, messages are plain bytes
	Socket    = "socket"     // this module
	SocketTLS = "socket+tls" // this module over TLS
)

// How long a request and an upload may take, where a system asks for that.
const (
	callTimeout   = 10 * time.Second
	uploadTimeout = time.Minute
)

// Config is what all three parts of a system have to know.
type Config struct {
	System      string
	Conns       int  // of the client
	InFlight    int  // on each of them
	Bulk        bool // uploads, instead of requests that are echoed
	Certificate *Certificate
}

// An Endpoint is where a broker takes connections, which may be at one address for both.
type Endpoint struct {
	Clients, Providers string
}

// Parts start a system's parts. The provider returns when it is connected; it and the broker go on in the background.
type Parts struct {
	Broker   func(Config) (Endpoint, error)
	Provider func(Config, Endpoint) error
	Client   func(Config, Endpoint) (brokerload.Client, error)
}

// New returns the parts of the system that is called name.
func New(name string) (Parts, error) {
	switch name {
	case Relay:
		return Parts{startRelay, startRelayProvider, dialRelay}, nil
	case IDs:
		return Parts{startSwitch, startIDsProvider, dialIDs}, nil
	case NATS:
		return Parts{startNATS, startNATSProvider, dialNATS}, nil
	case GRPC:
		return Parts{startRelay, startGRPCProvider, dialGRPC}, nil
	case Socket, SocketTLS:
		return Parts{startSocket, startSocketProvider, dialSocket}, nil
	default:
		return Parts{}, fmt.Errorf("no system %q", name)
	}
}

func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// complain says why a connection that should live as long as the process has ended. Whoever waits for an answer on it
// fails by that.
func complain(part string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", part, err)
	}
}
