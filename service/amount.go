package service

import (
	"errors"
	"fmt"
	"math"
)

// Micros is an amount of usage in millionths of a unit. On the wire an amount is a float64 of units;
// everything behind the wire counts in Micros, so that sums are exact.
type Micros int64

// MaxAmount is the largest amount of one reservation or settlement: 10^12 units.
const MaxAmount Micros = 1e18

// ErrInvalidAmount is what ToMicros returns for a number that is no amount.
var ErrInvalidAmount = errors.New("invalid amount")

// ToMicros converts units to Micros, rounding to the nearest millionth. An amount above zero never
// becomes zero, because settling with zero means void. NaN, infinities, negative amounts and amounts
// above MaxAmount are ErrInvalidAmount.
func ToMicros(units float64) (Micros, error) {
	switch {
	case math.IsNaN(units) || math.IsInf(units, 0):
		return 0, fmt.Errorf("%w: not a finite number", ErrInvalidAmount)
	case units < 0:
		return 0, fmt.Errorf("%w: %v is negative", ErrInvalidAmount, units)
	case units > MaxAmount.Units():
		return 0, fmt.Errorf("%w: %v is above %v", ErrInvalidAmount, units, MaxAmount.Units())
	}
	m := Micros(math.Round(units * 1e6))
	if m == 0 && units > 0 {
		m = 1
	}
	return m, nil
}

// Units converts m to units.
func (m Micros) Units() float64 { return float64(m) / 1e6 }

// Add returns m + n, held at the ends of the int64 range instead of wrapping around.
func (m Micros) Add(n Micros) Micros {
	sum := m + n
	switch {
	case n > 0 && sum < m:
		return math.MaxInt64
	case n < 0 && sum > m:
		return math.MinInt64
	}
	return sum
}
