package sqlite

import (
	"errors"
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// journalDir is the journal's folder, in the data folder.
const journalDir = "journal"

// journal is the log that makes operations durable: a row for each batch. Only the committer uses it.
type journal struct {
	log    *wal.Log
	trimTo uint64 // rows up to here are in the tables and may go
	buf    []byte
}

// openJournal calls apply with each row after seq, in order; the next row will have a number that is higher than seq.
func openJournal(opts wal.Options, seq uint64, apply func(*row) error) (*journal, error) {
	log, err := wal.Open(opts, func(number uint64, data []byte) error {
		if number <= seq {
			return nil
		}
		if number != seq+1 {
			return fmt.Errorf("%w: row %d is missing", errBadRow, seq+1)
		}
		seq = number
		r, err := decodeRow(data)
		if err != nil {
			return err
		}
		return apply(r)
	})
	if err != nil {
		return nil, fmt.Errorf("the journal: %w", err)
	}
	if err := log.Skip(seq + 1); err != nil {
		return nil, errors.Join(fmt.Errorf("the journal: %w", err), log.Close())
	}
	return &journal{log: log}, nil
}

// last is the number of the last row.
func (j *journal) last() uint64 { return j.log.Last() }

// append makes b durable; the error says that it is not.
func (j *journal) append(b *book.Batch, c *book.Clock) error {
	if err := j.trim(); err != nil {
		return err
	}
	j.buf = appendRow(j.buf[:0], b, c)
	_, err := j.log.Append(j.buf)
	if err == nil {
		err = j.log.Sync()
	}
	if err != nil {
		j.log.Drop()
	}
	return err
}

func (j *journal) trim() error {
	if j.trimTo == 0 {
		return nil
	}
	err := j.log.Trim(j.trimTo)
	if err == nil {
		j.trimTo = 0
	}
	return err
}

func (j *journal) close() error { return errors.Join(j.trim(), j.log.Close()) }
