package book

import (
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// Key identifies an allocation: half of the SHA-256 of its application and id.
type Key [16]byte

// Key returns the key of a name.
func (n Name) Key() Key { return KeyOf(n.App, n.Alias) }

// KeyOf returns the key of an allocation.
func KeyOf(app, id string) Key {
	buf := make([]byte, 0, 128)
	buf = append(buf, app...)
	buf = append(buf, 0)
	buf = append(buf, id...)
	sum := sha256.Sum256(buf)
	return Key(sum[:16])
}

// Allocation is one allocation. Everything but Progress is static. The order of the fields leaves few gaps.
type Allocation struct {
	Seq     uint64 // in the order of reservation
	Key     Key
	Account *Account
	ID      string

	Reserved   service.Micros
	ReservedAt int64 // Unix ms
	Age        time.Duration
	Prev       uint64 // Seq of the account's allocation before
	Terms      *Terms // nil where no limits were counted
	Progress

	InTables bool // a store's note: it has been folded
	Dirty    bool // another: it has changed since
	placed   bool // is in the list of what is held

	newer, older *Allocation // neighbours in that list
	next         *Allocation // in the chain of the index
	gen          uint64      // the last batch that saved it
}

// Terms are the part of an allocation that limits have made.
type Terms struct {
	Answer Answer // the first
	Holds  []Hold // where Reserved is held, the allocation's own account first
}

// answer is what was answered first.
func (al *Allocation) answer() Answer {
	if al.Terms == nil {
		return Answer{}
	}
	return al.Terms.Answer
}

// Holds is where Reserved is held, the allocation's own account first.
func (al *Allocation) Holds() []Hold {
	if al.Terms == nil {
		return nil
	}
	return al.Terms.Holds
}

// Hold says that an amount is held in the counter of an account that has the epoch.
type Hold struct {
	Account *Account
	Epoch   uint32
}

// Progress is the part of an allocation that changes.
type Progress struct {
	Charged service.Micros
	EndedAt int64 // Unix ms, 0 while held
	Meta    string
	State   service.State
	Flags   service.Flag
}

// Answer is what a reservation is told of the limit that is nearest.
type Answer struct {
	Limited          bool
	Limit, Remaining service.Micros
	ResetAt          int64 // Unix ms
	WindowSeconds    int64
	Policy           string
}

func (a *Answer) decision(id string) service.Decision {
	d := service.Decision{ID: id, Limited: a.Limited}
	if a.Limited {
		d.Limit, d.Remaining, d.Policy = a.Limit, a.Remaining, a.Policy
		d.ResetAt, d.WindowSeconds = Millis(a.ResetAt), a.WindowSeconds
	}
	return d
}

func (al *Allocation) receipt() service.Receipt {
	return service.Receipt{ID: al.ID, Amount: al.Charged, State: al.State, Flags: al.Flags}
}

// holdsIn reports whether al is held in the counter of that epoch.
func (al *Allocation) holdsIn(a *Account, epoch uint32) bool {
	for _, h := range al.Holds() {
		if h.Account == a && h.Epoch == epoch {
			return true
		}
	}
	return false
}

// eachAccount calls f with al's own account, then with each other in which it is held.
func (al *Allocation) eachAccount(f func(*Account)) {
	f(al.Account)
	holds := al.Holds()
	for i, h := range holds {
		if h.Account != al.Account && (i == 0 || holds[i-1].Account != h.Account) {
			f(h.Account)
		}
	}
}

// View is al as it stands.
func (al *Allocation) View() (service.Allocation, error) {
	v := service.Allocation{
		ID: al.ID, Application: al.Account.Name.App, Alias: al.Account.Name.Alias,
		Reserved: al.Reserved, Charged: al.Charged, State: al.State, Flags: al.Flags,
		ReservedAt: Millis(al.ReservedAt), EndedAt: Millis(al.EndedAt),
	}
	if len(al.Meta) == 0 {
		return v, nil
	}
	return v, json.Unmarshal([]byte(al.Meta), &v.Metadata)
}
