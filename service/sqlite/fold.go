package sqlite

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// foldJob is what the folder writes into the tables: copies, because the committer goes on meanwhile.
type foldJob struct {
	seq      uint64 // the last journal row that the job contains
	age      time.Duration
	wall     int64
	accounts []foldedAccount
	allocs   []foldedAllocation
}

type foldedAccount struct {
	*account
	now counters
}

type foldedAllocation struct {
	*allocation
	now   progress
	fresh bool // not in the tables yet
}

func (j *foldJob) size() int { return len(j.accounts) + len(j.allocs) }

// freshByKey returns the allocations that the tables don't have, in the order of the key index, so
// that neighbours are written together.
func (j *foldJob) freshByKey() []*allocation {
	var fresh []*allocation
	for i := range j.allocs {
		if j.allocs[i].fresh {
			fresh = append(fresh, j.allocs[i].allocation)
		}
	}
	slices.SortFunc(fresh, func(a, b *allocation) int { return bytes.Compare(a.key[:], b.key[:]) })
	return fresh
}

// dirt is what the journal has and the tables don't; the committer owns it.
type dirt struct {
	accounts []*account
	allocs   []*allocation
}

func (d *dirt) size() int { return len(d.accounts) + len(d.allocs) }

func (d *dirt) addAccount(a *account) {
	if !a.dirty {
		a.dirty = true
		d.accounts = append(d.accounts, a)
	}
}

func (d *dirt) addAllocation(al *allocation) {
	if !al.dirty {
		al.dirty = true
		d.allocs = append(d.allocs, al)
	}
}

// takeFold empties s.dirt into a job.
func (s *Store) takeFold() *foldJob {
	d := s.dirt
	s.dirt = dirt{}
	j := &foldJob{
		seq: s.journal.seq, age: s.clock.age, wall: s.clock.last.UnixMilli(),
		accounts: make([]foldedAccount, len(d.accounts)), allocs: make([]foldedAllocation, len(d.allocs)),
	}
	for i, a := range d.accounts {
		a.dirty = false
		j.accounts[i] = foldedAccount{a, a.counters}
	}
	for i, al := range d.allocs {
		al.dirty = false
		j.allocs[i] = foldedAllocation{al, al.progress, !al.inTables}
	}
	slices.SortFunc(j.allocs, func(a, b foldedAllocation) int { return int(int64(a.seq) - int64(b.seq)) })
	return j
}

// startFold hands what is dirty to the folder, unless it is still busy or there is nothing.
func (s *Store) startFold() {
	if s.folding != nil || s.dirt.size() == 0 {
		return
	}
	s.folding = s.takeFold()
	s.foldJobs <- s.folding
}

// finishFold takes the folder's answer: it forgets what is over and in the tables, or, where the fold
// failed, keeps everything for the next one.
func (s *Store) finishFold(err error) {
	j := s.folding
	s.folding = nil
	s.report(&s.foldFailing, "folding the journal into the tables", err)
	if err != nil {
		for i := range j.accounts {
			s.dirt.addAccount(j.accounts[i].account)
		}
		for i := range j.allocs {
			s.dirt.addAllocation(j.allocs[i].allocation)
		}
		return
	}
	s.journal.trimTo = j.seq
	s.tables.hasAllocs = s.tables.hasAllocs || len(j.allocs) > 0
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range j.allocs {
		al := j.allocs[i].allocation
		al.inTables = true
		if al.state != service.StateHeld && !al.dirty {
			delete(s.state.allocs, al.key)
		}
	}
}

// folder writes jobs until there are no more; it is the second of the store's two goroutines.
func (s *Store) folder(ctx context.Context) {
	defer s.wg.Done()
	for j := range s.foldJobs {
		s.foldDone <- s.tables.fold(ctx, j)
	}
}
