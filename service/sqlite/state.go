package sqlite

import (
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// state is everything in memory, guarded by Store.mu. Only the committer writes it.
type state struct {
	*book.Book                 // all accounts; the allocations that are held, or not folded yet
	byNum      []*book.Account // by Num; there are gaps
	newest     *book.Account   // the beginning and the end of the accounts in the order of use
	oldest     *book.Account
	ring       []*book.Allocation // the newest allocations, in no order; index Seq % len
}

// ringSize is how many recent allocations are kept for Allocations.
const ringSize = service.MaxQueryLimit

// newState returns a state with room for that many accounts and allocations.
func newState(accounts, allocations int, opts *Options) *state {
	s := &state{Book: book.New(accounts, allocations), byNum: make([]*book.Account, 1, accounts+1), ring: make([]*book.Allocation, ringSize)}
	s.Clock.Now, s.HoldTime, s.MaxAccounts = opts.Now, opts.HoldTime, opts.MaxLedgers
	return s
}

// account returns the account of that number, or nil.
func (s *state) account(num uint32) *book.Account {
	if int(num) < len(s.byNum) {
		return s.byNum[num]
	}
	return nil
}

// number makes a findable by its number.
func (s *state) number(a *book.Account) {
	for len(s.byNum) <= int(a.Num) {
		s.byNum = append(s.byNum, nil)
	}
	s.byNum[a.Num] = a
}

// keep brings the lists up to date with a batch that is durable.
func (s *state) keep(b *book.Batch) {
	for i := range b.Accounts {
		a := b.Accounts[i].Account
		if !a.Named {
			a.Named = true
			s.number(a)
		}
		s.touch(a)
	}
	for i := range b.Allocations {
		s.place(b.Allocations[i].Allocation, b.Allocations[i].After)
	}
}

// touch makes a the most recently used account.
func (s *state) touch(a *book.Account) {
	if s.newest == a {
		return
	}
	if a.Listed {
		a.Newer.Older = a.Older // it is not the newest, so there is a newer one
		if a.Older != nil {
			a.Older.Newer = a.Newer
		} else {
			s.oldest = a.Newer
		}
	}
	a.Listed, a.Newer, a.Older = true, nil, s.newest
	if s.newest != nil {
		s.newest.Newer = a
	} else {
		s.oldest = a
	}
	s.newest = a
}

// place puts al, which is in the state, where it belongs: the list of what is held and the ring of recent allocations.
func (s *state) place(al *book.Allocation, state service.State) {
	s.Place(al, state)
	slot := &s.ring[al.Seq%ringSize]
	if *slot == nil || (*slot).Seq <= al.Seq {
		*slot = al
	}
}
