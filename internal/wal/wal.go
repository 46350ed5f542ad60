package wal

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// DefaultSegment is the size of segments where Options say nothing.
const DefaultSegment = 8 << 20

// maxKept is how many bytes of memory a log keeps for its next records.
const maxKept = 1 << 20

// Options configure a Log.
type Options struct {
	// Files is the folder.
	Files Files
	// Segment is the size of a segment in bytes, DefaultSegment by default. A record that is larger gets one of its own.
	Segment int
}

// Log is a write-ahead log. It is for one goroutine at a time.
type Log struct {
	files Files
	size  int // of a new segment

	segments []segment // with records, the oldest first
	spare    bool      // there is a segment to be used again
	file     File      // of the last segment; nil where a new one is due
	seed     uint32    // its
	end      int       // of its records that are durable; unsynced goes there
	capacity int       // of its file
	dropped  bool      // there may be more after end

	next     uint64
	durable  uint64 // the last record that is
	unsynced []byte // records
	flushed  int    // how many bytes of unsynced the operating system has
}

type segment struct {
	first uint64
	size  int  // of its file
	whole bool // it has its full size, so that it can be used again
}

const (
	suffix    = ".wal"
	spareName = "spare"
)

func (s segment) name() string { return fmt.Sprintf("%020d%s", s.first, suffix) }

// Open opens the log in opts.Files and calls each with every record. The data is each's to keep. Records are numbered from 1 on,
// or from where the log was trimmed.
func Open(opts Options, each func(number uint64, data []byte) error) (*Log, error) {
	l := &Log{files: opts.Files, size: cmp.Or(opts.Segment, DefaultSegment), next: 1}
	if err := l.list(); err != nil {
		return nil, err
	}
	for i := 0; i < len(l.segments); i++ {
		last := i == len(l.segments)-1
		if err := l.read(&l.segments[i], i == 0, last, each); err != nil {
			return nil, fmt.Errorf("%s: %w", l.segments[i].name(), err)
		}
	}
	l.segments = slices.DeleteFunc(l.segments, func(s segment) bool { return s.first == l.next }) // it was empty
	l.durable = l.next - 1
	return l, nil
}

// list finds the segments.
func (l *Log) list() error {
	names, err := l.files.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == spareName {
			data, err := l.files.Read(name)
			if err == nil && len(data) != l.size {
				err = l.files.Remove(name)
			}
			if err != nil {
				return err
			}
			l.spare = len(data) == l.size
		}
		number, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		first, err := strconv.ParseUint(number, 10, 64)
		if err != nil || (segment{first: first}).name() != name {
			return fmt.Errorf("%s is no file of the log", name)
		}
		l.segments = append(l.segments, segment{first: first})
	}
	slices.SortFunc(l.segments, func(a, b segment) int { return cmp.Compare(a.first, b.first) })
	return nil
}

// read reads a segment. The last one is cut off where its records end: the next record goes into a new segment, whose salt tells
// it from what may be left of records that a crash has torn.
func (l *Log) read(s *segment, first, last bool, each func(uint64, []byte) error) error {
	data, err := l.files.Read(s.name())
	if err != nil {
		return err
	}
	if !first && s.first != l.next {
		return fmt.Errorf("%w: records %d to %d are missing", ErrDamaged, l.next, s.first-1)
	}
	h, ok := decodeHeader(data)
	if !ok || h.first != s.first {
		return fmt.Errorf("%w: it has no header", ErrDamaged)
	}
	next, end, err := scan(data, h, each)
	if err != nil {
		return err
	}
	l.next, s.size = next, len(data)
	if !last || end == len(data) {
		return nil
	}
	if next == s.first {
		return l.files.Remove(s.name())
	}
	s.size = end
	return l.cut(s.name(), end)
}

func (l *Log) cut(name string, end int) error {
	f, err := l.files.Open(name, false)
	if err != nil {
		return err
	}
	if err := f.Truncate(int64(end)); err != nil {
		return errors.Join(err, f.Close())
	}
	return errors.Join(f.Sync(), f.Close())
}

// First is the number of the first record in the log's files, or the one that the next will have.
func (l *Log) First() uint64 {
	if len(l.segments) == 0 {
		return l.next
	}
	return l.segments[0].first
}

// Last is the number of the last record, or the one before the first.
func (l *Log) Last() uint64 { return l.next - 1 }

// Durable is the number of the last record that a Sync has confirmed, or the one before the first.
func (l *Log) Durable() uint64 { return l.durable }

// Size is how many bytes the log's files take.
func (l *Log) Size() int64 {
	size := int64(0)
	for _, s := range l.segments {
		size += int64(s.size)
	}
	if l.spare {
		size += int64(l.size)
	}
	return size
}

// SizeWith is the size with a further record of n bytes.
func (l *Log) SizeWith(n int) int64 {
	size := max(l.size, segmentHeader+recordSize(n))
	if l.fits(n) || (l.spare && size == l.size) {
		return l.Size()
	}
	return l.Size() + int64(size)
}

