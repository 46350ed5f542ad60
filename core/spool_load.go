package core

import "slices"

// load reads settlements back that are on disk alone, when half of the list's room is free.
func (s *spool) load() {
	o := s.flow.outbox
	inList := func() int64 {
		o.mu.Lock()
		defer o.mu.Unlock()
		return s.listBytesLocked()
	}
	for s.from != 0 && inList() < s.maxList/2 {
		next, err := s.queue.Read(s.from, func(entry uint64, data []byte) bool {
			if _, ok := s.loaded[entry]; ok {
				delete(s.loaded, entry)
				return true
			}
			e := decodeSettlement(s.flow, data)
			if e == nil {
				return true // countLeft has taken those out
			}
			e.entry, e.onDiskWeight = entry, e.weight()
			o.mu.Lock()
			defer o.mu.Unlock()
			o.bytes += e.size()
			o.linkLocked(e)
			return s.listBytesLocked() < s.maxList
		})
		if err != nil {
			next = s.discard(next, err)
		} else if next == s.from {
			return // what follows is not on disk yet
		}
		s.from = next
		s.flow.sender.retryNow()
		if s.from > s.queue.Last() {
			s.caughtUp()
		}
	}
}

// caughtUp notes that everything on disk is in memory too.
func (s *spool) caughtUp() {
	s.from = 0
	clear(s.loaded)
	o := s.flow.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	s.behind = slices.ContainsFunc(s.unwrittenLocked(), func(e *settlement) bool { return e.away })
	if s.behind {
		return
	}
	inList := int64(0)
	for e := o.oldest; e != nil; e = e.newer {
		inList += e.onDiskWeight
	}
	if lost := o.spooled - inList; lost > 0 { // they were in entries that could not be read, and stood for more than one request
		o.spooled -= lost
		o.dropped += lost
		o.wakeLocked()
	}
}

// discard gives up entries that can't be read, and returns where to go on.
func (s *spool) discard(from uint64, err error) (next uint64) {
	count, next := s.queue.Discard(from)
	for entry := range s.loaded {
		if entry >= from && entry < next {
			delete(s.loaded, entry)
			count-- // it is in memory
		}
	}
	s.flow.log.Error("usageflow: settlements in the spool can't be read, and are lost", "count", count, "error", err)
	o := s.flow.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	lost := min(int64(count), o.spooled)
	o.spooled -= lost
	o.dropped += lost
	o.wakeLocked()
	return next
}
