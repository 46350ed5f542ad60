package broker

// Parcel is what the writer takes at once. Its memory is used again and again; it belongs to the writer.
type Parcel struct {
	small []byte // goes first
	large []segment
	off   int    // of what goes next: in small, or in large[next]
	next  int    // -1 for small, else an index of large
	legs  []*leg // to be told
}

// Next returns what is to be written next, nil once nothing is left. n bytes of what it returned before
// were written.
func (p *Parcel) Next(n int) []byte {
	p.off += n
	if p.next < 0 {
		if p.off < len(p.small) {
			return p.small[p.off:]
		}
		p.next, p.off = 0, 0
	}
	for ; p.next < len(p.large); p.next++ {
		s := &p.large[p.next]
		if p.off < len(s.data) {
			return s.data[p.off:]
		}
		p.off = 0
		s.buf.Release()
		*s = segment{}
	}
	return nil
}

// Drop forgets what was not written.
func (p *Parcel) Drop() {
	for i := max(p.next, 0); i < len(p.large); i++ {
		p.large[i].buf.Release()
		p.large[i] = segment{}
	}
	p.small, p.large = nil, nil
}

// Batch collects the outboxes that were put into, so that each is flushed once, after everything that
// was read at once has been dealt with. The zero value is ready; it belongs to one goroutine.
type Batch struct{ touched []*Outbox }

func (b *Batch) touch(o *Outbox) {
	for _, t := range b.touched {
		if t == o {
			return
		}
	}
	b.touched = append(b.touched, o)
}

// Flush flushes what was touched.
func (b *Batch) Flush() {
	for i, o := range b.touched {
		o.Flush()
		b.touched[i] = nil
	}
	b.touched = b.touched[:0]
}
