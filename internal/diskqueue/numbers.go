package diskqueue

import "math/bits"

// numberSet is a set of numbers, which are close together: it takes a bit for each from the lowest on.
type numberSet struct {
	base  uint64 // the number of the first bit; a multiple of 64
	words []uint64
	count int
}

func (s *numberSet) add(n uint64) {
	if s.count == 0 {
		s.base, s.words = n&^63, s.words[:0]
	}
	for n >= s.base+64*uint64(len(s.words)) {
		s.words = append(s.words, 0)
	}
	s.words[(n-s.base)/64] |= 1 << (n % 64)
	s.count++
}

func (s *numberSet) has(n uint64) bool {
	i := (n - s.base) / 64 // huge where n is below the base
	return i < uint64(len(s.words)) && s.words[i]&(1<<(n%64)) != 0
}

// remove reports whether n was in the set.
func (s *numberSet) remove(n uint64) bool {
	if !s.has(n) {
		return false
	}
	s.words[(n-s.base)/64] &^= 1 << (n % 64)
	s.count--
	return true
}

// lowest is the lowest number in the set; ok is false if that is empty.
func (s *numberSet) lowest() (n uint64, ok bool) {
	empty := 0
	for empty < len(s.words) && s.words[empty] == 0 {
		empty++
	}
	if empty == len(s.words) {
		return 0, false
	}
	if empty > 1024 && empty > len(s.words)/2 { // the rest takes less than what goes
		s.words = append([]uint64(nil), s.words[empty:]...)
		s.base += 64 * uint64(empty)
		empty = 0
	}
	return s.base + 64*uint64(empty) + uint64(bits.TrailingZeros64(s.words[empty])), true
}