// fits reports whether a record of n bytes goes into the last segment.
func (l *Log) fits(n int) bool {
	return l.file != nil && l.end+len(l.unsynced)+recordSize(n) <= l.capacity
}

// Append adds a record and returns its number. On an error there is no record.
func (l *Log) Append(data []byte) (number uint64, err error) {
	if len(data) > MaxRecord {
		return 0, fmt.Errorf("a record of %d bytes is too large", len(data))
	}
	if !l.fits(len(data)) {
		if err := l.begin(max(l.size, segmentHeader+recordSize(len(data)))); err != nil {
			return 0, err
		}
	}
	l.unsynced = appendRecord(l.unsynced, l.seed, l.next, l.durable, data)
	l.next++
	return l.next - 1, nil
}

// Flush hands the records to the operating system: they outlive the process.
func (l *Log) Flush() error {
	if l.flushed == len(l.unsynced) {
		return nil
	}
	if _, err := l.file.WriteAt(l.unsynced[l.flushed:], int64(l.end+l.flushed)); err != nil {
		return err
	}
	l.flushed = len(l.unsynced)
	return nil
}

// Sync makes the records durable. After an error they are still in the log, and the next Sync writes them again: the
// operating system may have dropped what it could not write.
func (l *Log) Sync() error {
	if len(l.unsynced) == 0 {
		return nil
	}
	if err := l.Flush(); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		l.flushed = 0
		return err
	}
	l.end += len(l.unsynced)
	l.clear()
	l.durable = l.next - 1
	return nil
}

// Drop takes the records that no Sync has confirmed out of the log. After a crash they may be there all the same, until the next
// record is: it begins a new segment, so that none of them can be read as the one that follows it.
func (l *Log) Drop() {
	if len(l.unsynced) > 0 {
		l.dropped, l.capacity = true, 0
	}
	l.next = l.durable + 1
	l.clear()
}

// clear empties unsynced, whose memory is kept unless it is much.
func (l *Log) clear() {
	if cap(l.unsynced) > maxKept {
		l.unsynced = nil
	}
	l.unsynced, l.flushed = l.unsynced[:0], 0
}

// Oldest is the number of the last record in the oldest segment: Trim removes no less than those up to it.
func (l *Log) Oldest() uint64 { return l.SegmentEnd(0) }

// SegmentEnd is the number of the last record in the segment of the given one.
func (l *Log) SegmentEnd(number uint64) uint64 {
	for i := 1; i < len(l.segments); i++ {
		if first := l.segments[i].first; first > number {
			return first - 1
		}
	}
	return l.next - 1
}

// Read calls each with the records from the given number to the last one of its segment that Flush has handed over, and returns the number
// after that. The data is each's to keep.
func (l *Log) Read(from uint64, each func(number uint64, data []byte) error) (next uint64, err error) {
	i := len(l.segments) - 1
	for i >= 0 && l.segments[i].first > from {
		i--
	}
	if i < 0 {
		return from, fmt.Errorf("record %d is not in the log", from)
	}
	s := l.segments[i]
	data, err := l.files.Read(s.name())
	if err != nil {
		return from, err
	}
	h, ok := decodeHeader(data)
	if !ok || h.first != s.first {
		return from, fmt.Errorf("%s: %w: it has no header", s.name(), ErrDamaged)
	}
	next, _, err = scan(data, h, func(number uint64, data []byte) error {
		if number < from {
			return nil
		}
		return each(number, data)
	})
	if err == nil && i < len(l.segments)-1 && next != l.segments[i+1].first {
		err = fmt.Errorf("%w: records %d to %d can't be read", ErrDamaged, next, l.segments[i+1].first-1)
	}
	if err != nil {
		return next, fmt.Errorf("%s: %w", s.name(), err)
	}
	return next, nil
}

// Trim says that records up to the number are no longer needed. Those that share a segment with later ones stay.
func (l *Log) Trim(number uint64) error {
	for len(l.segments) > 1 && l.segments[1].first <= number+1 {
		if err := l.remove(l.segments[0]); err != nil {
			return err
		}
		l.segments = slices.Delete(l.segments, 0, 1)
	}
	return nil
}

// Skip gives the next record a number that is higher than the log has come. It removes all records.
func (l *Log) Skip(number uint64) error {
	if number <= l.next {
		return nil
	}
	if err := l.closeFile(); err != nil {
		return err
	}
	for len(l.segments) > 0 {
		if err := l.remove(l.segments[0]); err != nil {
			return err
		}
		l.segments = slices.Delete(l.segments, 0, 1)
	}
	l.next, l.durable = number, number-1
	return nil
}

// Close makes all records durable and closes the files.
func (l *Log) Close() error { return errors.Join(l.Sync(), l.closeFile()) }
