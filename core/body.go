package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// bodyField reads a top-level field of the request's JSON body. The handler still reads the same
// bytes, and the same error where there was one.
func (f *Flow) bodyField(r *http.Request, name string) string {
	body := f.bufferBody(r)
	if body == nil || !body.whole {
		return ""
	}
	raw, ok := body.members()[name]
	if !ok {
		// Handlers that decode into structs take a name in any case.
		for _, member := range slices.Sorted(maps.Keys(body.members())) {
			if strings.EqualFold(member, name) {
				raw = body.members()[member]
				break
			}
		}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return ""
	}
	return scalarText(v)
}

// bufferedBody stands in for a request's body of which the head has been read. Like the body of an HTTP server's request
// it may be read and closed at the same time.
type bufferedBody struct {
	// Static after bufferBody.
	head  []byte // what was read
	whole bool   // head is all there is
	rest  io.ReadCloser
	flow  *Flow

	taken  int64 // bytes of Flow.callMemory; for who has called Begin
	decode sync.Once
	fields map[string]json.RawMessage // of head, set by decode

	mu     sync.Mutex // guards what follows; not held while rest is read or closed
	unread []byte     // what of head the handler has not read
	err    error      // what follows head: io.EOF or a failure; nil: rest does
}

// bufferBody reads the body up to MaxBodyBytes, if it can be a JSON object, and puts what stands in for it in its place.
func (f *Flow) bufferBody(r *http.Request) *bufferedBody {
	if b, ok := r.Body.(*bufferedBody); ok {
		return b
	}
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength > f.cfg.MaxBodyBytes {
		return nil
	}
	b := &bufferedBody{rest: r.Body, flow: f, taken: f.cfg.MaxBodyBytes + 1}
	if r.ContentLength >= 0 {
		b.taken = r.ContentLength + 1
	}
	if !f.callMemory.take(b.taken) {
		f.skippedBody()
		return nil
	}
	b.head, b.err = readObject(r.Body, r.ContentLength, f.cfg.MaxBodyBytes)
	f.callMemory.give(b.taken - int64(cap(b.head)))
	b.taken = int64(cap(b.head))
	b.unread, b.whole = b.head, errors.Is(b.err, io.EOF)
	r.Body = b
	return b
}

// handOver makes the call answer for the memory of what was read; nil: the request's handler does, whose it is then.
func (b *bufferedBody) handOver(c *Call) {
	if b == nil {
		return
	}
	if c != nil {
		c.held += b.taken
	} else {
		b.flow.callMemory.give(b.taken)
	}
	b.taken = 0
}

// skippedBody notes that a body was not looked at.
func (f *Flow) skippedBody() {
	if f.counters.skippedBodies.Add(1) == 1 {
		f.log.Warn("usageflow: MaxMemoryBytes has no room for a request's body, in which there is to be an identity; the request counts for nobody. Later ones are only counted")
	}
}

// readObject reads up to limit+1 bytes of a body of the given length (-1: unknown), and stops where it turns out to
// be no JSON object. A nil error says that there may be more.
func readObject(r io.Reader, length, limit int64) (head []byte, err error) {
	const piece = 4 << 10
	size := int64(piece)
	if length >= 0 {
		size = length + 1 // the byte more lets the end be seen without growing
	}
	head = make([]byte, 0, min(size, limit+1))
	object := false
	for int64(len(head)) <= limit {
		if len(head) == cap(head) {
			larger := make([]byte, len(head), min(2*int64(cap(head)), limit+1))
			copy(larger, head)
			head = larger
		}
		n, err := r.Read(head[len(head):cap(head)])
		come := head[len(head) : len(head)+n]
		head = head[:len(head)+n]
		if err != nil {
			return head, err
		}
		if text := bytes.TrimLeft(come, " \t\r\n"); !object && len(text) > 0 {
			if object = text[0] == '{'; !object {
				return head, nil // nothing to be found, however much there is
			}
		}
	}
	return head, nil
}

// members are those of the body's JSON object; none if it holds no object. What follows the object is not looked
// at, as handlers that decode one value don't.
func (b *bufferedBody) members() map[string]json.RawMessage {
	b.decode.Do(func() {
		_ = json.NewDecoder(bytes.NewReader(b.head)).Decode(&b.fields) // what is no object has no members
	})
	return b.fields
}

func (b *bufferedBody) Read(p []byte) (int, error) {
	if n, more, err := b.readHead(p); !more {
		return n, err
	}
	return b.rest.Read(p)
}

func (b *bufferedBody) readHead(p []byte) (n int, more bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.unread) > 0 {
		n = copy(p, b.unread)
		b.unread = b.unread[n:]
		return n, false, nil
	}
	return 0, b.err == nil, b.err
}

func (b *bufferedBody) Close() error {
	b.mu.Lock()
	b.unread, b.err = nil, http.ErrBodyReadAfterClose
	b.mu.Unlock()
	return b.rest.Close()
}
