package socket

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// panics is a reader as goroutines leave a buffer that use it at once.
type panics struct{}

func (panics) Read([]byte) (int, error) { panic("the offset is no place in the buffer") }

func TestReadersThatOthersUse(t *testing.T) {
	if n, err := readFull(panics{}, make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("readFull: got %d, %v, want an error", n, err)
	}
	if n, err := readSome(panics{}, make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("readSome: got %d, %v, want an error", n, err)
	}
	if n, err := readFull(strings.NewReader("short"), make([]byte, 6)); n != 5 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("readFull of a reader that was read meanwhile: got %d, %v", n, err)
	}
}

func TestInMemory(t *testing.T) {
	for name, test := range map[string]struct {
		r    io.Reader
		size int
		ok   bool
	}{
		"bytes.Reader":     {bytes.NewReader([]byte("12345")), 5, true},
		"bytes.Buffer":     {bytes.NewBufferString("12345"), 5, true},
		"strings.Reader":   {strings.NewReader(""), 0, true},
		"another":          {io.LimitReader(strings.NewReader("12345"), 3), 0, false},
		"nil bytes.Reader": {(*bytes.Reader)(nil), 0, false},
		"nil bytes.Buffer": {(*bytes.Buffer)(nil), 0, false},
	} {
		if size, ok := inMemory(test.r); size != test.size || ok != test.ok {
			t.Errorf("%s: got %d, %v, want %d, %v", name, size, ok, test.size, test.ok)
		}
	}
}
