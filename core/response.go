package core

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
)

// Answered tells the call with which status its answer goes out, where that does not go through its Writer; the first counts.
func (c *Call) Answered(status int) {
	if c != nil {
		c.sentStatus.CompareAndSwap(0, int32(status)) //nolint:gosec // a status has three digits
	}
}

// Wrote tells the call what the handler wrote, with the response's header as it stands. An adapter whose router has a
// response writer of its own calls it after each write; others use Writer.
func (c *Call) Wrote(header http.Header, p []byte) {
	if !c.watchesBody() || len(p) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.finished {
		return
	}
	if c.seen != nil {
		c.seen.write(header, p)
	}
	if c.body != nil {
		c.body.write(header, p)
	}
}

// WroteString is Wrote for a string.
func (c *Call) WroteString(header http.Header, s string) {
	if c.watchesBody() {
		c.Wrote(header, []byte(s))
	}
}

// ResponseWriter is the response writer that a metered handler gets from Call.Writer.
type ResponseWriter interface {
	http.ResponseWriter
	// Status is the status that was written; 0 if none was, 101 where the connection was taken over first.
	Status() int
	// Unwrap returns the writer below, for http.ResponseController.
	Unwrap() http.ResponseWriter
}

// Writer wraps w for the handler, so that the call sees what it writes and whether it takes over the connection. The
// result is a Flusher, Pusher or ReaderFrom if w is, and a Hijacker if w is or wraps one.
func (c *Call) Writer(w http.ResponseWriter) ResponseWriter {
	tap := &tap{ResponseWriter: w, call: c}
	_, flusher := w.(http.Flusher)
	hijacker := hijackable(w)
	_, pusher := w.(http.Pusher)
	_, readerFrom := w.(io.ReaderFrom)
	return withInterfaces(tap, flusher, hijacker, pusher, readerFrom)
}

// tap is what all writers of Writer have in common.
type tap struct {
	http.ResponseWriter
	call   *Call
	status int
}

func (t *tap) Unwrap() http.ResponseWriter { return t.ResponseWriter }
func (t *tap) Status() int                 { return t.status }

func (t *tap) WriteHeader(status int) {
	if t.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		t.note(status)
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tap) Write(p []byte) (int, error) {
	n, err := t.ResponseWriter.Write(p)
	if t.wrote(int64(n), err) {
		t.call.Wrote(t.Header(), p[:written(n, len(p))])
	}
	return n, err
}

// WriteString spares the copy where the writer below spares it.
func (t *tap) WriteString(s string) (int, error) {
	n, err := io.WriteString(t.ResponseWriter, s)
	if t.wrote(int64(n), err) {
		t.call.WroteString(t.Header(), s[:written(n, len(s))])
	}
	return n, err
}

// written is how much of a write counts: a writer that buffers may say that it has written more than it was given.
func written(n, given int) int { return min(max(n, 0), given) }

// wrote notes what became of a write, and reports whether it counts.
func (t *tap) wrote(n int64, err error) bool {
	switch {
	case n > 0 || err == nil:
		if t.status == 0 {
			t.note(http.StatusOK)
		}
		return true
	case errors.Is(err, http.ErrHandlerTimeout):
		// http.TimeoutHandler has answered, and what it held back of the handler's answer has not gone out.
		t.status = http.StatusServiceUnavailable
		if t.call != nil {
			t.call.sentStatus.Store(http.StatusServiceUnavailable)
		}
	}
	return false
}

func (t *tap) note(status int) {
	t.status = status
	t.call.Answered(status)
}

// watchesBody reports whether Wrote has any use for what is written.
func (c *Call) watchesBody() bool { return c != nil && (c.seen != nil || c.body != nil) }

type (
	tapFlusher    struct{ *tap }
	tapHijacker   struct{ *tap }
	tapPusher     struct{ *tap }
	tapReaderFrom struct{ *tap }
)

func (t tapFlusher) Flush() {
	t.wrote(0, nil)
	t.ResponseWriter.(http.Flusher).Flush()
}

// FlushError is what http.ResponseController calls: the writer below may have an error to tell.
func (t tapFlusher) FlushError() error {
	t.wrote(0, nil)
	return http.NewResponseController(t.ResponseWriter).Flush()
}

func (t tapHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := t.call.Hijack(t.ResponseWriter)
	if err == nil && t.status == 0 {
		t.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

func (t tapPusher) Push(target string, opts *http.PushOptions) error {
	return t.ResponseWriter.(http.Pusher).Push(target, opts)
}

// ReadFrom keeps sendfile, unless the body has to be looked at.
func (t tapReaderFrom) ReadFrom(r io.Reader) (int64, error) {
	if t.call.watchesBody() {
		return io.Copy(struct{ io.Writer }{t.tap}, r)
	}
	n, err := t.ResponseWriter.(io.ReaderFrom).ReadFrom(r)
	t.wrote(n, err)
	return n, err
}
