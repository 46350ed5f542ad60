package brokersystem

import (
	"encoding/binary"
	"net"
)

func startIDsProvider(cfg Config, at Endpoint) error {
	nc, err := net.Dial("tcp", at.Providers)
	if err != nil {
		return err
	}
	p := newIDsPeer(nc)
	answer := p.echo
	if cfg.Bulk {
		answer = p.counter()
	}
	go func() {
		defer nc.Close()
		complain("ids' provider", untilEOF(p.serve(answer)))
	}()
	return nil
}

// serve hands frames to answer, and sends what that has left in the buffer when there is nothing more to read at once.
func (p *idsPeer) serve(answer func(h header, payload []byte) error) error {
	for {
		h, frame, err := peekFrame(p.in)
		if err != nil {
			return err
		}
		if err := answer(h, frame[headerSize:]); err != nil {
			return err
		}
		if _, err := p.in.Discard(len(frame)); err != nil {
			return err
		}
		if p.in.Buffered() == 0 {
			if err := p.out.Flush(); err != nil {
				return err
			}
		}
	}
}

func (p *idsPeer) echo(h header, payload []byte) error { return writeFrame(p.out, h, payload) }

// counter answers the end of each request with the number of its bytes.
func (p *idsPeer) counter() func(h header, payload []byte) error {
	counts := make(map[uint64]uint64)
	return func(h header, payload []byte) error {
		counts[h.stream] += uint64(len(payload))
		if !h.end() {
			return nil
		}
		count := binary.LittleEndian.AppendUint64(nil, counts[h.stream])
		delete(counts, h.stream)
		return writeFrame(p.out, h, count)
	}
}
