package core

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
)

// maxCapturedBytes bounds each captured member of the metadata: a message over 1 MiB would end its connection.
const maxCapturedBytes = 128 << 10

// capture prepares what is captured of a request; the rest is gathered when its handler has returned.
func (f *Flow) capture(c *Call, r *Request) {
	c.request, c.param = r.Request, r.Param
	if f.cfg.Capture.Query && r.URL.RawQuery != "" {
		c.rawURL += "?" + f.maskQuery(r.URL.Query()).Encode()
	}
	if f.cfg.Capture.RequestBody && r.Body != nil && r.Body != http.NoBody {
		if _, ok := r.Body.(*bufferedBody); !ok {
			c.requestBody = &capturedBody{max: f.cfg.Capture.MaxBytes}
			r.Body = &observedBody{r.Body, c}
		}
	}
	if f.cfg.Capture.ResponseBody {
		c.body = &capturedBody{max: f.cfg.Capture.MaxBytes}
	}
}

// capturedBody keeps the beginning of a body.
type capturedBody struct {
	max         int
	text        []byte
	size        int64
	contentType string
}

func (b *capturedBody) write(header http.Header, p []byte) {
	if b.size == 0 {
		b.contentType = header.Get("Content-Type")
	}
	b.size += int64(len(p))
	b.text = append(b.text, p[:min(len(p), b.max-len(b.text))]...)
}

// observedBody is a request's body of which the call keeps the beginning, as the handler reads it.
type observedBody struct {
	io.ReadCloser
	call *Call
}

func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.call.mu.Lock()
		if !b.call.returned {
			b.call.requestBody.write(b.call.request.Header, p[:n])
		}
		b.call.mu.Unlock()
	}
	return n, err
}

// capturePathParams makes the captured member with the path's parameters. No lock is held: Param is the router's.
func (f *Flow) capturePathParams(c *Call) []byte {
	if !f.cfg.Capture.PathParams || c.param == nil {
		return nil
	}
	params := make(map[string]string, len(c.rule.params))
	for _, p := range c.rule.params {
		params[p.name] = c.param(p.name)
		if p.secret {
			params[p.name] = masked
		}
	}
	return appendMember(nil, "pathParams", params)
}

// appendCaptured appends the captured members of the metadata. The call's mu is held.
func (f *Flow) appendCaptured(dst []byte, c *Call) []byte {
	what := f.cfg.Capture
	if what.Headers {
		dst = appendMember(dst, "headers", f.maskHeader(c.request.Header))
	}
	if what.Query {
		dst = appendMember(dst, "queryParams", flatten(f.maskQuery(c.request.URL.Query())))
	}
	if what.RequestBody {
		body := c.requestBody
		if b, ok := c.request.Body.(*bufferedBody); ok {
			body = &capturedBody{max: what.MaxBytes}
			body.write(c.request.Header, b.head)
		}
		if body != nil && body.size > 0 {
			dst = appendMember(dst, "requestBody", f.maskBody(body))
		}
	}
	if c.body != nil && c.body.size > 0 {
		dst = appendMember(dst, "body", f.maskBody(c.body))
	}
	return dst
}

func appendMember(dst []byte, name string, value any) []byte {
	text, err := json.Marshal(value)
	if err != nil { // strings, maps of strings and decoded JSON always marshal
		return dst
	}
	if len(text) > maxCapturedBytes {
		text = fmt.Appendf(nil, `"[%d bytes, too long]"`, len(text))
	}
	dst = append(dst, ',')
	dst = wire.AppendString(dst, name)
	dst = append(dst, ':')
	return append(dst, text...)
}

func (f *Flow) maskValue(name, value string) string {
	if f.secrets.has(name) {
		return masked
	}
	return value
}

func (f *Flow) maskHeader(h http.Header) map[string]string {
	out := make(map[string]string, len(h))
	for name, values := range h {
		out[name] = f.maskValue(name, f.maskURL(strings.Join(values, ", ")))
	}
	return out
}

// maskURL is a header's value; the query of a URL in it (Referer, for one) has its secrets masked.
func (f *Flow) maskURL(value string) string {
	before, query, ok := strings.Cut(value, "?")
	if !ok || query == "" {
		return value
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return before + "?" + masked
	}
	return before + "?" + f.maskQuery(q).Encode()
}

func (f *Flow) maskQuery(q url.Values) url.Values {
	for name, values := range q {
		for i := range values {
			values[i] = f.maskValue(name, values[i])
		}
	}
	return q
}

func flatten(q url.Values) map[string]string {
	out := make(map[string]string, len(q))
	for name, values := range q {
		out[name] = strings.Join(values, ", ")
	}
	return out
}

// maskBody is a body with its secrets masked. What can't be read, and so can't be masked, is told by its size alone.
func (f *Flow) maskBody(b *capturedBody) any {
	mediaType, _, _ := mime.ParseMediaType(b.contentType)
	if b.size <= int64(b.max) {
		if mediaType == "application/x-www-form-urlencoded" {
			if q, err := url.ParseQuery(string(b.text)); err == nil {
				return flatten(f.maskQuery(q))
			}
		}
		var v any
		if json.Unmarshal(b.text, &v) == nil {
			switch v.(type) {
			case map[string]any, []any:
				return f.maskJSON(v)
			}
		}
	}
	return fmt.Sprintf("[%d bytes of %s]", b.size, orUnknown(mediaType))
}

func orUnknown(mediaType string) string {
	if mediaType == "" {
		return "unknown type"
	}
	return mediaType
}

// maskJSON masks in place.
func (f *Flow) maskJSON(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for name, member := range v {
			if f.secrets.has(name) {
				v[name] = masked
			} else {
				v[name] = f.maskJSON(member)
			}
		}
	case []any:
		for i := range v {
			v[i] = f.maskJSON(v[i])
		}
	}
	return v
}
