package sqlite

import (
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"sync/atomic"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
)

const (
	// minFilter and maxFilter bound the keys that a filter is made for: 2 and 64 MiB. A ledger with more keeps no filter.
	minFilter = 1 << 20
	maxFilter = 1 << 25
	// fillAtOnce is how many keys one query reads.
	fillAtOnce = 4096
)

// filter is a Bloom filter of the keys that the tables have: what it doesn't have, the tables don't. All bits of a key are in one
// block, which is a cache line, and are taken from the key itself, which is a hash.
type filter struct {
	blocks [][8]uint64
	room   int
	keys   int // the committer's count
}

// filterRoom is how many keys a filter for so many has room for.
func filterRoom(keys int) int { return max(minFilter, 1<<bits.Len(uint(keys))) }

// newFilter returns a filter with 16 bits for each of that many keys: it is wrong about 1 of 1,000 then.
func newFilter(keys int) *filter {
	keys = filterRoom(keys)
	return &filter{blocks: make([][8]uint64, keys*16/512), room: keys}
}

// spot returns a key's block and the places of its 6 bits in it, of 9 bits each.
func (f *filter) spot(key *book.Key) (block *[8]uint64, places uint64) {
	n := binary.LittleEndian.Uint64(key[:8])
	return &f.blocks[n&uint64(len(f.blocks)-1)], binary.LittleEndian.Uint64(key[8:])
}

// add may be called by several goroutines at once.
func (f *filter) add(key *book.Key) {
	block, places := f.spot(key)
	for range 6 {
		atomic.OrUint64(&block[places>>6&7], 1<<(places&63))
		places >>= 9
	}
}

func (f *filter) has(key *book.Key) bool {
	block, places := f.spot(key)
	for range 6 {
		if atomic.LoadUint64(&block[places>>6&7])&(1<<(places&63)) == 0 {
			return false
		}
		places >>= 9
	}
	return true
}

// inTables reports whether the tables may have key.
func (s *Store) inTables(key *book.Key) bool {
	return s.tables.hasAllocs && (s.filter == nil || s.filter.has(key))
}

// startFilter has a new filter filled, for twice the keys that there are. Until it is ready, the one before is used. Where they are too
// many there is none, until the retention has removed some.
func (s *Store) startFilter() {
	s.newKeys = 0
	n, err := s.tables.keyCount()
	if err != nil {
		s.noFilter(err)
		return
	}
	if filterRoom(2*n) > maxFilter {
		s.filter = nil
		return
	}
	f := newFilter(2 * n)
	if n == 0 {
		s.filter = f
		return
	}
	s.filling = f
	s.wg.Add(1)
	go s.fillFilter(f)
}

// fillFilter reads all keys, beside what the committer adds meanwhile.
func (s *Store) fillFilter(f *filter) {
	defer s.wg.Done()
	n, err := s.tables.eachKey(s.ended, f.add)
	if err != nil && !errors.Is(err, service.ErrLedgerClosed) {
		s.noFilter(err)
	}
	s.filled <- filled{n, err}
}

func (s *Store) noFilter(err error) {
	s.opts.Logger.Warn("the keys of the ledger's tables could not be read; each new one is looked for", "error", err)
}

// filled is what has become of a filter: how many keys were read.
type filled struct {
	keys int
	err  error
}

// finishFilter takes what fillFilter has made.
func (s *Store) finishFilter(done filled) {
	if done.err == nil {
		s.filling.keys += done.keys
		s.filter = s.filling
	}
	s.filling = nil
}

// addToFilter notes the keys of a job that is in the tables.
func (s *Store) addToFilter(j *foldJob) {
	for i := range j.allocs {
		if !j.allocs[i].needsKey() {
			continue
		}
		s.newKeys++
		for _, f := range []*filter{s.filter, s.filling} {
			if f != nil {
				f.add(&j.allocs[i].Key)
				f.keys++
			}
		}
	}
	due := s.filter == nil && s.newKeys >= minFilter || s.filter != nil && s.filter.keys > s.filter.room
	if due && s.filling == nil {
		s.startFilter()
	}
}

// keyCount is about how many keys the tables have.
func (t *tables) keyCount() (n int, err error) {
	err = t.db.QueryRowContext(context.Background(), `SELECT coalesce((SELECT max(seq) FROM allocations) - (SELECT min(seq) FROM allocations) + 1, 0)`).Scan(&n)
	return n, err
}

// eachKey calls f with each key that was in the tables when it was called, and perhaps with later ones; it returns how many they were.
func (t *tables) eachKey(stop <-chan struct{}, f func(*book.Key)) (n int, err error) {
	ctx, last := context.Background(), []byte{}
	for {
		select {
		case <-stop:
			return n, service.ErrLedgerClosed
		default:
		}
		rows, err := t.others.QueryContext(ctx, `SELECT key FROM allocation_keys WHERE key > ? ORDER BY key LIMIT ?`, last, fillAtOnce)
		if err != nil {
			return n, err
		}
		before := n
		err = each(rows, func() error {
			if err := rows.Scan(&last); err != nil {
				return err
			}
			n++
			key := book.Key(last)
			f(&key)
			return nil
		})
		if err != nil || n-before < fillAtOnce {
			return n, err
		}
	}
}
