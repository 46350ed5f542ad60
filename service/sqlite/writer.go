package sqlite

import (
	"errors"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/internal/intake"
)

// maxDecided is how many batches may be decided and not durable yet.
const maxDecided = 64

// maxKeptRow is the largest buffer of a row, in bytes, that is kept for the next one.
const maxKeptRow = 1 << 20

// decided is a batch on its way to the journal. The committer makes it, the writer sets err, and the committer finishes it.
type decided struct {
	batch *book.Batch
	ops   []*intake.Operation
	row   []byte // for the journal; empty where the batch has changed nothing
	round uint64
	err   error
}

var errEarlierBatch = errors.New("a batch before this one could not be written")

// writer makes decided batches durable, as many with one sync as there are; it is the second of the store's goroutines. Batches
// are decided on top of those before them, so where one fails, all others of its round do.
func (s *Store) writer() {
	defer s.wg.Done()
	var failed uint64
	group := make([]*decided, 0, maxDecided)
	for d := range s.toWrite {
		group = append(group[:0], d)
		for len(group) < cap(group) && len(s.toWrite) > 0 {
			group = append(group, <-s.toWrite)
		}
		done, err := 0, errEarlierBatch
		if group[0].round != failed {
			done, err = s.write(group)
		}
		for i, d := range group {
			if d.err = nil; i >= done {
				d.err, failed = err, d.round
			}
			s.written <- d
		}
	}
}

// write makes the batches of group durable, in order, and returns how many are. An error is that of the next one.
func (s *Store) write(group []*decided) (done int, err error) {
	s.journal.trimTo(s.mayTrim.Load())
	before := s.journal.durable()
	for _, d := range group {
		if len(d.row) > 0 && err == nil {
			err = s.journal.append(d.row)
		}
	}
	if err == nil {
		err = s.journal.sync()
	}
	if err == nil {
		return len(group), nil
	}
	// A row that begins a segment of the log makes those before it durable first.
	rows := s.journal.durable() - before
	for done < len(group) && (len(group[done].row) == 0 || rows > 0) {
		rows -= uint64(min(1, len(group[done].row)))
		done++
	}
	return done, err
}
