package brokerload

import (
	"math/bits"
	"time"
)

// Each power of two is split into 128 buckets, so a quantile is exact to 0.8 %. Buckets end at a minute.
const (
	subBits    = 7
	subBuckets = 1 << subBits
	maxBits    = 36
	buckets    = (maxBits - subBits + 1) * subBuckets
)

// Latencies counts durations in buckets that grow with them. The zero value is empty.
type Latencies struct {
	counts [buckets]uint32
}

// Add counts d.
func (l *Latencies) Add(d time.Duration) { l.counts[bucket(d)]++ }

// Merge adds what other has counted.
func (l *Latencies) Merge(other *Latencies) {
	for i, n := range other.counts {
		l.counts[i] += n
	}
}

// Count is how many durations were added.
func (l *Latencies) Count() int {
	total := 0
	for _, n := range l.counts {
		total += int(n)
	}
	return total
}

// Quantile is the duration that the part q of all does not exceed; 0 if there is none.
func (l *Latencies) Quantile(q float64) time.Duration {
	rank, seen := q*float64(l.Count()), 0
	for i, n := range l.counts {
		seen += int(n)
		if n > 0 && float64(seen) >= rank {
			return middle(i)
		}
	}
	return 0
}

func bucket(d time.Duration) int {
	n := uint64(max(0, d))
	shift := max(0, bits.Len64(n)-subBits-1)
	return min(shift*subBuckets+int(n>>shift), buckets-1)
}

// middle is the duration in the middle of a bucket.
func middle(i int) time.Duration {
	shift := max(0, i/subBuckets-1)
	low := (i - shift*subBuckets) << shift
	return time.Duration(low + (1<<shift)/2)
}
