// Package diskqueue is a queue in a folder. Its entries outlive the process, and are taken out one by one, in any order.
//
// It is a write-ahead log (package wal) of entries, of what was taken out, and of entries that were written anew because they
// were the last in an old part of the log. An entry's number is that of its record.
package diskqueue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
)

// ErrFull is returned by Append where the queue would take more than Options.MaxBytes.
var ErrFull = errors.New("the queue is full")

// Options configure a Queue.
type Options struct {
	// Dir is the folder, which is made if it is not there. One queue at a time can have it.
	Dir string
	// MaxBytes bounds the size of the files, which is at least four segments.
	MaxBytes int64
	// Segment is the size of a file in bytes.
	Segment int
}

// Queue is a queue on disk. It is for one goroutine at a time.
type Queue struct {
	opts    Options
	unlock  func() error
	log     *wal.Log
	open    numberSet
	removed []uint64 // entries that are out, which the log does not say yet
	aside   string   // where damaged files went
	buf     []byte
	dirty   bool   // there are records that were not synced
	flushed uint64 // the last record that the operating system has

	entries, bytes int64 // that were written, to know how large they are
}

// Kinds of records, each the first byte of one.
const (
	kindEntry    = 'e' // data
	kindReplaced = 'r' // the number of the entry that it takes the place of; data
	kindRemoved  = 'x' // numbers, each as the difference to the one before
)

// Open opens the queue in the folder. Where files are damaged, they are put aside, and what can be read of them is in the queue.
func Open(opts Options) (*Queue, error) {
	q := &Queue{opts: opts}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if q.unlock, err = wal.Lock(opts.Dir); err != nil {
		return nil, err
	}
	q.log, err = q.openLog(opts.Dir, q.replay)
	if errors.Is(err, wal.ErrDamaged) {
		err = q.putAside()
	}
	if err == nil {
		err = q.salvage()
	}
	if err != nil {
		return nil, errors.Join(err, q.unlock())
	}
	q.flushed = q.log.Last()
	return q, nil
}

func (q *Queue) openLog(dir string, each func(uint64, []byte) error) (*wal.Log, error) {
	return wal.Open(wal.Options{Files: wal.Dir(dir), Segment: q.opts.Segment}, each)
}

var errMalformed = fmt.Errorf("%w: it holds a record of another kind", wal.ErrDamaged)

// replay does what a record says.
func (q *Queue) replay(number uint64, record []byte) error {
	kind, data, replaced, err := parse(record)
	if err != nil {
		return err
	}
	switch kind {
	case kindRemoved:
		n := uint64(0)
		for len(data) > 0 {
			difference, size := binary.Uvarint(data)
			if size <= 0 {
				return errMalformed
			}
			n, data = n+difference, data[size:]
			q.open.remove(n)
		}
	default:
		q.open.remove(replaced)
		q.open.add(number)
	}
	return nil
}

// parse takes a record apart.
func parse(record []byte) (kind byte, data []byte, replaced uint64, err error) {
	if len(record) == 0 {
		return 0, nil, 0, errMalformed
	}
	kind, data = record[0], record[1:]
	switch kind {
	case kindEntry, kindRemoved:
		return kind, data, 0, nil
	case kindReplaced:
		replaced, size := binary.Uvarint(data)
		if size > 0 {
			return kind, data[size:], replaced, nil
		}
	}
	return 0, nil, 0, errMalformed
}

// salvagedName is the file in a folder of damaged files which says that what can be read of them is in the queue.
const salvagedName = "salvaged"

// putAside puts damaged files into a folder of their own, and begins a new log.
func (q *Queue) putAside() error {
	aside := filepath.Join(q.opts.Dir, asidePrefix+time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return err
	}
	files, err := wal.Dir(q.opts.Dir).Names()
	if err != nil {
		return err
	}
	for _, name := range files {
		if !strings.HasSuffix(name, ".wal") {
			continue
		}
		if err := os.Rename(filepath.Join(q.opts.Dir, name), filepath.Join(aside, name)); err != nil {
			return err
		}
	}
	q.open = numberSet{}
	q.log, err = q.openLog(q.opts.Dir, q.replay)
	return err
}

