package socket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// inMemory returns how many bytes r holds, where r is one that has them all, so that it neither waits nor fails.
func inMemory(r io.Reader) (size int, ok bool) {
	switch r := r.(type) {
	case *bytes.Reader:
		if r != nil {
			return r.Len(), true
		}
	case *bytes.Buffer:
		if r != nil {
			return r.Len(), true
		}
	case *strings.Reader:
		if r != nil {
			return r.Len(), true
		}
	case requestBody:
		return r.stream.Whole()
	case *answer:
		return r.stream.Whole()
	}
	return 0, false
}

// maxEmptyReads is how often in a row a reader may return nothing and no error.
const maxEmptyReads = 100

// readSome reads from the user's r until there is something, an error, or the end.
func readSome(r io.Reader, p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, fmt.Errorf("the reader panicked: %v", v)
		}
	}()
	for range maxEmptyReads {
		n, err = r.Read(p)
		if n < 0 || n > len(p) {
			return 0, errors.New("the reader returned an impossible count")
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.ErrNoProgress
}

// pump sends what r has, to its end, as the peer gives credit. The error is broker.ErrOver where nobody
// waits for it any more, else the reader's.
func pump(s *broker.Stream, r io.Reader) error {
	for {
		n, err := s.WaitCredit()
		if err != nil {
			return err
		}
		buf := broker.NewBuffer()
		n, err = readSome(r, buf.B[frame.HeaderSize:frame.HeaderSize+n])
		last := err == io.EOF //nolint:errorlint // as io.Reader has it
		switch {
		case last:
			data := buf.B[frame.HeaderSize : frame.HeaderSize+n]
			err = s.Send(frame.Data, frame.FlagEnd, data)
			buf.Release()
		case n > 0:
			if sendErr := s.SendBuffer(buf, n); sendErr != nil {
				err = sendErr
			}
		default:
			buf.Release()
		}
		s.Flush()
		if last || err != nil {
			return err
		}
	}
}
