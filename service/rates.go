package service

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// rateSeconds is how many seconds are counted one by one.
	rateSeconds = 300
	rateKinds   = 4 // reserved, denied, settled, voided
)

// rates count events per second, for the last rateSeconds. They are safe for concurrent use; counting takes no lock but for the
// first event of a second.
type rates struct {
	turning sync.Mutex
	seconds [rateSeconds]struct {
		at     atomic.Int64 // Unix seconds
		counts [rateKinds]atomic.Uint64
	}
}

func (r *rates) add(second int64, kind eventKind) {
	if kind >= rateKinds {
		return
	}
	s := &r.seconds[second%rateSeconds]
	if s.at.Load() != second {
		r.turn(second)
		if s.at.Load() != second {
			return // the clock was set back, by more than is kept
		}
	}
	s.counts[kind].Add(1)
}

// turn makes room for a second where one was that is over.
func (r *rates) turn(second int64) {
	r.turning.Lock()
	defer r.turning.Unlock()
	s := &r.seconds[second%rateSeconds]
	if s.at.Load() >= second {
		return
	}
	for i := range s.counts {
		s.counts[i].Store(0)
	}
	s.at.Store(second)
}

// rateView is a second in /api/v1/rates.
type rateView struct {
	At       int64  `json:"at"`
	Reserved uint64 `json:"reserved"`
	Denied   uint64 `json:"denied"`
	Settled  uint64 `json:"settled"`
	Voided   uint64 `json:"voided"`
}

// view returns the seconds from first to last, of those that are kept.
func (r *rates) view(first, last int64) []rateView {
	views := []rateView{}
	for second := max(first, last-rateSeconds+1); second <= last; second++ {
		v := rateView{At: second}
		if s := &r.seconds[second%rateSeconds]; s.at.Load() == second {
			v.Reserved, v.Denied = s.counts[eventReserved].Load(), s.counts[eventDenied].Load()
			v.Settled, v.Voided = s.counts[eventSettled].Load(), s.counts[eventVoided].Load()
		}
		views = append(views, v)
	}
	return views
}

// serveRates answers what has happened in each of the last seconds, the oldest first.
func (s *Service) serveRates(w http.ResponseWriter, _ *http.Request) {
	now := time.Now()
	writeJSON(w, http.StatusOK, map[string]any{"now": now.UnixMilli(), "seconds": s.rates.view(s.started.Unix(), now.Unix())})
}
