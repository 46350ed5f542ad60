package ledgertest

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// Model is the rules of the ledger in the simplest words that they have: one alias, one limit per
// minute. Ledgers are compared with it, operation by operation.
type Model struct {
	Limit      service.Micros
	Used, Held service.Micros // in the current window
	Total      service.Micros

	window    time.Time
	windowAge time.Duration
	latest    time.Time
	epoch     int           // of the window
	age       time.Duration // how much time has passed, whatever the clock says
	allocs    map[string]*modelAllocation
}

type modelAllocation struct {
	reserved, charged service.Micros
	age               time.Duration
	epoch             int
	state             service.State
	flags             service.Flag
}

// NewModel returns an empty model.
func NewModel(limit service.Micros) *Model {
	return &Model{Limit: limit, allocs: map[string]*modelAllocation{}}
}

// Advance ends holds; time that goes back does nothing.
func (m *Model) Advance(now time.Time) {
	if now.After(m.latest) {
		if !m.latest.IsZero() {
			m.age += now.Sub(m.latest)
		}
		m.latest = now
	}
	for _, a := range m.allocs {
		if a.state == service.StateHeld && m.age-a.age >= HoldTime {
			a.state = service.StateExpired
			if a.epoch == m.epoch {
				m.Held -= a.reserved
			}
		}
	}
}

// Restart is a new process, which has no idea how long ago it was that the clock said later than now.
func (m *Model) Restart(now time.Time) {
	if now.Before(m.latest) {
		m.latest = now
	}
}

// Roll begins the window that contains now. An earlier one than the last begins when that has lasted long enough.
func (m *Model) Roll(now time.Time) {
	if m.over(now) {
		m.window, m.windowAge, m.Used, m.Held = now.Truncate(time.Minute), m.age, 0, 0
		m.epoch++
	}
}

func (m *Model) over(now time.Time) bool {
	start := now.Truncate(time.Minute)
	return start.After(m.window) || start.Before(m.window) && m.age-m.windowAge >= time.Minute
}

// Reserve returns whether the reservation is admitted.
func (m *Model) Reserve(now time.Time, id string, amount service.Micros) bool {
	if m.allocs[id] != nil {
		return true
	}
	m.Roll(now)
	if m.Used+m.Held+amount > m.Limit {
		return false
	}
	m.Held += amount
	m.allocs[id] = &modelAllocation{reserved: amount, epoch: m.epoch, age: m.age}
	return true
}

// Settle returns what is charged for id in all, and with which flags.
func (m *Model) Settle(now time.Time, id string, amount service.Micros) (service.Micros, service.Flag) {
	a := m.allocs[id]
	if a == nil || a.state != service.StateSettled {
		m.Roll(now)
	}
	switch {
	case a == nil:
		a = &modelAllocation{flags: service.FlagUnreserved}
		m.allocs[id] = a
		m.Used += amount
	case a.state == service.StateSettled:
		return a.charged, a.flags
	case a.state == service.StateExpired:
		a.flags = service.FlagLate
		m.Used += amount
	case a.epoch == m.epoch:
		m.Held -= a.reserved
		m.Used += amount
	case amount > a.reserved:
		m.Used += amount - a.reserved
	}
	a.state, a.charged = service.StateSettled, amount
	m.Total += amount
	return amount, a.flags
}

// Seed is the seed of the random tests; a failure names it.
const Seed = 20260314

// Step does one random operation on the ledger and on the model and reports where they differ.
func Step(t testing.TB, rng *rand.Rand, clock *Clock, ledger service.Ledger, m *Model) {
	t.Helper()
	id := strconv.Itoa(rng.IntN(len(m.allocs) + 10))
	amount := service.Micros(rng.IntN(4)) * unit
	limits := []service.Limit{{Amount: m.Limit, Window: service.WindowMinute}}
	switch choice := rng.IntN(100); {
	case choice < 45:
		m.Advance(clock.Now())
		want := m.Reserve(clock.Now(), id, amount)
		d, err := service.Reserve(t.Context(), ledger, service.Reservation{Application: app, Alias: alias, ID: id, Amount: amount, Limits: limits})
		if err != nil || d.Allowed != want {
			t.Fatalf("Reserve(%s, %v) = %+v, %v; the model says %v", id, amount.Units(), d, err, want)
		}
	case choice < 85:
		m.Advance(clock.Now())
		want, flags := m.Settle(clock.Now(), id, amount)
		r, err := service.Settle(t.Context(), ledger, service.Settlement{Application: app, Alias: alias, ID: id, Amount: amount, Limits: limits})
		if err != nil || r.Amount != want || r.Flags != flags {
			t.Fatalf("Settle(%s, %v) = %+v, %v; the model says %v %v", id, amount.Units(), r, err, want.Units(), flags.Names())
		}
	case choice < 97:
		clock.Move(time.Duration(rng.IntN(40_000)) * time.Millisecond)
	default:
		clock.Move(-time.Duration(rng.IntN(90_000)) * time.Millisecond)
	}
}

// Compare reports where the ledger's counts differ from the model's.
func Compare(t testing.TB, clock *Clock, ledger service.Ledger, m *Model) {
	t.Helper()
	if len(m.allocs) == 0 {
		return
	}
	m.Advance(clock.Now())
	used, held := m.Used, m.Held
	if m.over(clock.Now()) {
		used, held = 0, 0 // the next operation begins a window
	}
	f := &fixture{TB: t, clock: clock, ledger: ledger}
	f.sweep()
	if l := f.state(app, alias); l.Used != used || l.Held != held {
		t.Fatalf("used %v held %v; the model says %v and %v", l.Used.Units(), l.Held.Units(), used.Units(), held.Units())
	}
}

func testModel(t *testing.T, f *fixture) {
	rng := rand.New(rand.NewPCG(Seed, 1))
	m := NewModel(12 * unit)
	for step := range 600 {
		Step(t, rng, f.clock, f.ledger, m)
		if t.Failed() {
			t.Fatalf("seed %d, step %d", Seed, step)
		}
		Compare(t, f.clock, f.ledger, m)
	}
}
