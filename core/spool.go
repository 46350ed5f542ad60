package core

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/diskqueue"
)

const (
	minSpoolSegment = 64 << 10
	maxSpoolSegment = 8 << 20
	// spoolRetry is how long the spool waits after the disk has failed.
	spoolRetry = time.Second
)

// spool is the goroutine that keeps settlements on disk until the service has confirmed them. Requests don't wait for it, and nor does the
// sender: a settlement is written while it is on its way. When the list in memory is full, later settlements go to disk alone, and come
// back in their order.
type spool struct {
	flow *Flow
	wake chan struct{} // capacity 1
	stop chan struct{}
	done chan struct{}

	// Owned by run.
	queue   *diskqueue.Queue
	written []writtenSettlement // not known to be on disk yet
	buf     []byte
	from    uint64              // entries from here on are not in memory; 0: all are
	loaded  map[uint64]struct{} // but these
	failed  error               // why the disk did not take the last write
	retryAt time.Time

	// Guarded by the outbox's mu.
	toWrite   []*settlement // in order
	waiting   int64         // bytes of those among them that are away
	behind    bool          // what comes now goes to disk alone
	confirmed []uint64      // entries
}

type writtenSettlement struct {
	settlement *settlement
	entry      uint64
	weight     int64
}

// openSpool opens the spool in Config.SpoolDir. What an earlier process has left there counts as admitted.
func openSpool(f *Flow) (*spool, error) {
	limit := min(f.cfg.MaxSpoolBytes, f.cfg.MaxPendingBytes)
	queue, err := diskqueue.Open(diskqueue.Options{
		Dir: f.cfg.SpoolDir, MaxBytes: f.cfg.MaxSpoolBytes, Segment: int(min(max(limit/8, minSpoolSegment), maxSpoolSegment)),
	})
	if err != nil {
		return nil, fmt.Errorf("core: SpoolDir: %w", err)
	}
	s := &spool{
		flow: f, queue: queue, loaded: make(map[uint64]struct{}),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if queue.Aside() != "" {
		f.log.Error("usageflow: files of the spool are damaged; what can be read of them is sent, and they are put aside", "folder", queue.Aside())
	}
	if queue.Len() > 0 {
		if err := s.recover(); err != nil {
			return nil, errors.Join(fmt.Errorf("core: SpoolDir: %w", err), queue.Close())
		}
	}
	return s, nil
}

// recover counts what is in the queue. It is read again when there is a goroutine to send it.
func (s *spool) recover() error {
	requests, unreadable := int64(0), []uint64(nil)
	for from := uint64(0); from <= s.queue.Last(); {
		next, err := s.queue.Read(from, func(entry uint64, data []byte) bool {
			if e := decodeSettlement(s.flow, data); e != nil {
				requests += e.weight()
			} else {
				unreadable = append(unreadable, entry)
			}
			return true
		})
		if err != nil {
			return err
		}
		from = next
	}
	if len(unreadable) > 0 { // of another version
		s.queue.Remove(unreadable...)
		s.flow.log.Error("usageflow: settlements in the spool can't be read, and are lost", "count", len(unreadable))
	}
	s.flow.counters.admitted.Add(requests)
	s.flow.outbox.spooled = requests
	s.from, s.behind = 1, true
	s.flow.log.Info("usageflow: settlements that an earlier process has left are sent now", "count", s.queue.Len())
	return nil
}

// takeLocked hands over a settlement to be written. It reports whether the spool alone has it.
func (s *spool) takeLocked(e *settlement) (away bool) {
	o := s.flow.outbox
	if o.bytes-s.waiting > s.flow.cfg.MaxPendingBytes/2 {
		s.behind = true
	}
	if s.behind {
		e.away = true
		s.waiting += e.size()
	}
	s.queueLocked(e)
	return e.away
}

func (s *spool) queueLocked(e *settlement) {
	e.queued = true
	s.toWrite = append(s.toWrite, e)
	s.signal()
}

// removeLocked takes out a settlement that the service has confirmed.
func (s *spool) removeLocked(e *settlement) {
	s.flow.outbox.spooled -= e.onDiskWeight
	s.confirmed = append(s.confirmed, e.entry)
	e.entry = 0
}

// abandonLocked returns how many requests are lost because they were to be on disk alone and are not there.
func (s *spool) abandonLocked() (lost int64) {
	for _, e := range s.toWrite {
		if e.away {
			lost += e.weight()
		}
	}
	s.toWrite = nil
	return lost
}

func (s *spool) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *spool) run() {
	defer close(s.done)
	tick := time.NewTicker(s.flow.cfg.SpoolSync)
	defer tick.Stop()
	for {
		select {
		case <-s.wake:
			s.turn(false)
			s.load()
		case <-tick.C:
			s.turn(true)
			s.load()
		case <-s.stop:
			s.retryAt = time.Time{}
			s.turn(true)
			if err := s.queue.Close(); err != nil && s.failed == nil {
				s.flow.log.Error("usageflow: the spool can't be written", "error", err)
			}
			return
		}
	}
}

// close writes what there is, and ends the goroutine. No settlement is added any more.
func (s *spool) close() {
	close(s.stop)
	<-s.done
}

// turn does what there is to do.
func (s *spool) turn(sync bool) {
	if s.failed == nil || !time.Now().Before(s.retryAt) {
		err := s.write()
		if err == nil && sync && s.queue.Dirty() {
			if err = s.queue.Sync(); err == nil {
				err = s.tidy()
			}
		}
		s.outcome(err)
	}
	if s.failed != nil {
		s.bringBack()
	}
}

