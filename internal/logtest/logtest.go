// Package logtest holds what tests need to read a log.
package logtest

import (
	"bytes"
	"strings"
	"sync"
)

// Buffer is a log that may be read while it is written. The zero value is empty. It is safe for concurrent use.
type Buffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Count is how often text is in the log.
func (b *Buffer) Count(text string) int { return strings.Count(b.String(), text) }
