package socket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// inMemory returns how many bytes r holds, where r is one that has them all, so that it neither waits nor fails.
func inMemory(r io.Reader) (size int, ok bool) {
	switch r := r.(type) {
	case *bytes.Reader:
		if r != nil {
			size, ok = r.Len(), true
		}
	case *bytes.Buffer:
		if r != nil {
			size, ok = r.Len(), true
		}
	case *strings.Reader:
		if r != nil {
			size, ok = r.Len(), true
		}
	case requestBody:
		return r.stream.Whole()
	case *answer:
		return r.stream.Whole()
	}
	return size, ok && size >= 0 // less is what a buffer says that another goroutine uses
}

// readFull fills p from one of those readers. An error says that somebody else has read from it, or closed it.
func readFull(r io.Reader, p []byte) (n int, err error) {
	defer func() {
		if v := recover(); v != nil {
			n, err = 0, fmt.Errorf("the reader panicked: %v", v)
		}
	}()
	return io.ReadFull(r, p)
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

// smallReads are what a pump reads into while it does not know that there is more.
var smallReads = sync.Pool{New: func() any { return new([4 << 10]byte) }}

// pump sends what r has, to its end, as the peer gives credit. The error is broker.ErrOver where nobody
// waits for it any more, else the reader's. While r makes it wait it holds 4 KiB, if r gave less last.
func pump(s *broker.Stream, r io.Reader) error {
	small := smallReads.Get().(*[4 << 10]byte)
	defer smallReads.Put(small)
	for much := false; ; {
		credit, err := s.WaitCredit()
		if err != nil {
			return err
		}
		var n int
		if much {
			n, err = pumpLarge(s, r, credit)
		} else {
			n, err = readSome(r, small[:min(credit, len(small))])
			err = sendRead(s, small[:n], err)
		}
		much = n >= len(small)
		s.Flush()
		if err != nil {
			return pumpEnd(err)
		}
	}
}

// pumpEnd returns what pump returns for an error of reading.
func pumpEnd(err error) error {
	if err == io.EOF { //nolint:errorlint // as io.Reader has it
		return nil
	}
	return err
}

// pumpLarge reads up to credit bytes into a buffer that is sent as it is.
func pumpLarge(s *broker.Stream, r io.Reader, credit int) (int, error) {
	buf := broker.NewBuffer()
	n, err := readSome(r, buf.B[frame.HeaderSize:frame.HeaderSize+credit])
	if n > 0 && err == nil {
		return n, s.SendBuffer(buf, n)
	}
	err = sendRead(s, buf.B[frame.HeaderSize:frame.HeaderSize+n], err)
	buf.Release()
	return n, err
}

// sendRead sends a copy of what was read with err, and returns err or why it could not.
func sendRead(s *broker.Stream, data []byte, err error) error {
	var flags frame.Flags
	if err == io.EOF { //nolint:errorlint // as io.Reader has it
		flags = frame.FlagEnd
	}
	if flags == 0 && len(data) == 0 {
		return err
	}
	if sendErr := s.Send(frame.Data, flags, data); sendErr != nil {
		return sendErr
	}
	return err
}
