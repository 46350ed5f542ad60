package book_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

// schedules is how many seeded schedules TestSchedules runs.
const schedules = 300

// TestSchedules runs random operations, in batches of which some are taken back as a failed write is, with clock steps and
// changes of the limits, and checks after each batch that what the ledgers say adds up.
func TestSchedules(t *testing.T) {
	for seed := range uint64(schedules) {
		s := newSchedule(t, seed)
		for step := range 60 {
			s.batch()
			if t.Failed() {
				t.Fatalf("seed %d, step %d", seed, step)
			}
		}
	}
}

// schedule is a book and what is known of it from outside.
type schedule struct {
	*testing.T
	rng     *rand.Rand
	now     time.Time
	book    *book.Book
	pending []pending
	charged map[string]service.Micros // by id, of settlements that are durable
	minute  service.Micros            // limits of the alias, which change
	burst   service.Micros
}

func newSchedule(t *testing.T, seed uint64) *schedule {
	s := &schedule{
		T: t, rng: rand.New(rand.NewPCG(seed, 7)), now: time.Date(2026, 3, 14, 0, 0, 0, 0, time.UTC), book: book.New(0, 0),
		charged: map[string]service.Micros{}, minute: 12, burst: 0,
	}
	s.book.HoldTime, s.book.MaxAccounts = 5*time.Minute, 1000
	s.book.Clock.Now = func() time.Time { return s.now }
	return s
}

func (s *schedule) limits() []service.Limit {
	return []service.Limit{
		{Amount: s.minute, Window: service.WindowMinute, Burst: s.burst, Policy: "route"},
		{Amount: 200, Window: service.WindowHour, Policy: "route"},
		{Amount: 30, Window: service.WindowMinute, Policy: "budget", Ledger: "* * ann"},
		{Amount: 1000, Window: service.WindowDay, Policy: "plan", Ledger: "* *", Soft: true},
	}
}

type answer struct {
	id      string
	charged service.Micros
}

// pending is a batch that is decided and not durable yet, and what was there before it.
type pending struct {
	*book.Batch
	before  map[string]any
	answers []answer
}

func (s *schedule) batch() {
	switch s.rng.IntN(12) {
	case 0:
		s.now = s.now.Add(-time.Duration(s.rng.IntN(90)) * time.Second)
	case 1:
		s.minute, s.burst = service.Micros(5+s.rng.IntN(15)), service.Micros(s.rng.IntN(2)*(3+s.rng.IntN(5)))
	case 2:
		s.now = s.now.Add(time.Duration(s.rng.IntN(8)) * time.Minute)
	default:
		s.now = s.now.Add(time.Duration(s.rng.IntN(9000)) * time.Millisecond)
	}
	before := s.snapshot()
	b := s.book.Begin()
	b.Expire()
	var answers []answer
	for range 1 + s.rng.IntN(8) {
		id, alias := fmt.Sprint(s.rng.IntN(120)), "GET /a ann"
		if len(id)%2 == 0 {
			alias = "GET /b ann"
		}
		key, amount := book.KeyOf("acme", id), service.Micros(s.rng.IntN(5))
		if s.rng.IntN(2) == 0 {
			r := service.Reservation{Application: "acme", Alias: alias, ID: id, Amount: amount, Limits: s.limits()}
			d, err := b.Reserve(&r, key, nil)
			if err != nil {
				s.Fatal(err)
			}
			if d.Allowed && !d.Repeated {
				s.admitted(alias)
			}
			continue
		}
		r, err := b.Settle(&service.Settlement{Application: "acme", Alias: alias, ID: id, Amount: amount, Limits: s.limits()}, key, nil)
		if err != nil {
			s.Fatal(err)
		}
		if first, known := s.charged[id]; known && (!r.Repeated || r.Amount != first) {
			s.Errorf("%s was charged %v, and now %+v", id, first, r)
		}
		answers = append(answers, answer{id, r.Amount})
	}
	b.End()
	s.pending = append(s.pending, pending{b, before, answers})
	switch n := s.rng.IntN(10); {
	case n == 0: // the write fails: nothing of these has happened
		for len(s.pending) > 0 {
			last := len(s.pending) - 1
			s.pending[last].Undo()
			if after := s.snapshot(); !reflect.DeepEqual(s.pending[last].before, after) {
				s.Errorf("before %v\nafter Undo %v", s.pending[last].before, after)
			}
			s.pending = s.pending[:last]
		}
	case n < 7:
		s.keep()
	}
	for len(s.pending) > 3 {
		s.keep()
	}
	s.check()
}

