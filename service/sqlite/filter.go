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

// newFilter returns a filter with 16 bits for each of that many keys: it is wrong about 1 of 1,000 then.
func newFilter(keys int) *filter {
	keys = max(minFilter, 1<<bits.Len(uint(keys)))
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

// startFilter has a new filter filled, for twice the keys that there are. Until it is ready, the one before is used.
func (s *Store) startFilter() {
	s.filling = newFilter(2 * int(s.state.NextSeq-s.tables.firstSeq))
	if s.filling.room > maxFilter {
		s.filter, s.filling = nil, nil
		return
	}
	if !s.tables.hasAllocs {
		s.filter, s.filling = s.filling, nil
		return
	}
	s.wg.Add(1)
	go s.fillFilter(s.filling)
}

// fillFilter reads all keys, beside what the committer adds meanwhile.
func (s *Store) fillFilter(f *filter) {
	defer s.wg.Done()
	err := s.tables.eachKey(s.ended, f.add)
	if err == nil {
		s.filled <- f
		return
	}
	s.filled <- nil
	if !errors.Is(err, service.ErrLedgerClosed) {
		s.opts.Logger.Warn("the keys of the ledger's tables could not be read; each new one is looked for", "error", err)
	}
}

// finishFilter takes what fillFilter has made.
func (s *Store) finishFilter(f *filter) {
	if f != nil {
		s.filter = f
	}
	s.filling = nil
}

// addToFilter notes the keys of a job that is in the tables.
func (s *Store) addToFilter(j *foldJob) {
	for _, f := range []*filter{s.filter, s.filling} {
		if f == nil {
			continue
		}
		for i := range j.allocs {
			if j.allocs[i].needsKey() {
				f.add(&j.allocs[i].Key)
				f.keys++
			}
		}
	}
	if s.filter != nil && s.filling == nil && s.filter.keys > s.filter.room {
		s.startFilter()
	}
}

// eachKey calls f with each key that was in the tables when it was called, and perhaps with later ones.
func (t *tables) eachKey(stop <-chan struct{}, f func(*book.Key)) error {
	ctx, last := context.Background(), []byte{}
	for {
		select {
		case <-stop:
			return service.ErrLedgerClosed
		default:
		}
		rows, err := t.others.QueryContext(ctx, `SELECT key FROM allocation_keys WHERE key > ? ORDER BY key LIMIT ?`, last, fillAtOnce)
		if err != nil {
			return err
		}
		n := 0
		err = each(rows, func() error {
			if err := rows.Scan(&last); err != nil {
				return err
			}
			n++
			key := book.Key(last)
			f(&key)
			return nil
		})
		if err != nil || n < fillAtOnce {
			return err
		}
	}
}
