package book

import (
	"math"
	"math/bits"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// scale returns (n*amount + carry) / span and the remainder, exactly; it stops at the largest amount.
func scale(n int64, amount service.Micros, carry, span int64) (service.Micros, int64) {
	if n <= 0 || amount <= 0 || span <= 0 {
		return 0, carry
	}
	hi, lo := bits.Mul64(uint64(n), uint64(amount))
	lo, over := bits.Add64(lo, uint64(carry), 0)
	hi += over
	if hi >= uint64(span) {
		return math.MaxInt64, 0
	}
	quotient, rest := bits.Div64(hi, lo, uint64(span))
	if quotient > math.MaxInt64 {
		return math.MaxInt64, 0
	}
	return service.Micros(quotient), int64(rest)
}
