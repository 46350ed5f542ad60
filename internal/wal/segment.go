package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
)

// newName is that of a segment that is not ready yet.
const newName = "new"

// zeros is what segments are filled with, piece by piece.
var zeros [256 << 10]byte

// begin makes the records so far durable and begins a segment of that many bytes.
func (l *Log) begin(size int) error {
	if err := l.Sync(); err != nil {
		return err
	}
	if err := l.closeFile(); err != nil {
		return err
	}
	s := segment{l.next, size, size == l.size}
	h := header{l.next, rand.Uint64()}
	if err := l.prepare(s.name(), h, size); err != nil {
		return fmt.Errorf("begin a segment of the log: %w", err)
	}
	f, err := l.files.Open(s.name(), false)
	if err != nil {
		return err
	}
	if n := len(l.segments); n > 0 && l.segments[n-1].first == s.first {
		l.segments = l.segments[:n-1] // it was begun before, and never had a record
	}
	l.segments = append(l.segments, s)
	l.file, l.seed, l.end, l.capacity = f, h.seed(), segmentHeader, size
	return nil
}

// prepare makes a durable file of that name, with a header. It has another name until it is ready, so that no file without a
// header has this one.
func (l *Log) prepare(name string, h header, size int) error {
	made := newName
	if l.spare && size == l.size {
		made, l.spare = spareName, false // whatever happens to it now
	}
	f, err := l.files.Open(made, made == newName)
	if err != nil {
		return err
	}
	if made == newName {
		err = fill(f, size)
	}
	if err == nil {
		_, err = f.WriteAt(h.encode(), 0)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, l.files.Remove(made)) // it may have filled the disk
	}
	if err := l.files.Rename(made, name); err != nil {
		return err
	}
	return l.files.Sync()
}

func fill(f File, size int) error {
	for at := 0; at < size; at += len(zeros) {
		if _, err := f.WriteAt(zeros[:min(len(zeros), size-at)], int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// closeFile closes the last segment. What was dropped is cut off, so that it does not stand before the next segment's records.
func (l *Log) closeFile() error {
	if l.file == nil {
		return nil
	}
	if l.dropped {
		if err := l.file.Truncate(int64(l.end)); err != nil {
			return err
		}
		if err := l.file.Sync(); err != nil {
			return err
		}
		last := &l.segments[len(l.segments)-1]
		l.dropped, last.whole, last.size = false, false, l.end
	}
	f := l.file
	l.file = nil
	return f.Close()
}

// remove removes the oldest segment, or keeps its file for a new one. It is durably gone before the next one goes, so that no crash
// leaves a gap, and before its file is used again, so that none finds the new segment under the old name.
func (l *Log) remove(s segment) error {
	var err error
	keep := s.whole && !l.spare
	if keep {
		err = l.files.Rename(s.name(), spareName)
	} else {
		err = l.files.Remove(s.name())
	}
	gone := errors.Is(err, fs.ErrNotExist) // an earlier try got that far
	if gone {
		err = nil
	}
	if err = errors.Join(err, l.files.Sync()); err != nil {
		return err
	}
	l.spare = l.spare || keep && !gone
	return nil
}
