package sqlite

import (
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// roll brings a into the window of w that contains wall. A window never goes back, so a clock that
// steps back finds the counts it left. Another kind of window begins at 0.
func (a *account) roll(b *batch, w service.Window) {
	start := startMillis(w, b.wall)
	if w == a.window && start <= a.start {
		return
	}
	b.saveAccount(a)
	a.window, a.start = w, start
	a.epoch++
	a.used, a.held = 0, 0
}

func startMillis(w service.Window, t time.Time) int64 {
	if w == service.WindowNone {
		return 0
	}
	return w.Start(t).UnixMilli()
}

// follow makes a's limit the one that the policy has now.
func (a *account) follow(b *batch, limit *service.Limit) {
	if limit == nil {
		a.roll(b, service.WindowNone)
		if a.limited {
			b.saveAccount(a)
			a.limited, a.limit, a.policy = false, 0, ""
		}
		return
	}
	a.roll(b, limit.Window)
	if !a.limited || a.limit != limit.Amount || a.policy != limit.Policy {
		b.saveAccount(a)
		a.limited, a.limit, a.policy = true, limit.Amount, limit.Policy
	}
}

// newAccount returns an account that is not yet part of the state. Its gen is b's, so that nothing
// saves it before addAccount does.
func newAccount(b *batch, name accountName, limit *service.Limit) *account {
	a := &account{name: name, gen: b.gen}
	a.follow(b, limit)
	return a
}

// reserve decides op and records an admission in b.
func (s *Store) reserve(b *batch, op *operation) {
	r := &op.reservation
	name := accountName{r.Application, r.Alias}
	if al := s.find(b, op.key); al != nil {
		if al.account.name != name {
			op.err = service.ErrConflict
			return
		}
		b.counted.Repeated++
		op.decision = al.firstAnswer()
		return
	}
	a, isNew := s.state.accounts[name], false
	if a == nil {
		if len(s.state.accounts) >= s.opts.MaxLedgers {
			op.err = service.ErrTooManyLedgers
			return
		}
		a, isNew = newAccount(b, name, r.Limit), true
	} else {
		a.follow(b, r.Limit)
	}
	taken := a.used.Add(a.held)
	if a.limited && taken.Add(r.Amount) > a.limit {
		b.counted.Denied++
		op.decision = a.answer(r.ID, max(0, a.limit-taken))
		return
	}
	if isNew {
		s.state.addAccount(b, a)
	}
	b.saveAccount(a)
	a.held = a.held.Add(r.Amount)
	a.touched = b.wall.UnixMilli()
	al := &allocation{
		key: op.key, account: a, id: r.ID, reserved: r.Amount,
		limited: a.limited, limit: a.limit, window: a.window, start: a.start, epoch: a.epoch,
		reservedAt: a.touched, age: s.clock.age,
	}
	al.meta = op.meta
	if a.limited {
		al.remaining = a.limit - taken - r.Amount
	}
	s.state.addAllocation(b, al)
	b.counted.Reserved++
	op.decision = a.answer(r.ID, al.remaining)
	op.decision.Allowed = true
}

// settle carries out op and records it in b.
func (s *Store) settle(b *batch, op *operation) {
	t := &op.settlement
	name := accountName{t.Application, t.Alias}
	al := s.find(b, op.key)
	switch {
	case al == nil:
		if al = s.unreserved(b, op, name); al == nil {
			return
		}
	case al.account.name != name:
		op.err = service.ErrConflict
		return
	case al.state == service.StateSettled || al.state == service.StateVoided:
		b.counted.Repeated++
		op.receipt = al.receipt()
		op.receipt.Repeated = true
		return
	default:
		s.charge(b, al, t.Amount)
	}
	al.state, al.charged, al.endedAt = service.StateSettled, t.Amount, b.wall.UnixMilli()
	b.counted.Settled++
	if t.Amount == 0 {
		al.state = service.StateVoided
		b.counted.Settled--
		b.counted.Voided++
	}
	if al.flags != 0 {
		b.counted.Flagged++
	}
	if op.meta != nil {
		al.meta = op.meta
	}
	op.receipt = al.receipt()
}

// unreserved records a settlement whose reservation never arrived, charged to the alias it names.
func (s *Store) unreserved(b *batch, op *operation, name accountName) *allocation {
	t := &op.settlement
	a := s.state.accounts[name]
	if a == nil {
		if len(s.state.accounts) >= s.opts.MaxLedgers {
			op.err = service.ErrTooManyLedgers
			return nil
		}
		a = newAccount(b, name, t.Limit)
		s.state.addAccount(b, a)
	}
	a.roll(b, a.window)
	b.saveAccount(a)
	a.used, a.total = a.used.Add(t.Amount), a.total.Add(t.Amount)
	a.touched = b.wall.UnixMilli()
	al := &allocation{key: op.key, account: a, id: t.ID, epoch: a.epoch, reservedAt: a.touched, age: s.clock.age}
	al.flags = service.FlagUnreserved
	al.state = service.StateSettled
	s.state.addAllocation(b, al)
	return al
}

// charge ends a held or expired allocation. What was reserved counts in the window of the
// reservation, what is above it in the current one.
func (s *Store) charge(b *batch, al *allocation, amount service.Micros) {
	a := al.account
	a.roll(b, a.window)
	b.saveAccount(a)
	if s.state.allocs[al.key] == nil {
		s.state.allocs[al.key] = al // it came from the tables
	}
	b.saveAllocation(al)
	switch {
	case al.state == service.StateExpired:
		al.flags |= service.FlagLate
		a.used = a.used.Add(amount)
	case al.epoch == a.epoch:
		a.held = a.held.Add(-al.reserved)
		a.used = a.used.Add(amount)
	case amount > al.reserved:
		a.used = a.used.Add(amount - al.reserved)
	}
	a.total = a.total.Add(amount)
	a.touched = b.wall.UnixMilli()
}

// expire ends the holds whose time is over and returns how many. The list stays as it is until the
// batch is durable, so it steps over what this batch has ended.
func (s *Store) expire(b *batch) int {
	n := 0
	for e := s.state.held.Front(); e != nil; e = e.Next() {
		al := e.Value.(*allocation)
		if s.clock.age-al.age < s.opts.HoldTime {
			break
		}
		if al.state != service.StateHeld {
			continue
		}
		b.saveAllocation(al)
		al.state, al.endedAt = service.StateExpired, b.wall.UnixMilli()
		if a := al.account; al.epoch == a.epoch {
			b.saveAccount(a)
			a.held = a.held.Add(-al.reserved)
		}
		n++
	}
	b.counted.Expired += uint64(n)
	return n
}

// find returns the allocation of key from memory or from what the batch has read from the tables.
func (s *Store) find(b *batch, key allocKey) *allocation {
	if al := s.state.allocs[key]; al != nil {
		return al
	}
	return b.cold[key]
}

// answer describes a's limit with that much remaining.
func (a *account) answer(id string, remaining service.Micros) service.Decision {
	d := service.Decision{ID: id, Limited: a.limited}
	if a.limited {
		start := time.UnixMilli(a.start)
		d.Limit, d.Remaining, d.Policy = a.limit, remaining, a.policy
		d.ResetAt, d.WindowSeconds = a.window.End(start), a.window.Seconds(start)
	}
	return d
}

// firstAnswer is the decision as it was when al was reserved.
func (al *allocation) firstAnswer() service.Decision {
	d := service.Decision{ID: al.id, Allowed: true, Repeated: true, Limited: al.limited}
	if al.limited {
		start := time.UnixMilli(al.start)
		d.Limit, d.Remaining, d.Policy = al.limit, al.remaining, al.account.policy
		d.ResetAt, d.WindowSeconds = al.window.End(start), al.window.Seconds(start)
	}
	return d
}

func (al *allocation) receipt() service.Receipt {
	return service.Receipt{ID: al.id, Amount: al.charged, State: al.state, Flags: al.flags}
}