// keep makes the oldest of the batches that are pending durable.
func (s *schedule) keep() {
	p := s.pending[0]
	s.pending = s.pending[1:]
	for i := range p.Allocations {
		s.book.Place(p.Allocations[i].Allocation, p.Allocations[i].After)
	}
	for _, a := range p.answers {
		s.charged[a.id] = a.charged
	}
}

// snapshot is all that Undo has to bring back.
func (s *schedule) snapshot() map[string]any {
	all := map[string]any{}
	for a := range s.book.Accounts {
		all["account "+a.Name.Alias] = []any{a.Sums, slices.Clone(a.Counters)}
	}
	for al := range s.book.Allocations {
		all["allocation "+al.ID] = []any{al.Progress, slices.Clone(al.Holds()), al.Prev}
	}
	all["size"] = s.book.Size
	return all
}

// admitted checks that nothing was admitted beyond a limit: right after, what is used and held is within all of them.
func (s *schedule) admitted(alias string) {
	for _, name := range []string{alias, "* * ann"} {
		for _, c := range s.book.Account(book.Name{App: "acme", Alias: name}).Counters {
			if c.Limited && !c.Soft && c.Used+c.Held > c.Limit {
				s.Errorf("%s, %v (bucket %v): used %d and held %d of %d", name, c.Window, c.Bucket, c.Used, c.Held, c.Limit)
			}
		}
	}
}

// check compares the accounts with what the allocations add up to.
func (s *schedule) check() {
	total, held, holds := map[string]service.Micros{}, map[string]service.Micros{}, 0
	inCounter := map[*book.Account]map[uint32]service.Micros{}
	for al := range s.book.Allocations {
		names := map[*book.Account]bool{al.Account: true}
		for _, h := range al.Holds() {
			names[h.Account] = true
			if al.State == service.StateHeld {
				if inCounter[h.Account] == nil {
					inCounter[h.Account] = map[uint32]service.Micros{}
				}
				inCounter[h.Account][h.Epoch] += al.Reserved
			}
		}
		if al.State == service.StateHeld {
			holds++
			for a := range names {
				held[a.Name.Alias] += al.Reserved
			}
		}
		total[al.Account.Name.Alias] += al.Charged
	}
	if listed := s.book.HeldCount(); len(s.pending) == 0 && listed != holds {
		s.Errorf("%d are held, %d of them will expire", holds, listed)
	}
	for a := range s.book.Accounts {
		if a.Held != held[a.Name.Alias] {
			s.Errorf("%s: holds %d, its allocations %d", a.Name.Alias, a.Held, held[a.Name.Alias])
		}
		if want, own := total[a.Name.Alias], a.Name.Alias != "* * ann" && a.Name.Alias != "* *"; own && a.Total != want {
			s.Errorf("%s: charged %d, its allocations %d", a.Name.Alias, a.Total, want)
		}
		for _, c := range a.Counters {
			if c.Held != inCounter[a][c.Epoch] || c.Held < 0 || c.Used < 0 {
				s.Errorf("%s, %v (bucket %v): used %d, held %d, its allocations %d", a.Name.Alias, c.Window, c.Bucket, c.Used, c.Held, inCounter[a][c.Epoch])
			}
		}
	}
	for al := range s.book.Allocations {
		if first, known := s.charged[al.ID]; known && al.Charged != first {
			s.Errorf("%s: acknowledged %d, charged %d", al.ID, first, al.Charged)
		}
	}
}
