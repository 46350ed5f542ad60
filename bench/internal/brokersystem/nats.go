package brokersystem

import (
	"errors"
	"fmt"
	"os"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
)

// Settings of server and clients are the defaults.

const natsSubject = "echo"

var errTooLarge = errors.New("nats carries no message over 1 MiB")

func startNATS(Config) (Endpoint, error) {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		return Endpoint{}, err
	}
	s.Start()
	if !s.ReadyForConnections(callTimeout) {
		return Endpoint{}, errors.New("nats-server does not listen")
	}
	return Endpoint{Clients: s.ClientURL(), Providers: s.ClientURL()}, nil
}

func startNATSProvider(cfg Config, at Endpoint) error {
	if cfg.Bulk {
		return errTooLarge
	}
	nc, err := nats.Connect(at.Providers)
	if err != nil {
		return err
	}
	_, err = nc.Subscribe(natsSubject, func(m *nats.Msg) {
		if err := m.Respond(m.Data); err != nil {
			fmt.Fprintln(os.Stderr, "nats' provider:", err)
		}
	})
	if err != nil {
		return err
	}
	return nc.Flush() // until the server has the subscription
}

// natsConn is a connection of nats.go, which goroutines may share.
type natsConn struct{ nc *nats.Conn }

var _ brokerload.Caller = natsConn{}

func dialNATS(cfg Config, at Endpoint) (brokerload.Client, error) {
	return brokerload.Connect(cfg.Conns, cfg.InFlight, func() (natsConn, error) {
		nc, err := nats.Connect(at.Clients)
		return natsConn{nc}, err
	})
}

// Call implements brokerload.Caller.
func (c natsConn) Call(payload, answer []byte) error {
	m, err := c.nc.Request(natsSubject, payload, callTimeout)
	if err != nil {
		return err
	}
	return fill(answer, m.Data)
}

// Upload implements brokerload.Caller.
func (c natsConn) Upload(int64) (int64, error) {
	return 0, errTooLarge
}
