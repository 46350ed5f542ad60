package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/internal/intake"
)

// foldInterval is how far the tables may lag, and how often holds expire without traffic.
const foldInterval = time.Second

// committer is the goroutine that decides. Whatever is queued while one batch is being made durable
// becomes the next batch.
func (s *Store) committer(ctx context.Context) {
	defer s.wg.Done()
	defer close(s.foldJobs)
	defer close(s.ended)
	tick := time.NewTicker(foldInterval)
	defer tick.Stop()
	ops := make([]*intake.Operation, 0, s.opts.MaxBatch)
	for {
		select {
		case op, open := <-s.queue.C():
			if !open {
				s.foldRest()
				return
			}
			ops = s.queue.Next(ops, op)
			s.commit(ctx, ops)
			clear(ops)
			s.foldIfMany()
		case err := <-s.foldDone:
			s.finishFold(err)
		case answer := <-s.waiters:
			s.wait(answer)
		case <-tick.C:
			s.commit(ctx, nil)
			s.startFold()
		}
	}
}

// foldIfMany keeps what is not folded within its bounds, in memory and in the journal.
func (s *Store) foldIfMany() {
	if s.dirt.size() >= s.opts.FoldAfter {
		s.startFold()
	}
	if s.folding != nil && s.dirt.size()+s.folding.size() >= s.opts.MaxUnfolded {
		s.finishFold(<-s.foldDone)
	}
}

// foldRest leaves the tables complete for the next start.
func (s *Store) foldRest() {
	if s.folding != nil {
		s.finishFold(<-s.foldDone)
	}
	s.startFold()
	if s.folding != nil {
		s.finishFold(<-s.foldDone)
	}
	s.answerWaiting(errNotFolded)
}

// commit applies ops in one transaction and answers them when it is durable.
func (s *Store) commit(ctx context.Context, ops []*intake.Operation) {
	s.mu.Lock()
	b := s.state.Begin()
	s.mu.Unlock()
	err := s.lookup(ctx, b, ops)
	if err == nil && s.foldAlarm.Failing() && s.dirt.size() >= s.opts.MaxUnfolded {
		err = fmt.Errorf("the tables have not taken %d changes yet", s.dirt.size())
	}
	if err == nil {
		s.mu.Lock()
		intake.Apply(b, ops)
		s.mu.Unlock()
		if !b.Empty() {
			err = s.journal.append(ctx, b, &s.state.Clock)
		}
	}
	s.mu.Lock()
	if err != nil {
		b.Undo()
	} else {
		s.state.keep(b)
	}
	s.count(b, len(ops), err)
	s.mu.Unlock()
	s.commitAlarm.Report(s.opts.Logger, "writing the journal", err)
	if err != nil {
		err = fmt.Errorf("the ledger could not write: %w", err)
	} else {
		for i := range b.Accounts {
			s.dirt.addAccount(b.Accounts[i].Account)
		}
		for i := range b.Allocations {
			s.dirt.addAllocation(b.Allocations[i].Allocation)
		}
	}
	intake.Answer(ops, err)
}

// lookup reads those allocations that ops name and that are no longer in memory.
func (s *Store) lookup(ctx context.Context, b *book.Batch, ops []*intake.Operation) error {
	if !s.tables.hasAllocs {
		return nil
	}
	keys := s.lookupKeys[:0]
	for _, op := range ops {
		if !op.IsSweep() && s.state.Allocation(op.Key) == nil {
			keys = append(keys, op.Key)
		}
	}
	s.lookupKeys = keys
	return s.tables.lookup(ctx, keys, func(coded *book.Coded) error {
		al, err := coded.Link(s.state.account)
		if err != nil {
			return err
		}
		if b.Cold == nil {
			b.Cold = map[book.Key]*book.Allocation{}
		}
		b.Cold[al.Key] = al
		return nil
	})
}

// count adds what b did to the store's counters; the caller holds mu.
func (s *Store) count(b *book.Batch, ops int, err error) {
	c := &s.counted
	if err != nil {
		c.Failed += uint64(ops)
		return
	}
	if !b.Empty() {
		c.Commits++
	}
	c.Add(&b.Counted)
}
