package fake

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/websocket"
)

const (
	bufferSize   = 64 << 10
	messageLimit = 1 << 20
	writeWait    = 10 * time.Second
)

func (s *Service) accept() {
	for {
		nc, err := s.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer nc.Close()
			if err := s.serve(nc); err != nil {
				fmt.Fprintln(os.Stderr, "fake service:", err)
			}
		}()
	}
}

// conn serves one client with one goroutine: replies wait in out until nothing more can be read at once.
type conn struct {
	s   *Service
	nc  net.Conn
	in  *bufio.Reader
	ws  *websocket.Conn
	log *connLog

	out    []byte
	counts Counts
	batch  []entry
	buf    []byte
	made   uint64
}

func (s *Service) serve(nc net.Conn) error {
	// gorilla reads through the bufio.Reader of the hijacked connection, so this one sees what is there.
	in := bufio.NewReaderSize(nc, bufferSize)
	req, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	w := &hijacker{ResponseWriter: nil, header: make(http.Header), nc: nc, rw: bufio.NewReadWriter(in, bufio.NewWriter(nc))}
	ws, err := (&websocket.Upgrader{}).Upgrade(w, req, nil)
	if err != nil {
		return err
	}
	c := &conn{s: s, nc: nc, in: in, ws: ws, log: &connLog{}, buf: make([]byte, 4096)}
	s.mu.Lock()
	s.logs = append(s.logs, c.log)
	s.mu.Unlock()
	ws.SetReadLimit(messageLimit)
	ping := ws.PingHandler()
	ws.SetPingHandler(func(data string) error { return errors.Join(c.flush(), ping(data)) })
	for {
		b, err := c.read()
		if err != nil {
			var ce *websocket.CloseError
			if errors.As(err, &ce) || errors.Is(err, net.ErrClosed) {
				return nil // the client has left
			}
			return err
		}
		c.handle(b)
		if !frameBuffered(in) {
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
}

// read returns one message, valid until the next read.
func (c *conn) read() ([]byte, error) {
	_, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	n := 0
	for {
		m, err := r.Read(c.buf[n:])
		n += m
		if err == io.EOF {
			return c.buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
		if n == len(c.buf) {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
	}
}

func (c *conn) handle(b []byte) {
	m, ok := scan(b)
	if !ok {
		c.counts.Broken++
		return
	}
	switch string(m.typ) {
	case "request_for_allocation":
		c.counts.Reserved++
		if len(m.allocation) == 0 {
			c.made++
			m.allocation = fmt.Appendf(nil, "%p-%d", c, c.made)
		}
		c.batch = append(c.batch, entry{id: maphash.Bytes(c.s.seed, m.allocation)})
		c.replyAllocation(m)
	case "use_allocation":
		c.counts.Used++
		c.batch = append(c.batch, entry{id: maphash.Bytes(c.s.seed, m.allocation), used: true})
		c.replyAllocation(m)
	case "get_application_policies":
		c.reply(m, c.s.cfg.Policies)
	case "get_application_config":
		c.reply(m, c.s.cfg.Config)
	case "get_blocked_endpoints":
		c.reply(m, c.s.cfg.Blocked)
	default:
		c.counts.Broken++
	}
}

func (c *conn) replyAllocation(m message) {
	const before, after = `{"allocationId":"`, `"}`
	if c.start(m, len(before)+len(m.allocation)+len(after)) {
		c.out = append(c.out, before...)
		c.out = append(c.out, m.allocation...)
		c.out = append(c.out, after+"}"...)
	}
}

func (c *conn) reply(m message, payload []byte) {
	c.counts.Other++
	if c.start(m, len(payload)) {
		c.out = append(c.out, payload...)
		c.out = append(c.out, '}')
	}
}

// start appends a frame's header and everything before the payload, if the message wants a reply.
func (c *conn) start(m message, payload int) bool {
	if len(m.id) == 0 {
		return false
	}
	const a, b, d = `{"type":"`, `","replyTo":"`, `","payload":`
	n := len(a) + len(m.typ) + len(b) + len(m.id) + len(d) + payload + 1
	c.out = append(c.out, 0x80|websocket.TextMessage)
	switch {
	case n < 126:
		c.out = append(c.out, byte(n))
	case n < 1<<16:
		c.out = binary.BigEndian.AppendUint16(append(c.out, 126), uint16(n))
	default:
		c.out = binary.BigEndian.AppendUint64(append(c.out, 127), uint64(n))
	}
	c.out = append(c.out, a...)
	c.out = append(c.out, m.typ...)
	c.out = append(c.out, b...)
	c.out = append(c.out, m.id...)
	c.out = append(c.out, d...)
	return true
}

// flush counts what has come since the last one, and writes the replies.
func (c *conn) flush() error {
	if c.counts.Reserved+c.counts.Used+c.counts.Other+c.counts.Broken > 0 {
		c.log.append(c.batch)
		c.s.add(c.counts)
		c.counts, c.batch = Counts{}, c.batch[:0]
	}
	if len(c.out) == 0 {
		return nil
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(writeWait))
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

// frameBuffered reports whether a whole frame can be read without waiting.
func frameBuffered(in *bufio.Reader) bool {
	have := in.Buffered()
	if have < 2 {
		return false
	}
	h, _ := in.Peek(min(have, 10))
	need := 2 + 4 // header and mask
	switch n := h[1] & 0x7f; {
	case n < 126:
		need += int(n)
	case n == 126 && have >= 4:
		need += 2 + int(binary.BigEndian.Uint16(h[2:]))
	default:
		return false // long, or not to be known yet: flush first
	}
	return have >= need
}

// hijacker is the least of a ResponseWriter that the upgrader takes.
type hijacker struct {
	http.ResponseWriter // never used: the upgrader hijacks
	header              http.Header
	nc                  net.Conn
	rw                  *bufio.ReadWriter
}

func (h *hijacker) Header() http.Header         { return h.header }
func (h *hijacker) WriteHeader(int)             {}
func (h *hijacker) Write(b []byte) (int, error) { return len(b), nil }
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.nc, h.rw, nil
}
