package poolclient

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// framesPerChunk is how many frames one write carries.
const framesPerChunk = 256

// rawConn pushes prepared frames through one connection and counts the replies: the most that the
// service and the loopback give.
type rawConn struct {
	nc    net.Conn
	in    *bufio.Reader
	chunk []byte // framesPerChunk frames
	frame int    // bytes of one of them; all are of one size
}

func dialRaw(url string) (*rawConn, error) {
	ws, _, err := websocket.DefaultDialer.Dial(url, http.Header{"x-usage-key": {"bench"}})
	if err != nil {
		return nil, err
	}
	nc := ws.NetConn() // nothing has been read past the handshake: the service does not speak first
	c := &rawConn{nc: nc, in: bufio.NewReaderSize(nc, 64<<10)}
	for i := range framesPerChunk {
		m := message()
		m.ID = fmt.Sprintf("00000000-0000-4000-8000-%012x", i)
		b, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		c.chunk = appendFrame(c.chunk, b)
	}
	c.frame = len(c.chunk) / framesPerChunk
	return c, nil
}

// message is what every variant sends.
func message() *socket.UsageFlowSocketMessage {
	return &socket.UsageFlowSocketMessage{
		Type: socket.TypeRequestForAllocation,
		Payload: socket.RequestForAllocation{
			Alias: "GET /api/users/:id acme", Amount: 1, AllocationID: "7f2c1f4e-4c3b-4a57-9d0e-5b1f0c9a8e21",
		},
	}
}

// appendFrame appends a client's text frame (RFC 6455, section 5.2).
func appendFrame(dst, payload []byte) []byte {
	mask := [4]byte{0x1b, 0x5a, 0xc3, 0x7e}
	dst = append(dst, 0x80|websocket.TextMessage)
	if len(payload) < 126 {
		dst = append(dst, 0x80|byte(len(payload)))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(len(payload)))
	}
	dst = append(dst, mask[:]...)
	for i, b := range payload {
		dst = append(dst, b^mask[i%4])
	}
	return dst
}

// rawRun sends chunks on every connection and returns when every frame of them has its reply.
func rawRun(conns []*rawConn, chunks int) error {
	var wg sync.WaitGroup
	errs := make([]error, 2*len(conns))
	for i, c := range conns {
		_ = c.nc.SetDeadline(time.Now().Add(time.Minute))
		wg.Go(func() {
			for n := 0; n < chunks && errs[2*i] == nil; n++ {
				_, errs[2*i] = c.nc.Write(c.chunk)
			}
		})
		wg.Go(func() {
			for n := 0; n < chunks*framesPerChunk && errs[2*i+1] == nil; n++ {
				errs[2*i+1] = skipFrame(c.in)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rawWindow keeps window frames in flight on every connection: whenever replies have come, as many frames
// go out in one write. It is rawRun for clients that wait for their replies.
func rawWindow(conns []*rawConn, window, frames int) error {
	var wg sync.WaitGroup
	errs := make([]error, len(conns))
	for i, c := range conns {
		_ = c.nc.SetDeadline(time.Now().Add(time.Minute))
		mine := share(window, len(conns), i)
		wg.Go(func() { errs[i] = c.pingPong(mine, share(frames, len(conns), i)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// share is the i-th of n nearly equal parts of total.
func share(total, n, i int) int { return (total + n - 1 - i) / n }

func (c *rawConn) pingPong(window, frames int) error {
	sent, answered := 0, 0
	for answered < frames {
		if room := min(window-(sent-answered), frames-sent, framesPerChunk); room > 0 {
			if _, err := c.nc.Write(c.chunk[:room*c.frame]); err != nil {
				return err
			}
			sent += room
		}
		for more := true; more; more = answered < sent && c.in.Buffered() > 0 {
			if err := skipFrame(c.in); err != nil {
				return err
			}
			answered++
		}
	}
	return nil
}

func skipFrame(in *bufio.Reader) error {
	h, err := in.Peek(4)
	if err != nil {
		return err
	}
	size := 2 + int(h[1])
	if h[1] == 126 {
		size = 4 + int(binary.BigEndian.Uint16(h[2:]))
	}
	n, err := in.Discard(size)
	if n < size && err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}
