package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
)

// dial makes one connection, within handshakeTimeout. It ends when the pool closes, also during a handshake.
func (s *slot) dial() (*conn, error) {
	ctx, cancel := context.WithTimeout(s.m.dialing, handshakeTimeout)
	defer cancel()
	var nc *netConn
	guard := func() bool { return true } // reports false if ctx has ended the connection
	dialer := websocket.Dialer{
		TLSClientConfig: s.m.cfg.TLS,
		ReadBufferSize:  16 << 10,
		WriteBufferSize: 1 << 10, // for the handshake only
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			raw, err := dialNet(ctx, s.m.cfg.Dial, network, addr)
			if err != nil {
				return nil, err
			}
			nc = &netConn{Conn: raw, handshakeLeft: maxHandshakeResponse}
			guard = closeAtEnd(ctx, raw)
			return nc, nil
		},
	}
	if s.m.cfg.Dial == nil {
		dialer.Proxy = http.ProxyFromEnvironment
	}
	header := http.Header{"x-usage-key": {s.m.cfg.APIKey}}
	ws, resp, err := dialer.DialContext(ctx, s.m.cfg.URL, header) //nolint:bodyclose // it is no connection's: the library has read it
	alive := guard()
	switch {
	case s.m.isClosing():
		err = ErrClosed
	case err != nil:
		err = handshakeError(err, resp)
	case !alive:
		err = fmt.Errorf("socket: connect: %w", ctx.Err()) // at the last moment
	case resp.Header.Get("Sec-WebSocket-Extensions") != "":
		// None was offered. Compression would also get around the read limit.
		err = errors.New("socket: connect: the service uses a WebSocket extension that was not offered")
	}
	if err != nil {
		if ws != nil {
			_ = ws.Close() // never used
		}
		return nil, err
	}
	nc.start()
	return newConn(s, ws, nc), nil
}

// closeAtEnd closes c when ctx ends: a handshake does not end with its context, but it does with its
// connection. guard ends this watch, waits for a Close under way, and reports whether there was none.
func closeAtEnd(ctx context.Context, c net.Conn) (guard func() bool) {
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = c.Close()
	})
	return func() bool {
		if stop() {
			return true
		}
		<-closed
		return false
	}
}

// dialNet opens the network connection. A dial function that does not look at ctx is left behind when ctx ends.
func dialNet(ctx context.Context, dial func(context.Context, string, string) (net.Conn, error), network, addr string) (net.Conn, error) {
	if dial == nil {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	dialed := make(chan result, 1)
	go func() {
		conn, err := dial(ctx, network, addr)
		dialed <- result{conn, err}
	}()
	select {
	case r := <-dialed:
		if r.conn == nil && r.err == nil {
			return nil, errors.New("socket: the dial function returned neither a connection nor an error")
		}
		return r.conn, r.err
	case <-ctx.Done():
		go func() {
			if r := <-dialed; r.conn != nil {
				_ = r.conn.Close() // too late to be of use
			}
		}()
		return nil, ctx.Err()
	}
}

// retryAfterError is a refusal that says when to come back.
type retryAfterError struct {
	status int
	after  time.Duration
}

func (e *retryAfterError) Error() string {
	return fmt.Sprintf("socket: the service answered the handshake with %d; next try in %s", e.status, e.after)
}

// handshakeError gives a failed handshake its meaning.
func handshakeError(err error, resp *http.Response) error {
	if resp == nil || !errors.Is(err, websocket.ErrBadHandshake) {
		return fmt.Errorf("socket: connect: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: the service answered the handshake with %d", ErrUnauthorized, resp.StatusCode)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if after := retryAfter(resp.Header.Get("Retry-After"), time.Now()); after > 0 {
			return &retryAfterError{resp.StatusCode, after}
		}
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("socket: the service answered the handshake with %d; UsageFlow's URL ends in /ws", resp.StatusCode)
	}
	return fmt.Errorf("socket: the service answered the handshake with %d", resp.StatusCode)
}

// retryAfter reads a Retry-After header: seconds or a date, up to maxRetryAfter. Zero: there is none.
func retryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	var after time.Duration
	if seconds, err := strconv.Atoi(value); err == nil {
		after = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	} else if date, err := http.ParseTime(value); err == nil {
		after = date.Sub(now)
	}
	return max(0, min(after, maxRetryAfter))
}
