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
	flow    *Flow
	maxList int64         // bytes of the list in memory past which settlements go to disk alone
	wake    chan struct{} // capacity 1
	stop    chan struct{}
	done    chan struct{}

	// Owned by run.
	queue      *diskqueue.Queue
	written    []writtenSettlement // not known to be on disk yet
	buf        []byte
	from       uint64              // entries from here on are not in memory; 0: all are
	loaded     map[uint64]struct{} // but these
	failed     error               // why the disk did not take the last write
	retryAt    time.Time
	trouble    bool      // it was said that the spool can't be written
	troubledAt time.Time // when it could not the last time

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
		flow: f, maxList: f.cfg.MaxPendingBytes / 2, queue: queue, loaded: make(map[uint64]struct{}),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	if queue.Aside() != "" {
		f.log.Error("usageflow: files of the spool are damaged; what can be read of them is sent, and they are put aside", "folder", queue.Aside())
	}
	if queue.Len() > 0 {
		if err := s.countLeft(); err != nil {
			return nil, errors.Join(fmt.Errorf("core: SpoolDir: %w", err), queue.Close())
		}
	}
	return s, nil
}

// countLeft counts what an earlier process has left in the queue. It is read again when there is a goroutine to send it.
func (s *spool) countLeft() error {
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
	if n := int64(len(unreadable)); n > 0 { // of another version
		s.queue.Remove(unreadable...)
		s.flow.counters.admitted.Add(n)
		s.flow.outbox.dropped += n
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
	if s.listBytesLocked() > s.maxList {
		s.behind = true
	}
	if s.behind {
		e.away = true
		s.waiting += e.size()
	}
	s.queueLocked(e)
	return e.away
}

// listBytesLocked is what the settlements in the list take.
func (s *spool) listBytesLocked() int64 { return s.flow.outbox.bytes - s.waiting }

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
	for _, e := range s.unwrittenLocked() {
		if e.away {
			lost += e.weight()
		}
	}
	s.toWrite = nil
	return lost
}

// unwrittenLocked are the settlements of which it is not known that they are on disk.
func (s *spool) unwrittenLocked() []*settlement {
	var list []*settlement
	for _, w := range s.written { // run has ended, or is who asks
		list = append(list, w.settlement)
	}
	return append(list, s.toWrite...)
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

// turn writes what was handed over and, with sync, makes it durable and gives back the disk that is no longer needed. After a failure it waits a while, and memory
// takes what the disk does not.
func (s *spool) turn(sync bool) {
	if s.failed == nil || !time.Now().Before(s.retryAt) {
		err := s.write()
		full := errors.Is(err, diskqueue.ErrFull)
		if (err == nil || full) && sync && s.queue.Dirty() {
			if failed := s.queue.Sync(); failed != nil {
				err = failed
			} else if full {
				err = s.write() // what was trimmed has made room
			} else {
				err = s.tidy()
			}
		}
		s.outcome(err)
	}
	if s.failed != nil {
		s.bringBack()
	}
}

// outcome notes how writing went, and says when that has changed for good: the disk that is full now and then is full.
func (s *spool) outcome(err error) {
	now := time.Now()
	if s.failed = err; err != nil {
		s.retryAt = now.Add(spoolRetry)
	}
	if errors.Is(err, diskqueue.ErrFull) {
		s.retryAt = now // confirmations make room
	}
	if err != nil {
		s.troubledAt = now
	}
	switch {
	case err != nil && !s.trouble:
		s.trouble = true
		s.flow.log.Error("usageflow: the spool can't be written; settlements are kept in memory", "error", err)
		s.flow.observe(Event{Kind: EventSpoolFailed, Err: err})
	case err == nil && s.trouble && now.Sub(s.troubledAt) >= spoolRetry:
		s.trouble = false
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
	o := s.flow.outbox
	o.mu.Lock()
	s.buf = e.append(s.buf[:0])
	old, weight := e.entry, e.weight()
	e.queued = false // what comes from here on is not in buf
	o.mu.Unlock()
	if old != 0 { // nobody waits for the disk with the lock
		entry, err = s.queue.Replace(old, s.buf)
	} else {
		entry, err = s.queue.Append(s.buf)
	}
	if err != nil {
		o.mu.Lock()
		e.queued = true // it stays in toWrite
		o.mu.Unlock()
	}
	return entry, weight, err
}

// flushedLocked notes that what was written is on disk.
func (s *spool) flushedLocked() {
	o := s.flow.outbox
	for _, w := range s.written {
		e := w.settlement
		e.receipt.give()
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
			if e.entry != 0 {
				s.confirmed = append(s.confirmed, e.entry) // it was replaced, or written twice
			}
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
	for _, e := range s.unwrittenLocked() {
		if s.listBytesLocked() > s.maxList {
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

// tidy writes settlements anew that keep most of the disk from being given back.
func (s *spool) tidy() error {
	upTo, sparse := s.queue.Sparse()
	if !sparse || s.from != 0 {
		return nil
	}
	o := s.flow.outbox
	o.mu.Lock()
	var old []*settlement
	for e := o.oldest; e != nil; e = e.newer {
		if e.entry != 0 && e.entry <= upTo && !e.queued {
			e.queued = true
			old = append(old, e)
		}
	}
	s.toWrite = append(s.toWrite, old...)
	o.mu.Unlock()
	return s.write()
}
