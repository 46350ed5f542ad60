package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/internal/intake"
)

// foldInterval is how far the tables may lag, and how often holds expire without traffic.
const foldInterval = time.Second

// committer is the goroutine that decides. It goes on while the writer makes durable what it has decided, and answers then.
func (s *Store) committer(ctx context.Context) {
	defer s.wg.Done()
	defer close(s.foldJobs)
	defer close(s.toWrite)
	defer close(s.ended)
	tick := time.NewTicker(s.opts.foldInterval)
	defer tick.Stop()
	s.startFilter()
	for {
		queue := s.queue.C()
		if len(s.unfinished) == maxDecided {
			queue = nil
		}
		select {
		case op, open := <-queue:
			if !open {
				s.foldRest()
				return
			}
			d := s.newDecided()
			d.ops = s.queue.Next(d.ops, op)
			s.decide(ctx, d)
		case d := <-s.written:
			s.finish(d)
			s.foldIfMany()
		case err := <-s.foldDone:
			s.finishFold(err)
		case f := <-s.filled:
			s.finishFilter(f)
		case answer := <-s.waiters:
			s.wait(answer)
		case <-tick.C:
			if len(s.unfinished) < maxDecided {
				s.decide(ctx, s.newDecided())
			}
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
	s.drain()
	if s.folding != nil {
		s.finishFold(<-s.foldDone)
	}
	s.startFold()
	if s.folding != nil {
		s.finishFold(<-s.foldDone)
	}
	s.answerWaiting(errNotFolded)
}

// newDecided returns one without operations.
func (s *Store) newDecided() *decided {
	if n := len(s.free); n > 0 {
		d := s.free[n-1]
		s.free = s.free[:n-1]
		return d
	}
	return &decided{ops: make([]*intake.Operation, 0, s.opts.MaxBatch)}
}

// decide applies d's operations and hands d to the writer. Later batches see what it has changed before it is durable, so no answer goes out
// before those to all batches before.
func (s *Store) decide(ctx context.Context, d *decided) {
	s.mu.Lock()
	d.batch = s.state.Begin()
	s.mu.Unlock()
	d.round, d.row = s.round, d.row[:0]
	err := s.ready(ctx, d)
	s.readyAlarm.Report(s.opts.Logger, "reading the tables", err)
	if err != nil {
		s.drain() // answers go out in order
		s.reject(d, fmt.Errorf("the ledger could not read: %w", err))
		return
	}
	s.mu.Lock()
	intake.Apply(d.batch, d.ops)
	s.mu.Unlock()
	if !d.batch.Empty() {
		d.row = appendRow(d.row, d.batch, &s.state.Clock)
	}
	first := len(s.unfinished) == 0
	s.unfinished = append(s.unfinished, d)
	if first && len(d.row) == 0 {
		s.finish(d)
		return
	}
	s.toWrite <- d
}

// ready returns an error where d can't be decided now.
func (s *Store) ready(ctx context.Context, d *decided) error {
	if s.foldAlarm.Failing() && s.dirt.size() >= s.opts.MaxUnfolded {
		return fmt.Errorf("the tables have not taken %d changes yet", s.dirt.size())
	}
	return s.lookup(ctx, d.batch, d.ops)
}

// finish answers d, the oldest of the batches that are not finished.
func (s *Store) finish(d *decided) {
	s.commitAlarm.Report(s.opts.Logger, "writing the journal", d.err)
	if d.err != nil {
		s.undo(d.err)
		return
	}
	s.unfinished = slices.Delete(s.unfinished, 0, 1)
	s.mu.Lock()
	s.state.keep(d.batch)
	s.last += uint64(min(1, len(d.row)))
	s.count(d.batch)
	s.mu.Unlock()
	for i := range d.batch.Accounts {
		s.dirt.addAccount(d.batch.Accounts[i].Account)
	}
	for i := range d.batch.Allocations {
		s.dirt.addAllocation(d.batch.Allocations[i].Allocation)
	}
	s.answer(d, nil)
}

// undo takes back the batch that failed, which has come from the writer, and all that were decided on top of it, the last first.
func (s *Store) undo(err error) {
	failed := s.unfinished
	s.unfinished = nil
	for range len(failed) - 1 {
		<-s.written
	}
	s.round++
	s.mu.Lock()
	for _, d := range slices.Backward(failed) {
		d.batch.Undo()
	}
	s.mu.Unlock()
	for _, d := range failed {
		s.reject(d, fmt.Errorf("the ledger could not write: %w", err))
	}
}

// reject answers that nothing of d was carried out.
func (s *Store) reject(d *decided, err error) {
	s.mu.Lock()
	s.counted.Failed += uint64(len(d.ops))
	s.mu.Unlock()
	s.answer(d, err)
}

// answer answers d's operations and puts d aside for its next use.
func (s *Store) answer(d *decided, err error) {
	intake.Answer(d.ops, err)
	clear(d.ops)
	if cap(d.row) > maxKeptRow {
		d.row = nil
	}
	d.ops, d.batch, d.err = d.ops[:0], nil, nil
	s.free = append(s.free, d)
}

// drain waits until everything that is decided is durable, or has failed.
func (s *Store) drain() {
	for len(s.unfinished) > 0 {
		s.finish(<-s.written)
	}
}

// lookup reads those allocations that ops name and that are no longer in memory.
func (s *Store) lookup(ctx context.Context, b *book.Batch, ops []*intake.Operation) error {
	keys := s.lookupKeys[:0]
	for _, op := range ops {
		if !op.IsSweep() && s.state.Allocation(op.Key) == nil && s.inTables(&op.Key) {
			keys = append(keys, op.Key)
		}
	}
	s.lookupKeys = keys
	if len(keys) == 0 {
		return nil
	}
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
func (s *Store) count(b *book.Batch) {
	if !b.Empty() {
		s.counted.Commits++
	}
	s.counted.Add(&b.Counted)
}
