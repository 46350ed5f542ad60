package book

import (
	"math"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// Reserve decides a reservation.
func (b *Batch) Reserve(r *service.Reservation, key Key, meta []byte) (service.Decision, error) {
	name := Name{r.Application, r.Alias}
	if al := b.find(key); al != nil {
		if al.Account.Name != name {
			return service.Decision{}, service.ErrConflict
		}
		b.Counted.Repeated++
		answer := al.answer()
		d := answer.decision(al.ID)
		d.Allowed, d.Repeated = true, true
		return d, nil
	}
	if err := b.open(name, r.Limits, true); err != nil {
		return service.Decision{}, err
	}
	if answer, denied := b.denied(r.Amount); denied {
		b.Counted.Denied++
		return answer.decision(r.ID), nil
	}
	for _, a := range b.shared {
		if a.Held > math.MaxInt64-r.Amount {
			return service.Decision{}, service.ErrHeldTooMuch
		}
	}
	b.addFresh()
	a := b.shared[0]
	al := &Allocation{
		Key: key, Account: a, ID: r.ID, Reserved: r.Amount,
		ReservedAt: b.Wall.UnixMilli(), Age: b.Age, Progress: Progress{Meta: string(meta)},
	}
	answer := b.nearest(r.Amount)
	if holds := b.hold(al); len(holds) > 0 {
		al.Terms = &Terms{answer, holds}
	}
	b.addAllocation(al)
	b.Counted.Reserved++
	d := answer.decision(r.ID)
	d.Allowed = true
	return d, nil
}

// open finds the account of name and those that limits names beside it, as b.shared. New ones are in b.fresh
// and no part of the book yet. Where follow is false, accounts that exist keep the limits that they have.
func (b *Batch) open(name Name, limits []service.Limit, follow bool) error {
	b.shared, b.fresh = b.shared[:0], b.fresh[:0]
	limits = ownLimits(name.Alias, limits)
	if err := b.openOne(name, limits, "", follow); err != nil {
		return err
	}
	for _, ledger := range otherLedgers(limits) {
		if err := b.openOne(Name{name.App, ledger}, limits, ledger, follow); err != nil {
			return err
		}
	}
	return nil
}

func (b *Batch) openOne(name Name, limits []service.Limit, ledger string, follow bool) error {
	a := b.book.Account(name)
	switch {
	case a == nil:
		if b.book.Size+len(b.fresh) >= b.book.MaxAccounts {
			return service.ErrTooManyLedgers
		}
		a = &Account{Name: name, gen: b.gen} // so that nothing saves it before addAccount does
		a.follow(b, limits, ledger)
		b.fresh = append(b.fresh, a)
	case follow:
		a.follow(b, limits, ledger)
	default:
		a.roll(b)
	}
	for _, known := range b.shared {
		if known == a {
			return nil
		}
	}
	b.shared = append(b.shared, a)
	return nil
}

func (b *Batch) addFresh() {
	for _, a := range b.fresh {
		b.addAccount(a)
	}
}

// denied reports whether a limit of the open accounts does not let amount pass, and what to answer then: the
// limit that is the last to let it pass.
func (b *Batch) denied(amount service.Micros) (answer Answer, denied bool) {
	for _, a := range b.shared {
		for i := range a.Counters {
			c := &a.Counters[i]
			if !c.Limited || c.Soft {
				continue
			}
			taken := c.taken(&b.Moment)
			if taken.Add(amount) <= c.Limit {
				continue
			}
			if resetAt := c.resetAt(&b.Moment, c.Limit-amount); !denied || resetAt > answer.ResetAt {
				denied = true
				answer = Answer{true, c.Limit, max(0, c.Limit-taken), resetAt, c.seconds(), c.Policy}
			}
		}
	}
	return answer, denied
}

// nearest describes the limit of which the least is left once amount is held.
func (b *Batch) nearest(amount service.Micros) (answer Answer) {
	for _, a := range b.shared {
		for i := range a.Counters {
			c := &a.Counters[i]
			if !c.Limited || c.Soft {
				continue
			}
			if remaining := c.Limit - c.taken(&b.Moment).Add(amount); !answer.Limited || remaining < answer.Remaining {
				answer = Answer{true, c.Limit, remaining, c.resetAt(&b.Moment, 0), c.seconds(), c.Policy}
			}
		}
	}
	return answer
}

// hold holds al's amount in the open accounts, and returns where.
func (b *Batch) hold(al *Allocation) []Hold {
	n := 0
	for _, a := range b.shared {
		n += len(a.Counters)
	}
	holds := make([]Hold, 0, n)
	for _, a := range b.shared {
		b.touch(a)
		a.Held = a.Held.Add(al.Reserved)
		for i := range a.Counters {
			c := &a.Counters[i]
			c.drain(&b.Moment)
			c.Held = c.Held.Add(al.Reserved)
			holds = append(holds, Hold{a, c.Epoch})
		}
	}
	return holds
}

// touch saves a and notes that it is used now.
func (b *Batch) touch(a *Account) {
	b.save(a)
	a.Touched = b.Wall.UnixMilli()
}

// Settle carries out a settlement.
func (b *Batch) Settle(t *service.Settlement, key Key, meta []byte) (service.Receipt, error) {
	name := Name{t.Application, t.Alias}
	al := b.find(key)
	switch {
	case al == nil:
		var err error
		if al, err = b.unreserved(t, name, key); err != nil {
			return service.Receipt{}, err
		}
	case al.Account.Name != name:
		return service.Receipt{}, service.ErrConflict
	case al.State == service.StateSettled || al.State == service.StateVoided:
		b.Counted.Repeated++
		receipt := al.receipt()
		receipt.Repeated = true
		return receipt, nil
	default:
		if al.State == service.StateHeld && b.due(al) {
			b.expire(al) // Expire has not come that far
		}
		b.charge(al, t.Amount)
	}
	al.State, al.Charged, al.EndedAt = service.StateSettled, t.Amount, b.Wall.UnixMilli()
	b.Counted.Settled++
	if t.Amount == 0 {
		al.State = service.StateVoided
		b.Counted.Settled--
		b.Counted.Voided++
	}
	if al.Flags != 0 {
		b.Counted.Flagged++
	}
	if meta != nil {
		al.Meta = string(meta)
	}
	return al.receipt(), nil
}

// unreserved records a settlement whose reservation never arrived, charged to the alias it names.
func (b *Batch) unreserved(t *service.Settlement, name Name, key Key) (*Allocation, error) {
	if err := b.open(name, t.Limits, false); err != nil {
		return nil, err
	}
	b.addFresh()
	for _, a := range b.shared {
		b.touch(a)
		a.use(&b.Moment, t.Amount)
	}
	al := &Allocation{Key: key, Account: b.shared[0], ID: t.ID, ReservedAt: b.Wall.UnixMilli(), Age: b.Age}
	al.Flags, al.State = service.FlagUnreserved, service.StateSettled
	b.addAllocation(al)
	return al, nil
}

// use charges amount in all of a's counters.
func (a *Account) use(m *Moment, amount service.Micros) {
	a.Total = a.Total.Add(amount)
	for i := range a.Counters {
		c := &a.Counters[i]
		c.drain(m)
		c.Used = c.Used.Add(amount)
	}
}

// charge ends a held or expired allocation. What was reserved counts where it was held, what is above it in
// the windows that there are now.
func (b *Batch) charge(al *Allocation, amount service.Micros) {
	if b.book.Allocation(al.Key) == nil {
		b.book.AddAllocation(al) // it came from the tables
		b.warmed = append(b.warmed, al.Key)
	}
	b.saveAllocation(al)
	expired := al.State == service.StateExpired
	if expired {
		al.Flags |= service.FlagLate
	}
	al.eachAccount(func(a *Account) {
		a.roll(b)
		b.touch(a)
		if expired {
			a.use(&b.Moment, amount)
			return
		}
		a.Held = a.Held.Add(-al.Reserved)
		a.Total = a.Total.Add(amount)
		for i := range a.Counters {
			c := &a.Counters[i]
			c.drain(&b.Moment)
			switch {
			case al.holdsIn(a, c.Epoch):
				c.Held = c.Held.Add(-al.Reserved)
				c.Used = c.Used.Add(amount)
			case amount > al.Reserved:
				c.Used = c.Used.Add(amount - al.Reserved)
			}
		}
	})
}

// expireAtOnce bounds what one batch expires, and so what its record takes.
const expireAtOnce = 1 << 15

// Expire ends the holds whose time is over, the oldest first, and returns how many; where they are more than a batch can take, the
// next one goes on. The list of what is held stays as it is until the batch is durable, so it steps over what batches have ended.
func (b *Batch) Expire() int {
	n := 0
	for al := b.book.held.oldest; al != nil && n < expireAtOnce && b.due(al); al = al.newer {
		if al.State == service.StateHeld {
			b.expire(al)
			n++
		}
	}
	return n
}

// due reports whether al has been held long enough.
func (b *Batch) due(al *Allocation) bool { return b.Age-al.Age >= b.book.HoldTime }

// expire ends the hold of al.
func (b *Batch) expire(al *Allocation) {
	b.saveAllocation(al)
	al.State, al.EndedAt = service.StateExpired, b.Wall.UnixMilli()
	al.eachAccount(func(a *Account) {
		b.save(a)
		a.Held = a.Held.Add(-al.Reserved)
		for i := range a.Counters {
			if c := &a.Counters[i]; al.holdsIn(a, c.Epoch) {
				c.Held = c.Held.Add(-al.Reserved)
			}
		}
	})
	b.Counted.Expired++
}
