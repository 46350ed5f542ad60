package book

import (
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// Book is ledgers and allocations.
type Book struct {
	Clock    Clock
	HoldTime time.Duration
	// MaxAccounts bounds Size.
	MaxAccounts int
	// Size is the number of accounts that there are, in the book or not.
	Size    int
	NextNum uint32
	NextSeq uint64

	accounts    *index[Name, Account]
	allocations *index[Key, Allocation] // those that are held, and others that the store keeps here
	held        heldList
	gen         uint64 // of the newest batch
}

// New returns an empty book with room for that many accounts and allocations.
func New(accounts, allocations int) *Book {
	return &Book{
		NextNum: 1, NextSeq: 1,
		accounts:    newIndex(accounts, func(a *Account) Name { return a.Name }, func(a *Account) **Account { return &a.next }),
		allocations: newIndex(allocations, func(al *Allocation) Key { return al.Key }, func(al *Allocation) **Allocation { return &al.next }),
	}
}

// Account returns the account of that name, or nil.
func (b *Book) Account(name Name) *Account { return b.accounts.get(name) }

// AddAccount makes a, which is new to b, findable.
func (b *Book) AddAccount(a *Account) { b.accounts.add(a) }

// Allocation returns the allocation of that key, or nil.
func (b *Book) Allocation(key Key) *Allocation { return b.allocations.get(key) }

// AddAllocation makes al, which is new to b, findable.
func (b *Book) AddAllocation(al *Allocation) { b.allocations.add(al) }

// RemoveAllocation forgets the allocation of that key.
func (b *Book) RemoveAllocation(key Key) { b.allocations.remove(key) }

// HeldCount is how many allocations are held.
func (b *Book) HeldCount() int { return b.held.size }

// Place brings the list of what is held up to date with al, which is in the state. What is placed first expires first.
func (b *Book) Place(al *Allocation, state service.State) {
	switch held := state == service.StateHeld; {
	case held && !al.placed:
		b.held.add(al)
	case !held && al.placed:
		b.held.remove(al)
	}
	al.placed = state == service.StateHeld
}

// heldList is the allocations that are held, linked through themselves.
type heldList struct {
	oldest, newest *Allocation
	size           int
}

func (l *heldList) add(al *Allocation) {
	al.older = l.newest
	if l.newest != nil {
		l.newest.newer = al
	} else {
		l.oldest = al
	}
	l.newest = al
	l.size++
}

func (l *heldList) remove(al *Allocation) {
	if al.older != nil {
		al.older.newer = al.newer
	} else {
		l.oldest = al.newer
	}
	if al.newer != nil {
		al.newer.older = al.older
	} else {
		l.newest = al.older
	}
	al.newer, al.older = nil, nil
	l.size--
}

// Batch is operations that take effect together. It keeps what it has changed.
type Batch struct {
	Moment
	Accounts    []SavedAccount
	Allocations []SavedAllocation
	// Cold are allocations that are not in the book, for this batch.
	Cold map[Key]*Allocation
	// Counted is what the batch has done.
	Counted service.Counters

	book     *Book
	gen      uint64
	counters []Counter // where saved accounts' counters are kept
	warmed   []Key     // of allocations that were Cold and are in the book now
	shared   []*Account
	fresh    []*Account
}

// SavedAccount is an account that a batch has changed.
type SavedAccount struct {
	*Account
	IsNew    bool
	old      Sums
	counters []Counter
}

// SavedAllocation is an allocation that a batch has changed.
type SavedAllocation struct {
	*Allocation
	IsNew bool
	// After is the state in which the batch leaves it. A later batch may change it before this one is durable.
	After service.State
	old   Progress
}

// Begin reads the clock and begins a batch.
func (b *Book) Begin() *Batch {
	wall := b.Clock.Read()
	b.gen++
	return &Batch{book: b, gen: b.gen, Moment: *MomentOf(wall, b.Clock.Age)}
}

// Empty reports whether the batch has changed nothing.
func (b *Batch) Empty() bool { return len(b.Accounts) == 0 && len(b.Allocations) == 0 }

// save must come before the first change of a in this batch.
func (b *Batch) save(a *Account) {
	if a.gen != b.gen {
		a.gen = b.gen
		from := len(b.counters)
		b.counters = append(b.counters, a.Counters...)
		b.Accounts = append(b.Accounts, SavedAccount{Account: a, old: a.Sums, counters: b.counters[from:len(b.counters):len(b.counters)]})
	}
}

// saveAllocation must come before the first change of al in this batch.
func (b *Batch) saveAllocation(al *Allocation) {
	if al.gen != b.gen {
		al.gen = b.gen
		b.Allocations = append(b.Allocations, SavedAllocation{Allocation: al, old: al.Progress})
	}
}

// addAccount gives a its number and makes it findable.
func (b *Batch) addAccount(a *Account) {
	book := b.book
	a.Num = book.NextNum
	book.NextNum++
	book.Size++
	book.AddAccount(a)
	a.gen = b.gen
	b.Accounts = append(b.Accounts, SavedAccount{Account: a, IsNew: true})
}

// addAllocation gives al its place in the order and makes it findable.
func (b *Batch) addAllocation(al *Allocation) {
	book := b.book
	al.Seq, al.Prev = book.NextSeq, al.Account.Last
	al.Account.Last = al.Seq
	book.NextSeq++
	book.AddAllocation(al)
	al.gen = b.gen
	b.Allocations = append(b.Allocations, SavedAllocation{Allocation: al, IsNew: true})
}

// End must come after the batch's last change.
func (b *Batch) End() {
	for i := range b.Allocations {
		b.Allocations[i].After = b.Allocations[i].State
	}
}

// Undo takes back everything that the batch has changed. Numbers that were given away stay unused.
func (b *Batch) Undo() {
	for _, saved := range b.Allocations {
		if saved.IsNew {
			b.book.RemoveAllocation(saved.Key)
			continue
		}
		saved.Allocation.Progress = saved.old
	}
	for _, key := range b.warmed {
		b.book.RemoveAllocation(key)
	}
	for _, saved := range b.Accounts {
		if saved.IsNew {
			b.book.accounts.remove(saved.Name)
			b.book.Size--
			continue
		}
		saved.Account.Sums = saved.old
		saved.Account.Counters = append(saved.Account.Counters[:0], saved.counters...)
	}
}

// find returns the allocation of key from the book or from what was read for this batch.
func (b *Batch) find(key Key) *Allocation {
	if al := b.book.Allocation(key); al != nil {
		return al
	}
	return b.Cold[key]
}

// ownLimits are limits with those of the ledger named alias, if it is among the shared ones, as its own: it is one account.
func ownLimits(alias string, limits []service.Limit) []service.Limit {
	shared := func(l service.Limit) bool { return l.Ledger == alias }
	if !slices.ContainsFunc(limits, shared) {
		return limits
	}
	limits = slices.Clone(limits)
	for i := range limits {
		if shared(limits[i]) {
			limits[i].Ledger = ""
		}
	}
	return limits
}

// otherLedgers are the ledgers beside the reservation's own that limits names.
func otherLedgers(limits []service.Limit) (names []string) {
	for i := range limits {
		if name := limits[i].Ledger; name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
