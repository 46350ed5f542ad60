package broker

import "sync"

// deadline is an entry of deadlines. at is its time.
type deadline struct {
	at    int64
	index int // in the heap, 0 for none
}

// deadlines is a heap of T's, the earliest first. Its owner guards it.
type deadlines[T interface{ due() *deadline }] struct {
	heap []T // from 1 on
}

func (d *deadlines[T]) add(t T) {
	if len(d.heap) == 0 {
		d.heap = append(d.heap, t) // never looked at
	}
	d.heap = append(d.heap, t)
	t.due().index = len(d.heap) - 1
	d.up(len(d.heap) - 1)
}

// remove takes t out; it may have been taken out before.
func (d *deadlines[T]) remove(t T) {
	i := t.due().index
	if i == 0 {
		return
	}
	t.due().index = 0
	last := len(d.heap) - 1
	moved := d.heap[last]
	var none T
	d.heap[last] = none
	d.heap = d.heap[:last]
	if i == last {
		return
	}
	d.set(i, moved)
	d.down(i)
	d.up(moved.due().index)
}

// first returns the earliest.
func (d *deadlines[T]) first() (t T, ok bool) {
	if len(d.heap) < 2 {
		return t, false
	}
	return d.heap[1], true
}

// all returns every entry, in no order.
func (d *deadlines[T]) all() []T { return d.heap[min(1, len(d.heap)):] }

func (d *deadlines[T]) set(i int, t T) {
	d.heap[i] = t
	t.due().index = i
}

func (d *deadlines[T]) up(i int) {
	t := d.heap[i]
	for ; i > 1 && d.heap[i/2].due().at > t.due().at; i /= 2 {
		d.set(i, d.heap[i/2])
	}
	d.set(i, t)
}

func (d *deadlines[T]) down(i int) {
	t := d.heap[i]
	for {
		child := 2 * i
		if child >= len(d.heap) {
			break
		}
		if child+1 < len(d.heap) && d.heap[child+1].due().at < d.heap[child].due().at {
			child++
		}
		if d.heap[child].due().at >= t.due().at {
			break
		}
		d.set(i, d.heap[child])
		i = child
	}
	d.set(i, t)
}

// deadlineClock is a heap of streams with a lock of its own, a leaf.
type deadlineClock struct {
	mu   sync.Mutex
	heap deadlines[*Stream]
	next int64 // when Expire will be called; 0 for never
}

// add says whether Expire has to be called earlier than it would be.
func (c *deadlineClock) add(s *Stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heap.add(s)
	if at := s.due().at; c.next == 0 || at < c.next {
		c.next = at
		return true
	}
	return false
}

func (c *deadlineClock) remove(s *Stream) {
	c.mu.Lock()
	c.heap.remove(s)
	c.mu.Unlock()
}

// pop returns one that is due, or the time of the next, 0 for none.
func (c *deadlineClock) pop(now int64) (s *Stream, ok bool, next int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first, ok := c.heap.first()
	if ok && first.due().at <= now {
		c.heap.remove(first)
		return first, true, 0
	}
	c.next = 0
	if ok {
		c.next = first.due().at
	}
	return nil, false, c.next
}
