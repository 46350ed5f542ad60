package brokersystem

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
)

// Settings of server and clients are the defaults, but for the codec and the credentials.

const (
	grpcService = "bench.Provider"
	echoMethod  = "Echo"
	countMethod = "Count"
)

// plain is a codec for messages that are *[]byte: what is on the wire is what is in memory. A message is received into
// the memory that the slice has, if it is enough.
type plain struct{}

var _ encoding.CodecV2 = plain{}

func (plain) Name() string { return "plain" }

func (plain) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is no *[]byte", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(*b)}, nil
}

func (plain) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is no *[]byte", v)
	}
	*b = slices.Grow((*b)[:0], data.Len())[:data.Len()]
	data.CopyTo(*b)
	return nil
}

// startGRPCProvider serves on connections that it dials to the relay, as the relay's own provider does.
func startGRPCProvider(cfg Config, at Endpoint) error {
	dialed := &dialed{conns: make(chan net.Conn, cfg.Conns)}
	for range cfg.Conns {
		nc, err := net.Dial("tcp", at.Providers)
		if err != nil {
			return err
		}
		dialed.addr = nc.LocalAddr()
		dialed.conns <- nc
	}
	s := grpc.NewServer(grpc.ForceServerCodecV2(plain{}))
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: grpcService,
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: echoMethod, Handler: grpcEcho}},
		Streams:     []grpc.StreamDesc{{StreamName: countMethod, Handler: grpcCount, ClientStreams: true}},
	}, struct{}{})
	go func() { complain("grpc's provider", s.Serve(dialed)) }()
	return nil
}

func grpcEcho(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var b []byte
	err := decode(&b)
	return &b, err
}

// grpcCount answers the end of a stream with the number of its bytes.
func grpcCount(_ any, stream grpc.ServerStream) error {
	var (
		total uint64
		b     []byte
	)
	for {
		err := stream.RecvMsg(&b)
		if errors.Is(err, io.EOF) {
			count := binary.LittleEndian.AppendUint64(nil, total)
			return stream.SendMsg(&count)
		}
		if err != nil {
			return err
		}
		total += uint64(len(b))
	}
}

// dialed is a listener for connections that this process has dialed.
type dialed struct {
	conns chan net.Conn
	addr  net.Addr
}

var _ net.Listener = (*dialed)(nil)

func (d *dialed) Accept() (net.Conn, error) { return <-d.conns, nil }
func (d *dialed) Close() error              { return nil } // with the process
func (d *dialed) Addr() net.Addr            { return d.addr }

// grpcConn is a client connection, which goroutines may share.
type grpcConn struct{ cc *grpc.ClientConn }

var _ brokerload.Caller = grpcConn{}

func dialGRPC(cfg Config, at Endpoint) (brokerload.Client, error) {
	return brokerload.Connect(cfg.Conns, cfg.InFlight, func() (grpcConn, error) {
		cc, err := grpc.NewClient("passthrough:///"+at.Clients,
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(plain{})))
		return grpcConn{cc}, err
	})
}

// Call implements brokerload.Caller.
func (c grpcConn) Call(payload, answer []byte) error {
	got := answer[:0]
	err := c.cc.Invoke(context.Background(), "/"+grpcService+"/"+echoMethod, &payload, &got, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	return fill(answer, got)
}

// Upload implements brokerload.Caller.
func (c grpcConn) Upload(size int64) (int64, error) {
	desc := &grpc.StreamDesc{ClientStreams: true}
	stream, err := c.cc.NewStream(context.Background(), desc, "/"+grpcService+"/"+countMethod)
	if err != nil {
		return 0, err
	}
	block := make([]byte, min(size, brokerload.Block))
	if _, err := io.ReadFull(brokerload.Source(size), block); err != nil {
		return 0, err
	}
	for left := size; left > 0; left -= int64(len(block)) {
		// The same bytes again, not read anew: grpc may still be writing the last message. That spares it a copy.
		block = block[:min(left, brokerload.Block)]
		if err := stream.SendMsg(&block); err != nil {
			return 0, err
		}
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	var count []byte
	if err := stream.RecvMsg(&count); err != nil {
		return 0, err
	}
	if len(count) != countSize {
		return 0, fmt.Errorf("a count of %d bytes", len(count))
	}
	return int64(binary.LittleEndian.Uint64(count)), nil
}
