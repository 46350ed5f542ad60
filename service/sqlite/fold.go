package sqlite

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// foldJob is what the folder writes into the tables: copies, because the committer goes on meanwhile.
type foldJob struct {
	seq      uint64 // the last journal row that the job contains
	age      time.Duration
	wall     int64
	now      time.Time
	accounts []foldedAccount
	allocs   []foldedAllocation
}

type foldedAccount struct {
	*book.Account
	sums     book.Sums
	counters []byte
}

type foldedAllocation struct {
	*book.Allocation
	now   book.Progress
	fresh bool // not in the tables yet
}

func (j *foldJob) size() int { return len(j.accounts) + len(j.allocs) }

// needsKey reports whether the tables don't have the key, or may have lost it: one that is settled late may be old enough to go.
func (al *foldedAllocation) needsKey() bool { return al.fresh || al.now.Flags&service.FlagLate != 0 }

// freshByKey returns the allocations that need their keys written, in the order of the key index, so that neighbours are written
// together.
func (j *foldJob) freshByKey() []*book.Allocation {
	var fresh []*book.Allocation
	for i := range j.allocs {
		if j.allocs[i].needsKey() {
			fresh = append(fresh, j.allocs[i].Allocation)
		}
	}
	slices.SortFunc(fresh, func(a, b *book.Allocation) int { return bytes.Compare(a.Key[:], b.Key[:]) })
	return fresh
}

// dirt is what the journal has and the tables don't; the committer owns it.
type dirt struct {
	accounts []*book.Account
	allocs   []*book.Allocation
}

func (d *dirt) size() int { return len(d.accounts) + len(d.allocs) }

func (d *dirt) addAccount(a *book.Account) {
	if !a.Dirty {
		a.Dirty = true
		d.accounts = append(d.accounts, a)
	}
}

func (d *dirt) addAllocation(al *book.Allocation) {
	if !al.Dirty {
		al.Dirty = true
		d.allocs = append(d.allocs, al)
	}
}

// takeFold empties s.dirt, which is what the rows up to seq have left, into a job.
func (s *Store) takeFold(seq uint64) *foldJob {
	d := s.dirt
	s.dirt = dirt{}
	clock := &s.state.Clock
	j := &foldJob{
		seq: seq, age: clock.Age, wall: clock.Last.UnixMilli(), now: clock.Last,
		accounts: make([]foldedAccount, len(d.accounts)), allocs: make([]foldedAllocation, len(d.allocs)),
	}
	var buf []byte // of all counters
	for i, a := range d.accounts {
		a.Dirty = false
		from := len(buf)
		buf = book.AppendCounters(buf, a.Counters)
		j.accounts[i] = foldedAccount{a, a.Sums, buf[from:len(buf):len(buf)]}
	}
	for i, al := range d.allocs {
		al.Dirty = false
		j.allocs[i] = foldedAllocation{al, al.Progress, !al.InTables}
	}
	slices.SortFunc(j.allocs, func(a, b foldedAllocation) int { return cmp.Compare(a.Seq, b.Seq) })
	slices.SortFunc(j.accounts, func(a, b foldedAccount) int { return cmp.Compare(a.Num, b.Num) })
	return j
}

// startFold hands what is dirty to the folder, unless it is still busy or there is nothing.
func (s *Store) startFold() {
	if s.folding == nil && s.dirt.size() > 0 {
		s.drain() // what is folded is what the accounts hold now: nothing in it may be undone
		s.folding = s.takeFold(s.last)
		s.foldJobs <- s.folding
	}
}

// finishFold takes the folder's answer: it forgets what is over and in the tables, or, where the fold
// failed, keeps everything for the next one.
func (s *Store) finishFold(err error) {
	s.drain() // whether an allocation is over is known when nothing may be undone
	j := s.folding
	s.folding = nil
	s.foldAlarm.Report(s.opts.Logger, "folding the journal into the tables", err)
	if err != nil {
		for i := range j.accounts {
			s.dirt.addAccount(j.accounts[i].Account)
		}
		for i := range j.allocs {
			s.dirt.addAllocation(j.allocs[i].Allocation)
		}
		s.answerWaiting(errNotFolded)
		return
	}
	s.folded = j.seq
	s.mayTrim.Store(j.seq)
	s.tables.hasAllocs = s.tables.hasAllocs || len(j.allocs) > 0
	s.addToFilter(j)
	s.mu.Lock()
	for i := range j.allocs {
		al := j.allocs[i].Allocation
		al.InTables = true
		if al.State != service.StateHeld && !al.Dirty {
			s.state.RemoveAllocation(al.Key)
		}
	}
	s.mu.Unlock()
	s.answerWaiting(nil)
}

// folder writes jobs until there are no more; it is the third of the store's goroutines.
func (s *Store) folder(ctx context.Context) {
	defer s.wg.Done()
	for j := range s.foldJobs {
		err := s.tables.fold(ctx, j)
		if err == nil {
			s.retireAlarm.Report(s.opts.Logger, "putting away what is old", s.putAway(ctx, j.now, j.age))
		}
		s.foldDone <- err
	}
}

// putAway removes, or makes smaller, some of what is old.
func (s *Store) putAway(ctx context.Context, now time.Time, age time.Duration) error {
	err := s.tables.mergeHours(ctx, now.Add(-book.HourlyFor).UnixMilli())
	if s.opts.Retention > 0 {
		err = errors.Join(err, s.tables.retire(ctx, cutoff{age - s.opts.Retention, now.Add(-s.opts.Retention).UnixMilli()}))
	}
	return err
}

var errNotFolded = errors.New("the journal could not be folded into the tables")

// waiter waits until what the journal had when it came is in the tables.
type waiter struct {
	seq    uint64
	answer chan error
}

// wait has the committer answer w when the tables have what the journal has.
func (s *Store) wait(answer chan error) {
	s.drain()
	s.waiting = append(s.waiting, waiter{s.last, answer})
	s.startFold()
	s.answerWaiting(nil)
}

// answerWaiting answers those whose time has come, or all with err.
func (s *Store) answerWaiting(err error) {
	if s.folding == nil && s.dirt.size() == 0 {
		s.folded = s.last
	}
	s.waiting = slices.DeleteFunc(s.waiting, func(w waiter) bool {
		if err == nil && w.seq > s.folded {
			return false
		}
		w.answer <- err
		return true
	})
	if len(s.waiting) > 0 {
		s.startFold()
	}
}

// foldNow returns when the tables have what the journal has, or ctx ends.
func (s *Store) foldNow(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case s.waiters <- answer:
	case <-s.ended:
		return service.ErrLedgerClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