const asidePrefix = "damaged-"

// salvage takes what can be read of files that were put aside, now or by an earlier process that did not get so far.
func (q *Queue) salvage() error {
	names, err := wal.Dir(q.opts.Dir).Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		aside := filepath.Join(q.opts.Dir, name)
		done := filepath.Join(aside, salvagedName)
		if _, err := os.Stat(done); !strings.HasPrefix(name, asidePrefix) || err == nil {
			continue
		}
		if err := q.salvageFrom(aside); err != nil {
			return fmt.Errorf("%s: %w", aside, err)
		}
		if err := os.WriteFile(done, nil, 0o600); err != nil {
			return err
		}
		q.aside = aside
	}
	return nil
}

// salvageFrom takes what can be read of the files in a folder, each up to its damage.
func (q *Queue) salvageFrom(aside string) error {
	names, err := wal.Dir(aside).Names()
	if err != nil {
		return err
	}
	slices.Sort(names) // by their first records
	had := Queue{opts: q.opts}
	for _, name := range names {
		had.readAside(aside, name, had.replay)
	}
	var failed error
	for _, name := range names {
		had.readAside(aside, name, func(number uint64, record []byte) error {
			_, data, _, err := parse(record)
			if err == nil && had.open.has(number) {
				_, failed = q.append(kindEntry, 0, data)
				err = failed
			}
			return err
		})
		if failed != nil {
			return failed
		}
	}
	return q.Sync()
}

// readAside reads one file, and leaves it as it is. How it ends does not matter: it is damaged, or others are.
func (q *Queue) readAside(dir, name string, each func(uint64, []byte) error) {
	if strings.HasSuffix(name, ".wal") {
		_, _ = wal.Open(wal.Options{Files: asideFile{wal.Dir(dir), name}, Segment: q.opts.Segment}, each)
	}
}

// asideFile is one file of a folder, which can't be changed.
type asideFile struct {
	wal.Dir
	name string
}

func (f asideFile) Names() ([]string, error) { return []string{f.name}, nil }

func (f asideFile) Open(string, bool) (wal.File, error) { return nil, fs.ErrPermission }

func (f asideFile) Remove(string) error { return fs.ErrPermission }

// Aside is the folder that damaged files were put into, "" where none were damaged.
func (q *Queue) Aside() string { return q.aside }

// Len is the number of entries.
func (q *Queue) Len() int { return q.open.count }

// Last is the highest number that an entry in the folder may have.
func (q *Queue) Last() uint64 { return q.flushed }

// Append adds an entry and returns its number. It is in the folder once Flush has returned.
func (q *Queue) Append(data []byte) (number uint64, err error) {
	if q.log.SizeWith(1+len(data)) > q.opts.MaxBytes-int64(q.opts.Segment) { // the last one is for what is taken out
		return 0, ErrFull
	}
	return q.append(kindEntry, 0, data)
}

// Replace puts data in the place of an entry, at the end of the queue.
func (q *Queue) Replace(old uint64, data []byte) (number uint64, err error) {
	number, err = q.append(kindReplaced, old, data)
	if err == nil {
		q.open.remove(old)
	}
	return number, err
}

func (q *Queue) append(kind byte, old uint64, data []byte) (number uint64, err error) {
	q.buf = append(q.buf[:0], kind)
	if kind == kindReplaced {
		q.buf = binary.AppendUvarint(q.buf, old)
	}
	q.buf = append(q.buf, data...)
	if number, err = q.log.Append(q.buf); err != nil {
		return 0, err
	}
	q.open.add(number)
	q.entries, q.bytes, q.dirty = q.entries+1, q.bytes+int64(len(q.buf)), true
	return number, nil
}

