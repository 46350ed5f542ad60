package book

import (
	"math/rand/v2"
	"testing"
)

type record struct {
	key  int
	next *record
}

// An index holds what a map does, whatever is added and removed.
func TestIndex(t *testing.T) {
	for _, room := range []int{0, 1, 7, 1000} {
		x := newIndex(room, func(r *record) int { return r.key }, func(r *record) **record { return &r.next })
		want, rng := map[int]*record{}, rand.New(rand.NewPCG(uint64(room), 7))
		for range 20_000 {
			key := rng.IntN(3000)
			if got := x.get(key); got != want[key] {
				t.Fatalf("%d: %p, want %p", key, got, want[key])
			}
			if want[key] == nil && rng.IntN(3) > 0 {
				want[key] = &record{key: key}
				x.add(want[key])
			} else {
				delete(want, key)
				x.remove(key)
			}
		}
		for r := range x.all {
			if want[r.key] != r {
				t.Errorf("%d is there, and should not", r.key)
			}
			delete(want, r.key)
		}
		if len(want) > 0 {
			t.Errorf("%d records are missing", len(want))
		}
	}
}
