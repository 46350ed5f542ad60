// Package load sends HTTP requests over keep-alive connections as fast as they are answered, from one
// thread: it waits for answers with epoll, and takes all that have come before it waits again. It shares the
// cores with what is measured, so it has to cost little. Requests are prepared bytes; of a response it looks at the
// status and the length.
package load

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
)

// RoleName is the role under which programs of this module run Role.
const RoleName = "load"

// A Client says where to and what to send. Each connection sends one of Requests over and over.
type Client struct {
	Addr     string
	Conns    int
	Requests [][]byte
}

// A Result counts complete responses only. Elapsed ends with the last of them, at End.
type Result struct {
	Requests int
	Elapsed  time.Duration
	End      time.Time
}

// Role is the child's side. It connects at its start; each command, a duration, is one Result.
func Role(arg json.RawMessage) (child.Handler, any, error) {
	var c Client
	if err := json.Unmarshal(arg, &c); err != nil {
		return nil, nil, err
	}
	g, err := dial(c)
	if err != nil {
		return nil, nil, err
	}
	return func(_ string, arg json.RawMessage) (any, error) {
		var d time.Duration
		if err := json.Unmarshal(arg, &d); err != nil {
			return nil, err
		}
		return g.run(d)
	}, nil, nil
}

var (
	statusOK      = []byte("HTTP/1.1 200 ")
	contentLength = []byte("\r\nContent-Length: ")
	headerEnd     = []byte("\r\n\r\n")
)

// responseSize is the size of the response that b begins with, -1 while its header is not complete.
func responseSize(b []byte) (int, error) {
	end := bytes.Index(b, headerEnd)
	if end < 0 {
		return -1, nil
	}
	header := b[:end+2]
	if !bytes.HasPrefix(header, statusOK) {
		return 0, fmt.Errorf("answer %q", header)
	}
	at := bytes.Index(header, contentLength)
	if at < 0 {
		return 0, fmt.Errorf("no Content-Length in %q", header)
	}
	size := 0
	for _, d := range header[at+len(contentLength):] {
		if d < '0' || d > '9' {
			break
		}
		size = size*10 + int(d-'0')
	}
	return end + len(headerEnd) + size, nil
}
