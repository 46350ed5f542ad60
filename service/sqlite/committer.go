package sqlite

import (
	"context"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// operation is one thing to do; exactly one of reserveDone, settleDone and sweepDone is set. The
// committer fills in the answer and calls it.
type operation struct {
	key         book.Key
	meta        []byte
	reservation service.Reservation
	settlement  service.Settlement

	reserveDone func(service.Decision, error)
	settleDone  func(service.Receipt, error)
	sweepDone   func(int, error)

	decision service.Decision
	receipt  service.Receipt
	swept    int
	err      error
}

func (op *operation) answer() {
	switch {
	case op.reserveDone != nil:
		op.reserveDone(op.decision, op.err)
	case op.settleDone != nil:
		op.settleDone(op.receipt, op.err)
	default:
		op.sweepDone(op.swept, op.err)
	}
}

// fail gives op an error instead of whatever it had.
func (op *operation) fail(err error) {
	op.decision, op.receipt, op.swept, op.err = service.Decision{}, service.Receipt{}, 0, err
}

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
	ops := make([]*operation, 0, s.opts.MaxBatch)
	for {
		select {
		case op, open := <-s.queue:
			if !open {
				s.foldRest()
				return
			}
			ops = append(ops[:0], op)
			for len(ops) < cap(ops) && len(s.queue) > 0 {
				ops = append(ops, <-s.queue)
			}
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
func (s *Store) commit(ctx context.Context, ops []*operation) {
	s.mu.Lock()
	b := s.state.Begin()
	s.mu.Unlock()
	err := s.lookup(ctx, b, ops)
	if err == nil && s.foldFailing && s.dirt.size() >= s.opts.MaxUnfolded {
		err = fmt.Errorf("the tables have not taken %d changes yet", s.dirt.size())
	}
	if err == nil {
		s.mu.Lock()
		s.apply(b, ops)
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
	s.report(&s.commitFailing, "writing the journal", err)
	if err != nil {
		err = fmt.Errorf("the ledger could not write: %w", err)
		for _, op := range ops {
			op.fail(err)
		}
	} else {
		for i := range b.Accounts {
			s.dirt.addAccount(b.Accounts[i].Account)
		}
		for i := range b.Allocations {
			s.dirt.addAllocation(b.Allocations[i].Allocation)
		}
	}
	for _, op := range ops {
		op.answer()
	}
}

// apply decides ops in order, after the holds whose time is over have ended.
func (s *Store) apply(b *book.Batch, ops []*operation) {
	expired := b.Expire()
	for _, op := range ops {
		switch {
		case op.reserveDone != nil:
			op.decision, op.err = b.Reserve(&op.reservation, op.key, op.meta)
		case op.settleDone != nil:
			op.receipt, op.err = b.Settle(&op.settlement, op.key, op.meta)
		default:
			op.swept, expired = expired, 0
		}
	}
}

// lookup reads those allocations that ops name and that are no longer in memory.
func (s *Store) lookup(ctx context.Context, b *book.Batch, ops []*operation) error {
	if !s.tables.hasAllocs {
		return nil
	}
	keys := s.lookupKeys[:0]
	for _, op := range ops {
		if op.sweepDone == nil && s.state.Allocations[op.key] == nil {
			keys = append(keys, op.key)
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

// report logs when something begins to fail and when it works again.
func (s *Store) report(failing *bool, what string, err error) {
	switch {
	case err != nil && !*failing:
		s.opts.Logger.Error("the ledger is failing", "at", what, "error", err)
	case err == nil && *failing:
		s.opts.Logger.Info("the ledger works again", "at", what)
	}
	*failing = err != nil
}
