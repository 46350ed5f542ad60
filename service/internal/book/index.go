package book

import (
	"hash/maphash"
	"math/bits"
)

// index finds records by a key that they hold themselves. A map would hold the keys once more, and be half empty:
// of a million records that is 100 MiB.
//
// It is a hash table of chains through the records, with a bucket for each record. Buckets are added one at a time
// (linear hashing), so that no insertion has to move everything.
type index[K comparable, R any] struct {
	seed    maphash.Seed
	buckets []*R // never empty
	size    int
	key     func(*R) K
	next    func(*R) **R // the link to the next record of a chain
}

// newIndex returns an index with room for size records.
func newIndex[K comparable, R any](size int, key func(*R) K, next func(*R) **R) *index[K, R] {
	return &index[K, R]{seed: maphash.MakeSeed(), buckets: make([]*R, max(1, size)), key: key, next: next}
}

// bucket returns the number of k's bucket.
func (x *index[K, R]) bucket(k K) uint64 {
	hash, n := maphash.Comparable(x.seed, k), uint64(len(x.buckets))
	mask := uint64(1)<<bits.Len64(n-1) - 1
	if b := hash & mask; b < n {
		return b
	}
	return hash & (mask >> 1) // the bucket that the missing one will be split from
}

// get returns the record of k, or nil.
func (x *index[K, R]) get(k K) *R {
	r := x.buckets[x.bucket(k)]
	for r != nil && x.key(r) != k {
		r = *x.next(r)
	}
	return r
}

// add adds r, whose key must not be there yet.
func (x *index[K, R]) add(r *R) {
	if x.size >= len(x.buckets) {
		x.split()
	}
	x.size++
	x.link(r)
}

func (x *index[K, R]) link(r *R) {
	head := &x.buckets[x.bucket(x.key(r))]
	*x.next(r), *head = *head, r
}

// split adds a bucket, and moves into it what belongs there: all of that is in one other bucket.
func (x *index[K, R]) split() {
	n := uint64(len(x.buckets))
	x.buckets = append(x.buckets, nil)
	from := &x.buckets[n&^(1<<(bits.Len64(n)-1))]
	r := *from
	*from = nil
	for r != nil {
		next := *x.next(r)
		x.link(r)
		r = next
	}
}

// remove removes the record of k, if there is one.
func (x *index[K, R]) remove(k K) {
	at := &x.buckets[x.bucket(k)]
	for *at != nil && x.key(*at) != k {
		at = x.next(*at)
	}
	if r := *at; r != nil {
		*at, *x.next(r) = *x.next(r), nil
		x.size--
	}
}