// Remove takes entries out. A crash before the next Flush brings them back.
func (q *Queue) Remove(numbers ...uint64) {
	for _, n := range numbers {
		if q.open.remove(n) {
			q.removed = append(q.removed, n)
		}
	}
}

// Flush hands what was added and taken out to the operating system: it outlives the process. After an error, the next Flush tries it again.
func (q *Queue) Flush() error {
	if len(q.removed) > 0 {
		slices.Sort(q.removed)
		q.buf = append(q.buf[:0], kindRemoved)
		before := uint64(0)
		for _, n := range q.removed {
			q.buf = binary.AppendUvarint(q.buf, n-before)
			before = n
		}
		if _, err := q.log.Append(q.buf); err != nil {
			return errors.Join(err, q.flush())
		}
		q.removed, q.dirty = q.removed[:0], true
	}
	return q.flush()
}

func (q *Queue) flush() error {
	if err := q.log.Flush(); err != nil {
		return err
	}
	q.flushed = q.log.Last()
	return nil
}

// lowest is the lowest number of an entry, or the one that the next will have.
func (q *Queue) lowest() uint64 {
	if n, ok := q.open.lowest(); ok {
		return n
	}
	return q.log.Last() + 1
}

// Sync makes all of it outlive the machine, and gives back the part of the disk that is no longer needed.
func (q *Queue) Sync() error {
	unflushed := q.Flush() // where the disk is full, what is trimmed makes room for it
	if err := q.log.Sync(); err != nil {
		return errors.Join(unflushed, err)
	}
	q.dirty = false
	if err := q.log.Trim(q.lowest() - 1); err != nil {
		return errors.Join(unflushed, err)
	}
	if first := q.log.First(); unflushed != nil {
		q.removed = slices.DeleteFunc(q.removed, func(n uint64) bool { return n < first })
	}
	return unflushed
}

// Dirty reports whether there is anything to sync.
func (q *Queue) Dirty() bool { return q.dirty || len(q.removed) > 0 }

// Read calls each with entries from the given number on, as long as it returns true, and returns the number to go on from. It stops now and then
// by itself: it has come to the end when that number is above Last. The data is each's to keep.
func (q *Queue) Read(from uint64, each func(number uint64, data []byte) bool) (next uint64, err error) {
	if from = max(from, q.lowest()); from > q.flushed {
		return from, nil
	}
	stop := errors.New("stop")
	next, err = q.log.Read(from, func(number uint64, record []byte) error {
		if !q.open.has(number) {
			return nil
		}
		_, data, _, err := parse(record)
		if err == nil && !each(number, data) {
			return stop
		}
		return err
	})
	if errors.Is(err, stop) {
		return next + 1, nil
	}
	return next, err
}

// Discard takes out the entries from the number to the end of its file, of which Read says that they can't be read, and returns how many they were
// and the number to go on from.
func (q *Queue) Discard(from uint64) (count int, next uint64) {
	next = max(q.log.SegmentEnd(from), from) + 1
	for n := from; n < next; n++ {
		if q.open.has(n) {
			q.Remove(n)
			count++
		}
	}
	return count, next
}

// Sparse reports whether most of the disk that the queue takes is for entries that are out, and if so, the number up to which entries are to be
// replaced to change that.
func (q *Queue) Sparse() (upTo uint64, sparse bool) {
	size := q.log.Size()
	if q.open.count == 0 || size <= int64(4*q.opts.Segment) {
		return 0, false
	}
	return q.log.Oldest(), int64(q.open.count)*(q.bytes/max(q.entries, 1)+32) < size/4
}

// Size is how many bytes the queue takes on disk.
func (q *Queue) Size() int64 { return q.log.Size() }

// Close syncs and closes the queue.
func (q *Queue) Close() error { return errors.Join(q.Sync(), q.log.Close(), q.unlock()) }
