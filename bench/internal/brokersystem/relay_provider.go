package brokersystem

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
)

// What goes through the relay are payloads, each after its length in 4 bytes. They come back in order.
const (
	lengthSize = 4
	bufferSize = 128 << 10
	countSize  = 8 // of the answer to an upload
)

func startRelayProvider(cfg Config, at Endpoint) error {
	for range cfg.Conns {
		nc, err := net.Dial("tcp", at.Providers)
		if err != nil {
			return err
		}
		serve := echoLengths
		if cfg.Bulk {
			serve = countUploads
		}
		go func() {
			defer nc.Close()
			complain("relay's provider", untilEOF(serve(nc)))
		}()
	}
	return nil
}

// echoLengths sends what has come when there is nothing more to read at once.
func echoLengths(nc net.Conn) error {
	in, out := bufio.NewReaderSize(nc, bufferSize), bufio.NewWriterSize(nc, bufferSize)
	for {
		frame, err := peekLength(in)
		if err != nil {
			return err
		}
		if _, err := out.Write(frame); err != nil {
			return err
		}
		if _, err := in.Discard(len(frame)); err != nil {
			return err
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
}

// countUploads takes each upload as one payload that need not fit in memory.
func countUploads(nc net.Conn) error {
	buf := make([]byte, brokerload.Block)
	var head [lengthSize]byte
	for {
		if _, err := io.ReadFull(nc, head[:]); err != nil {
			return err
		}
		n, err := brokerload.Drain(io.LimitReader(nc, int64(binary.LittleEndian.Uint32(head[:]))), buf)
		if err != nil {
			return err
		}
		if _, err := nc.Write(binary.LittleEndian.AppendUint64(nil, uint64(n))); err != nil {
			return err
		}
	}
}

// peekLength returns the next payload with its length before it; both are still in the reader.
func peekLength(in *bufio.Reader) ([]byte, error) {
	head, err := in.Peek(lengthSize)
	if err != nil {
		return nil, err
	}
	return in.Peek(lengthSize + int(binary.LittleEndian.Uint32(head)))
}

// untilEOF is err, or nil where err says that the peer has closed the connection.
func untilEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
