package brokersystem

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
)

// relayClient drives each connection from one goroutine: it sends as many requests as are to be in flight, and reads
// what has come back. It is what a client could reach that costs nothing.
type relayClient struct {
	conns    []*relayConn
	inFlight int
}

type relayConn struct {
	nc  net.Conn
	in  *bufio.Reader
	out *bufio.Writer
}

var _ brokerload.Client = (*relayClient)(nil)

func dialRelay(cfg Config, at Endpoint) (brokerload.Client, error) {
	c := &relayClient{inFlight: cfg.InFlight}
	for range cfg.Conns {
		nc, err := net.Dial("tcp", at.Clients)
		if err != nil {
			return nil, err
		}
		c.conns = append(c.conns, &relayConn{
			nc: nc, in: bufio.NewReaderSize(nc, bufferSize), out: bufio.NewWriterSize(nc, bufferSize),
		})
	}
	return c, nil
}

// Echo implements brokerload.Client.
func (c *relayClient) Echo(lap *brokerload.Lap) {
	for _, conn := range c.conns {
		lap.Go(func(w *brokerload.Worker) error { return conn.pump(lap, w.Window(c.inFlight)) })
	}
}

func (c *relayConn) pump(lap *brokerload.Lap, window *brokerload.Window) error {
	now := time.Now()
	for !lap.Stopped() || window.InFlight() > 0 {
		for !lap.Stopped() && window.Room() > 0 {
			if err := c.send(window.Next(now)); err != nil {
				return err
			}
		}
		if err := c.out.Flush(); err != nil {
			return err
		}
		if window.InFlight() == 0 {
			return nil
		}
		for more := true; more; more = c.in.Buffered() > 0 {
			answer, err := peekLength(c.in)
			if err != nil {
				return err
			}
			now = time.Now()
			if err := window.Check(answer[lengthSize:], now); err != nil {
				return err
			}
			if _, err := c.in.Discard(len(answer)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *relayConn) send(payload []byte) error {
	if _, err := c.out.Write(binary.LittleEndian.AppendUint32(c.out.AvailableBuffer(), uint32(len(payload)))); err != nil {
		return err
	}
	_, err := c.out.Write(payload)
	return err
}

// Upload implements brokerload.Client.
func (c *relayClient) Upload(size int64) (int64, error) {
	nc := c.conns[0].nc
	if size >= 1<<32 {
		return 0, fmt.Errorf("%d bytes are too many for a length of %d", size, lengthSize)
	}
	if _, err := nc.Write(binary.LittleEndian.AppendUint32(nil, uint32(size))); err != nil {
		return 0, err
	}
	source, block := brokerload.Source(size), make([]byte, brokerload.Block)
	if _, err := io.CopyBuffer(onlyWriter{nc}, source, block); err != nil {
		return 0, err
	}
	var count [countSize]byte
	_, err := io.ReadFull(nc, count[:])
	return int64(binary.LittleEndian.Uint64(count[:])), err
}

// onlyWriter hides what else a connection can do, which for io.CopyBuffer is to choose its own buffer.
type onlyWriter struct{ io.Writer }
