package socket

import (
	"cmp"
	"context"
	"crypto/tls"
	"log/slog"
	"math"
	"net"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// Role says what a client of a Server is.
type Role uint8

// The roles of clients.
const (
	RoleConsumer = Role(frame.Consumer) // sends requests
	RoleProvider = Role(frame.Provider) // answers them
)

// String returns "consumer" or "provider".
func (r Role) String() string {
	switch r {
	case RoleConsumer:
		return "consumer"
	case RoleProvider:
		return "provider"
	}
	return "unknown"
}

// Peer is a client that wants to be let in.
type Peer struct {
	Role    Role
	Channel uuid.UUID
	// Token is what the client's WithToken says; "" without one.
	Token      string
	RemoteAddr net.Addr
	// TLS is nil without TLS. With a tls.Config that asks for one, it holds the client's certificate.
	TLS *tls.ConnectionState
}

// Limits bound what a Server holds. A field that is 0 or less means its default.
type Limits struct {
	// Connections is how many clients are served at once, and how many more may be in their handshake:
	// then the oldest handshake is given up for the newest. Default 4096.
	Connections int
	// Streams is how many requests run at once on one connection. Default 8192.
	Streams int
	// HandshakeTimeout bounds the handshake, the authorizer's part included, and with it the time until a
	// silent connection is closed.
	// Default and maximum 10 s.
	HandshakeTimeout time.Duration
	// Window is how many bytes may be on their way in each direction of a request, at least and at first
	// 64 KiB. It grows to this where the reader is faster than what arrives. Default 1 MiB.
	Window int
	// Memory is a budget in bytes for what all requests have on their way. A request reserves 64 KiB for
	// its answer, and as much for what it sends unless it is sent whole at first; more as its windows grow.
	// Past it new requests get ErrBusy; one channel may hold at most four times what is free: alone four
	// fifths of all. The server needs at most twice as much, and up to 1 MiB for each connection whose peer
	// does not read (128 KiB for others). Default 512 MiB, at least 128 KiB.
	Memory int64
}

func (l Limits) withDefaults() Limits {
	const most = 10 * time.Second
	l.Connections = positiveOr(l.Connections, 4096)
	l.Streams = min(positiveOr(l.Streams, 8192), math.MaxInt32)
	l.Window = min(max(positiveOr(l.Window, 1<<20), frame.InitialWindow), 1<<30)
	l.Memory = min(max(positiveOr(l.Memory, 512<<20), 2*frame.InitialWindow), 1<<50)
	l.HandshakeTimeout = min(positiveOr(l.HandshakeTimeout, most), most)
	return l
}

func positiveOr[N int | int64 | time.Duration](n, fallback N) N { return cmp.Or(max(n, 0), fallback) }

// ServerOption changes what NewServer makes.
type ServerOption interface{ applyToServer(*serverConfig) }

// ClientOption changes what NewConsumer and NewProvider make.
type ClientOption interface{ applyToClient(*clientConfig) }

// Option is a ServerOption and a ClientOption.
type Option interface {
	ServerOption
	ClientOption
}

type serverConfig struct {
	address   string
	tls       *tls.Config
	token     string
	authorize func(Peer) error
	limits    Limits
	mesh      Mesh // nil without one
	log       *slog.Logger
}

type clientConfig struct {
	tls   *tls.Config
	token string
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	log   *slog.Logger
}

type option struct {
	server func(*serverConfig)
	client func(*clientConfig)
}

func (o option) applyToServer(c *serverConfig) { o.server(c) }
func (o option) applyToClient(c *clientConfig) { o.client(c) }

// WithTLS makes connections use TLS. A server's needs a certificate, and for mutual TLS ClientAuth and
// ClientCAs; a client's takes the server's name from the address where ServerName is empty. nil changes nothing.
func WithTLS(cfg *tls.Config) Option {
	return option{func(c *serverConfig) { c.tls = cfg }, func(c *clientConfig) { c.tls = cfg }}
}

// WithToken makes a client show token, and a server demand it. It is sent as it is: use it with TLS, or
// where nobody listens. At most 4 KiB. "" changes nothing.
func WithToken(token string) Option {
	return option{func(c *serverConfig) { c.token = token }, func(c *clientConfig) { c.token = token }}
}

// WithLogger sets where state changes are logged; slog.Default() otherwise. nil changes nothing.
func WithLogger(log *slog.Logger) Option {
	return option{
		func(c *serverConfig) { c.log = cmp.Or(log, c.log) },
		func(c *clientConfig) { c.log = cmp.Or(log, c.log) },
	}
}

// WithAuthorizer makes a server ask f about every client, after the token was found right. An error
// refuses the client, which gets ErrUnauthorized; what it says is logged and not sent. f is called by
// several goroutines at once. It is part of the handshake's time (Limits.HandshakeTimeout): when that is over
// the connection is closed without a word, and f is left to run; Stop does not wait for it.
func WithAuthorizer(f func(Peer) error) ServerOption {
	return option{server: func(c *serverConfig) { c.authorize = f }}
}

// WithAddress makes a server listen on host:port in place of its port on 127.0.0.1. Others can then
// connect: use WithTLS, and WithToken or WithAuthorizer. "" changes nothing.
func WithAddress(addr string) ServerOption {
	return option{server: func(c *serverConfig) { c.address = cmp.Or(addr, c.address) }}
}

// WithLimits sets a server's limits.
func WithLimits(l Limits) ServerOption {
	return option{server: func(c *serverConfig) { c.limits = l }}
}

// WithDial sets how a client makes its connections, net.Dialer's DialContext otherwise. nil changes nothing.
func WithDial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) ClientOption {
	return option{client: func(c *clientConfig) { c.dial = dial }}
}
