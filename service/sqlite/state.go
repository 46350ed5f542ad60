package sqlite

import (
	"container/list"
	"crypto/sha256"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// allocKey identifies an allocation: half of the SHA-256 of its application and id.
type allocKey [16]byte

func keyOf(app, id string) allocKey {
	buf := make([]byte, 0, 128)
	buf = append(buf, app...)
	buf = append(buf, 0)
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	return allocKey(sum[:16])
}

// accountName is what an account is found by.
type accountName struct{ app, alias string }

// account is one ledger. The name and num are static; counters is guarded by Store.mu.
type account struct {
	num  uint32
	name accountName
	counters

	elem  *list.Element // in state.recentAccounts
	dirty bool          // changed since it was last folded
	named bool          // the journal or the tables know the name
	gen   uint64        // the last batch that saved it
}

// counters is the part of an account that changes.
type counters struct {
	limited bool
	limit   service.Micros
	policy  string
	window  service.Window
	start   int64  // the window's beginning, Unix ms
	epoch   uint32 // grows with every new window; an allocation counts only in its own
	used    service.Micros
	held    service.Micros
	total   service.Micros // charged since the account exists
	touched int64          // Unix ms
}

// allocation is one allocation. Everything but progress is static.
type allocation struct {
	seq     uint64
	key     allocKey
	account *account
	id      string

	reserved   service.Micros
	limited    bool
	limit      service.Micros // limit, remaining and resetAt are the first answer
	remaining  service.Micros
	window     service.Window
	start      int64
	epoch      uint32
	reservedAt int64         // Unix ms
	age        time.Duration // the clock's age at the reservation
	progress

	elem     *list.Element // in state.held
	inTables bool          // folded at least once; owned by the committer
	dirty    bool
	gen      uint64
}

// progress is the part of an allocation that changes.
type progress struct {
	state   service.State
	flags   service.Flag
	charged service.Micros
	endedAt int64 // Unix ms, 0 while held
	meta    []byte
}

// state is everything in memory, guarded by Store.mu. Only the committer writes it.
type state struct {
	accounts map[accountName]*account
	byNum    map[uint32]*account
	allocs   map[allocKey]*allocation // held, or not folded yet
	held     *list.List               // of *allocation, the oldest first
	recent   *list.List               // of *account, the most recently used first
	ring     []*allocation            // the newest allocations, in no order; index seq % len
	nextSeq  uint64
	nextNum  uint32
}

// ringSize is how many recent allocations are kept for Allocations.
const ringSize = service.MaxQueryLimit

// newState returns a state with room for that many accounts.
func newState(accounts int) *state {
	return &state{
		accounts: make(map[accountName]*account, accounts),
		byNum:    make(map[uint32]*account, accounts),
		allocs:   map[allocKey]*allocation{},
		held:     list.New(),
		recent:   list.New(),
		ring:     make([]*allocation, ringSize),
		nextSeq:  1,
		nextNum:  1,
	}
}

// batch is what one transaction changes, with what is needed to take it back.
type batch struct {
	gen      uint64
	wall     time.Time
	accounts []savedAccount
	allocs   []savedAllocation
	cold     map[allocKey]*allocation // from the tables, for this batch
	counted  service.Counters
}

type savedAccount struct {
	*account
	old   counters
	isNew bool
}

type savedAllocation struct {
	*allocation
	old   progress
	isNew bool
}

func (b *batch) empty() bool { return len(b.accounts) == 0 && len(b.allocs) == 0 }

// saveAccount must come before the first change of a in this batch.
func (b *batch) saveAccount(a *account) {
	if a.gen != b.gen {
		a.gen = b.gen
		b.accounts = append(b.accounts, savedAccount{account: a, old: a.counters})
	}
}

// saveAllocation must come before the first change of al in this batch.
func (b *batch) saveAllocation(al *allocation) {
	if al.gen != b.gen {
		al.gen = b.gen
		b.allocs = append(b.allocs, savedAllocation{allocation: al, old: al.progress})
	}
}

// addAccount gives a its number and makes it findable.
func (s *state) addAccount(b *batch, a *account) {
	a.num = s.nextNum
	s.nextNum++
	s.accounts[a.name] = a
	s.byNum[a.num] = a
	a.gen = b.gen
	b.accounts = append(b.accounts, savedAccount{account: a, isNew: true})
}

// addAllocation gives al its place in the order and makes it findable.
func (s *state) addAllocation(b *batch, al *allocation) {
	al.seq = s.nextSeq
	s.nextSeq++
	s.allocs[al.key] = al
	al.gen = b.gen
	b.allocs = append(b.allocs, savedAllocation{allocation: al, isNew: true})
}

// undo takes back everything that b changed. Numbers that were given away stay unused.
func (s *state) undo(b *batch) {
	for _, saved := range b.allocs {
		if saved.isNew {
			delete(s.allocs, saved.key)
			continue
		}
		saved.allocation.progress = saved.old
	}
	for _, saved := range b.accounts {
		if saved.isNew {
			delete(s.accounts, saved.name)
			delete(s.byNum, saved.num)
			continue
		}
		saved.account.counters = saved.old
	}
}

// settleLists brings the lists up to date with a batch that is durable.
func (s *state) settleLists(b *batch) {
	for _, saved := range b.accounts {
		saved.named = true
		s.touchAccount(saved.account)
	}
	for _, saved := range b.allocs {
		s.place(saved.allocation)
	}
}

func (s *state) touchAccount(a *account) {
	if a.elem == nil {
		a.elem = s.recent.PushFront(a)
		return
	}
	s.recent.MoveToFront(a.elem)
}

// place puts al where its state belongs: the held list and the ring of recent allocations.
func (s *state) place(al *allocation) {
	switch {
	case al.state == service.StateHeld && al.elem == nil:
		al.elem = s.held.PushBack(al)
	case al.state != service.StateHeld && al.elem != nil:
		s.held.Remove(al.elem)
		al.elem = nil
	}
	slot := &s.ring[al.seq%ringSize]
	if *slot == nil || (*slot).seq <= al.seq {
		*slot = al
	}
}