// outcome notes how writing went, and says when that changes.
func (s *spool) outcome(err error) {
	was := s.failed
	s.failed = err
	if err != nil {
		s.retryAt = time.Now().Add(spoolRetry)
	}
	switch {
	case err != nil && was == nil:
		s.flow.log.Error("usageflow: the spool can't be written; settlements are kept in memory", "error", err)
		s.flow.observe(Event{Kind: EventSpoolFailed, Err: err})
	case err == nil && was != nil:
		s.flow.log.Info("usageflow: the spool is written again")
		s.flow.observe(Event{Kind: EventSpoolRecovered})
	}
}

// write writes what was handed over. What can't be is kept for the next time.
func (s *spool) write() error {
	o := s.flow.outbox
	o.mu.Lock()
	todo, confirmed := s.toWrite, s.confirmed
	s.toWrite, s.confirmed = nil, nil
	todo = slices.DeleteFunc(todo, func(e *settlement) bool { return !e.open && !e.away }) // confirmed before they were written
	o.mu.Unlock()
	s.queue.Remove(confirmed...)
	var failed error
	if len(s.written) == 0 { // else the last Flush has failed, and those come first
		todo, failed = s.appendAll(todo)
	}
	err := s.queue.Flush()
	o.mu.Lock()
	defer o.mu.Unlock()
	s.toWrite = append(todo[:len(todo):len(todo)], s.toWrite...)
	if err == nil {
		s.flushedLocked()
	}
	return errors.Join(failed, err)
}

// appendAll appends settlements to the queue, and returns those that it did not take.
func (s *spool) appendAll(todo []*settlement) (left []*settlement, err error) {
	for i, e := range todo {
		entry, weight, err := s.append(e)
		if err != nil {
			return todo[i:], err
		}
		s.written = append(s.written, writtenSettlement{e, entry, weight})
	}
	return nil, nil
}

// append appends e to the queue, in the place of what that has of it already.
func (s *spool) append(e *settlement) (entry uint64, weight int64, err error) {
	if e.lease == nil {
		s.buf = e.append(s.buf[:0])
		entry, err = s.queue.Append(s.buf)
		return entry, e.weight(), err
	}
	o := s.flow.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	s.buf = e.append(s.buf[:0])
	if e.entry != 0 {
		entry, err = s.queue.Replace(e.entry, s.buf)
	} else {
		entry, err = s.queue.Append(s.buf)
	}
	e.queued = err != nil
	return entry, e.weight(), err
}

// flushedLocked notes that what was written is on disk.
func (s *spool) flushedLocked() {
	o := s.flow.outbox
	for _, w := range s.written {
		e := w.settlement
		switch {
		case e.away:
			o.bytes -= e.size()
			s.waiting -= e.size()
			o.spooled += w.weight
			if s.from == 0 {
				s.from = w.entry
			}
		case !e.open:
			s.confirmed = append(s.confirmed, w.entry)
		default:
			e.entry = w.entry
			o.spooled += w.weight - e.onDiskWeight
			e.onDiskWeight = w.weight
			if s.from != 0 {
				s.loaded[w.entry] = struct{}{}
			}
		}
	}
	clear(s.written)
	s.written = s.written[:0]
}

// bringBack puts settlements that were to go to disk alone, and can't, into the list, as far as there is room.
func (s *spool) bringBack() {
	o := s.flow.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range s.toWrite {
		if o.bytes-s.waiting > s.flow.cfg.MaxPendingBytes/2 {
			return
		}
		if e.away {
			e.away = false
			s.waiting -= e.size()
			o.linkLocked(e)
			s.flow.sender.retryNow()
		}
	}
	if s.from == 0 {
		s.behind = false
	}
}

// load reads settlements back that are on disk alone, when half of the list's room is free.
func (s *spool) load() {
	o := s.flow.outbox
	limit := s.flow.cfg.MaxPendingBytes / 2
	inList := func() int64 {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.bytes - s.waiting
	}
	for s.from != 0 && inList() < limit/2 {
		next, err := s.queue.Read(s.from, func(entry uint64, data []byte) bool {
			if _, ok := s.loaded[entry]; ok {
				delete(s.loaded, entry)
				return true
			}
			e := decodeSettlement(s.flow, data)
			if e == nil {
				return true // recover has taken those out
			}
			e.entry, e.onDiskWeight = entry, e.weight()
			o.mu.Lock()
			defer o.mu.Unlock()
			o.bytes += e.size()
			o.linkLocked(e)
			return o.bytes-s.waiting < limit
		})
		if err != nil {
			next = s.discard(next, err)
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
	s.behind = slices.ContainsFunc(s.toWrite, func(e *settlement) bool { return e.away })
}

// discard gives up entries that can't be read, and returns where to go on.
func (s *spool) discard(from uint64, err error) (next uint64) {
	count, next := s.queue.Discard(from)
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

// tidy writes settlements anew that keep most of the disk from being given back.
func (s *spool) tidy() error {
	upTo, sparse := s.queue.Sparse()
	if !sparse || s.from != 0 {
		return nil
	}
	o := s.flow.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	for e := o.oldest; e != nil; e = e.newer {
		if e.entry == 0 || e.entry > upTo {
			continue
		}
		s.buf = e.append(s.buf[:0])
		entry, err := s.queue.Replace(e.entry, s.buf)
		if err != nil {
			return err
		}
		e.entry = entry
	}
	return nil
}
