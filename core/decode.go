package core

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// sniffBytes are enough to tell an encoded body from a plain one.
	sniffBytes = 6
	// maxDecodedBytes bounds how much of a body is decoded: a few bytes can stand for very many.
	maxDecodedBytes = 64 << 20
)

// decoder decodes a body as it is written, for the scanner: gzip and deflate, which are what Go's middleware writes.
// Middleware outside of ours may say that the body is encoded when what passes here is not yet: its first bytes decide.
// Not safe for concurrent use.
type decoder struct {
	encoding string
	text     func([]byte)
	most     int64  // bytes that are decoded
	head     []byte // the body's first bytes, before it is decided what it is
	decided  bool
	plain    bool
	problem  string // why the body can't be read

	// The goroutine that decodes runs from the decision to close, and owns text meanwhile.
	pipe *io.PipeWriter // nil where there is none
	done chan error
}

// newDecoder makes a decoder that hands the decoded text on; nil if nothing is encoded.
func newDecoder(contentEncoding []string, text func([]byte)) *decoder {
	var encodings []string
	for name := range strings.SplitSeq(strings.ToLower(strings.Join(contentEncoding, ",")), ",") {
		if name = strings.TrimSpace(name); name != "" && name != "identity" {
			encodings = append(encodings, name)
		}
	}
	if len(encodings) == 0 {
		return nil
	}
	return &decoder{encoding: strings.Join(encodings, ", "), text: text, most: maxDecodedBytes}
}

func (d *decoder) write(p []byte) {
	if !d.decided {
		d.head = append(d.head, p...)
		if len(d.head) < sniffBytes {
			return
		}
		d.decide()
		p, d.head = d.head, nil
	}
	switch {
	case d.plain:
		d.text(p)
	case d.pipe != nil:
		_, _ = d.pipe.Write(p) // an error is the goroutine's, which close returns
	}
}

// decide looks what the body is, and starts the goroutine that decodes it if it can be.
func (d *decoder) decide() {
	d.decided = true
	var open func(io.Reader) (io.ReadCloser, error)
	switch head := d.head[:min(len(d.head), sniffBytes)]; { // of a longer piece no more is looked at than of short ones
	case (d.encoding == "gzip" || d.encoding == "x-gzip") && bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		open = openGzip
	case d.encoding == "deflate" && len(head) >= 2 && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0:
		open = zlib.NewReader
	case isText(head):
		d.plain = true
		return
	case d.encoding == "deflate": // some send it without its frame
		open = openFlate
	default:
		d.problem = fmt.Sprintf("its body is encoded (%s) and can't be read here", d.encoding)
		return
	}
	r, w := io.Pipe()
	d.pipe, d.done = w, make(chan error, 1)
	go func() {
		err := decode(r, open, d.text, d.most)
		_ = r.CloseWithError(io.ErrClosedPipe) // what comes now is not waited for
		d.done <- err
	}()
}

// isText reports whether a body begins as JSON or a stream of events does.
func isText(head []byte) bool {
	for rest := head; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		if (r == utf8.RuneError && n == 1 && utf8.FullRune(rest)) || (r < ' ' && r != '\t' && r != '\r' && r != '\n') {
			return false
		}
		rest = rest[n:]
	}
	head = bytes.TrimLeft(head, " \t\r\n")
	return len(head) == 0 || slices.Contains([]byte("{[:"), head[0]) ||
		bytes.HasPrefix(head, []byte("data:")) || bytes.HasPrefix(head, []byte("event:")) ||
		bytes.HasPrefix(head, []byte("id:")) || bytes.HasPrefix(head, []byte("retry:"))
}

var errTooLong = errors.New("its body is too long to be decoded")

func decode(r io.Reader, open func(io.Reader) (io.ReadCloser, error), text func([]byte), most int64) error {
	body, err := open(r)
	if err != nil {
		return err
	}
	n, err := io.Copy(writerFunc(text), io.LimitReader(body, most+1))
	if n > most {
		err = errTooLong
	}
	return errors.Join(err, body.Close())
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) {
	f(p)
	return len(p), nil
}

// close ends the decoding and waits for it. It says why not all could be read, "" if all was.
func (d *decoder) close() (problem string) {
	if !d.decided && len(d.head) > 0 {
		head := d.head
		d.decide()
		d.head = nil
		d.write(head)
	}
	if d.pipe != nil {
		_ = d.pipe.Close() // never fails
		if err := <-d.done; err != nil {
			d.problem = fmt.Sprintf("its body is encoded (%s) and can't be read to its end: %v", d.encoding, err)
		}
		d.pipe = nil
	}
	return d.problem
}

func openFlate(r io.Reader) (io.ReadCloser, error) { return flate.NewReader(r), nil } //nolint:unparam // it is one of several that may fail

func openGzip(r io.Reader) (io.ReadCloser, error) {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return nil, err // a nil *gzip.Reader must not become an interface that is not nil
	}
	return zr, nil
}
