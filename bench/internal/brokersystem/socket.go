package brokersystem

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// socketChannel is the channel that client and provider share.
var socketChannel = uuid.MustParse("6d1f6c5e-3b0a-4f8e-9a54-0c2b7a1d9e10")

func startSocket(cfg Config) (Endpoint, error) {
	var opts []socket.ServerOption
	if cfg.Certificate != nil {
		config, err := cfg.Certificate.server()
		if err != nil {
			return Endpoint{}, err
		}
		opts = append(opts, socket.WithTLS(config))
	}
	s := socket.NewServer("0", opts...)
	if err := s.Start(); err != nil {
		return Endpoint{}, err
	}
	addr := "127.0.0.1:" + s.Port()
	return Endpoint{Clients: addr, Providers: addr}, nil
}

func startSocketProvider(cfg Config, at Endpoint) error {
	opts, err := socketOptions(cfg)
	if err != nil {
		return err
	}
	p, err := socket.NewProvider(at.Providers, socketChannel, opts...)
	if err != nil {
		return err
	}
	handler := socketEcho
	if cfg.Bulk {
		handler = socketCount
	}
	go func() { complain("socket's provider", p.Serve(context.Background(), handler)) }()
	return nil
}

func socketOptions(cfg Config) ([]socket.ClientOption, error) {
	if cfg.Certificate == nil {
		return nil, nil
	}
	config, err := cfg.Certificate.client()
	if err != nil {
		return nil, err
	}
	return []socket.ClientOption{socket.WithTLS(config)}, nil
}

func socketEcho(_ context.Context, req *socket.Request) (io.Reader, error) { return req.Reader, nil }

func socketCount(_ context.Context, req *socket.Request) (io.Reader, error) {
	n, err := brokerload.Drain(req.Reader, make([]byte, brokerload.Block))
	if err != nil {
		fmt.Fprintln(os.Stderr, "socket's provider:", err)
		return nil, err
	}
	return bytes.NewReader(binary.LittleEndian.AppendUint64(nil, uint64(n))), nil
}

// socketConn is a consumer, which goroutines may share.
type socketConn struct{ consumer *socket.Consumer }

var _ brokerload.Caller = socketConn{}

func dialSocket(cfg Config, at Endpoint) (brokerload.Client, error) {
	opts, err := socketOptions(cfg)
	if err != nil {
		return nil, err
	}
	return brokerload.Connect(cfg.Conns, cfg.InFlight, func() (socketConn, error) {
		c, err := socket.NewConsumer(at.Clients, socketChannel, opts...)
		return socketConn{c}, err
	})
}

// Call implements brokerload.Caller.
func (c socketConn) Call(payload, answer []byte) error {
	r, err := c.consumer.Send(bytes.NewReader(payload), callTimeout)
	if err != nil {
		return err
	}
	return readExactly(r, answer)
}

// Upload implements brokerload.Caller.
func (c socketConn) Upload(size int64) (int64, error) {
	r, err := c.consumer.Send(brokerload.Source(size), uploadTimeout)
	if err != nil {
		return 0, err
	}
	count := make([]byte, countSize, countSize+1)
	err = readExactly(r, count)
	return int64(binary.LittleEndian.Uint64(count)), err
}

// readExactly reads answer, and then the end, for which answer has one more byte of capacity.
func readExactly(r io.Reader, answer []byte) error {
	if _, err := io.ReadFull(r, answer); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if n, err := r.Read(answer[len(answer) : len(answer)+1]); n > 0 || err != io.EOF {
		return fmt.Errorf("after the answer: %d bytes, %v", n, err)
	}
	return nil
}
