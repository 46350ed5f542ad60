package sqlite

import (
	"errors"
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
)

// journalDir is the journal's folder, in the data folder.
const journalDir = "journal"

// journal is the log that makes operations durable: a row for each batch. Only the writer uses it.
type journal struct {
	log     *wal.Log
	trimmed uint64 // rows up to here have gone, as far as they can
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

// durable is the number of the last row that is.
func (j *journal) durable() uint64 { return j.log.Durable() }

// append adds a row. After an error no row is left that was not durable before.
func (j *journal) append(row []byte) error {
	_, err := j.log.Append(row)
	if err != nil {
		j.log.Drop()
	}
	return err
}

// sync makes the rows durable. After an error they are gone.
func (j *journal) sync() error {
	err := j.log.Sync()
	if err != nil {
		j.log.Drop()
	}
	return err
}

// trimTo removes rows up to seq, which are in the tables. Where that fails, it is tried again with the next ones: nothing depends on it.
func (j *journal) trimTo(seq uint64) {
	if seq > j.trimmed && j.log.Trim(seq) == nil {
		j.trimmed = seq
	}
}

func (j *journal) close() error { return j.log.Close() }
