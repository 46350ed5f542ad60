package broker

import (
	"sync"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

const (
	// pendLimit is the size in bytes up to which small frames are put one after another, ready to be
	// written. What comes on top waits in its stream's queue.
	pendLimit = 64 << 10
	// takeLimit is the size in bytes of what is written before anything else gets its turn.
	takeLimit = 256 << 10
)

// Outbox is what one connection has to send. Several goroutines put frames in, and one at a time, the
// writer, takes them out. Credit and pings are merged: each stream has at most one CREDIT to send, the
// connection at most one PING. They go ahead of data, and data of many streams goes round robin.
type Outbox struct {
	// Flush makes somebody write what the outbox holds. It does not block, and is called without locks.
	// Static after construction.
	Flush func()
	// running returns how many streams there are. It needs mu. Static after construction.
	running func() int

	mu      sync.Mutex
	closed  bool
	writing bool // somebody takes

	pend     []byte // frames that go next, in order
	granting list   // those with credit to grant
	ready    list   // those with segments
	ping     bool
	pong     bool
	goodbye  string // the reason of a GOAWAY that is to be sent once no OPEN waits; "" for none
	pongData [frame.PingSize]byte
	unopened int // senders whose OPEN waits in their queue

	written uint64 // bytes taken
}

// init prepares the outbox.
func (o *Outbox) init(running func() int) {
	o.running = running
	o.ready.at, o.granting.at = readyNode, grantingNode
}

// sender is the sending side of a stream. Its outbox's mu guards it.
type sender struct {
	id     uint64
	queue  segments // each one frame
	bytes  int      // payload in queue
	grow   bool     // the last segment is ours and may become longer
	opened bool     // the first frame has left the queue
	ended  bool     // the last frame was put in

	credit uint32 // to be granted to the peer

	ready, granting node // places in Outbox.ready and Outbox.granting

	leg *leg // whose it is, in the broker
}

// putCopy queues a frame whose payload is prefix and data. It needs mu.
func (o *Outbox) putCopy(s *sender, t frame.Type, flags frame.Flags, prefix, data []byte) {
	n := len(prefix) + len(data)
	s.ended = s.ended || flags&frame.FlagEnd != 0
	if s.queue.len() == 0 && len(o.pend)+frame.HeaderSize+n <= pendLimit && (s.opened || o.unopened == 0) {
		s.opened = true
		o.pend = frame.Header{Length: uint32(n), Type: t, Flags: flags, Stream: s.id}.Append(o.pend)
		o.pend = append(append(o.pend, prefix...), data...)
		return
	}
	if s.grow && t == frame.Data && o.extend(s, flags, data) {
		return
	}
	// Memory of its own size, and not a Buffer: what waits to be sent is to hold at most twice its own size.
	b := frame.Header{Length: uint32(n), Type: t, Flags: flags, Stream: s.id}.Append(make([]byte, 0, frame.HeaderSize+n))
	b = append(append(b, prefix...), data...)
	o.putSegment(s, segment{b, nil}, true)
}

// extend lengthens the frame at the end of s's queue by data. It needs mu.
func (o *Outbox) extend(s *sender, flags frame.Flags, data []byte) bool {
	last := s.queue.last()
	if len(last.data)+len(data) > frameSize {
		return false
	}
	h, err := frame.ParseHeader(last.data)
	if err != nil {
		return false
	}
	h.Length += uint32(len(data))
	h.Flags |= flags
	h.Put(last.data)
	last.data = append(last.data, data...)
	s.bytes += len(data)
	return true
}

// putWhole queues a frame that buf holds, header included, and takes over one reference to buf. It needs mu.
func (o *Outbox) putWhole(s *sender, raw []byte, flags frame.Flags, buf *Buffer) {
	s.ended = s.ended || flags&frame.FlagEnd != 0
	frame.SetStream(raw, s.id)
	o.putSegment(s, segment{raw, buf}, false)
}

func (o *Outbox) putSegment(s *sender, seg segment, grow bool) {
	if !s.opened && s.queue.len() == 0 {
		o.unopened++ // those that come later wait behind it: the ids of OPENs go up
	}
	s.queue.push(seg)
	s.grow = grow
	s.bytes += len(seg.data) - frame.HeaderSize
	o.ready.push(s)
}

// drop forgets what s has queued. It needs mu.
func (o *Outbox) drop(s *sender) {
	if !s.opened && s.queue.len() > 0 {
		o.unopened--
	}
	s.queue.drop()
	s.bytes, s.grow, s.credit = 0, false, 0
	o.ready.remove(s)
	o.granting.remove(s)
}

// reset queues a RESET of stream id. It needs mu.
func (o *Outbox) reset(id uint64, code frame.Code) {
	o.pend = frame.Header{Length: 2, Type: frame.Reset, Stream: id}.Append(o.pend)
	o.pend = frame.AppendEnd(o.pend, code, "")
}

// goAway makes a GOAWAY follow the last OPEN. It needs mu.
func (o *Outbox) goAway(reason string) {
	if !o.closed {
		o.goodbye = reason
	}
}

// Backlog returns the size in bytes of the small frames that wait. Unlike what waits in the streams' queues
// it is not bounded by credit: refusals are among it.
func (o *Outbox) Backlog() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pend)
}

// grant adds n to the credit that the peer is given on s. It needs mu.
func (o *Outbox) grant(s *sender, n uint32) {
	if n == 0 {
		return
	}
	s.credit += n
	o.granting.push(s)
}

// Control queues a frame that belongs to no stream.
func (o *Outbox) Control(t frame.Type, payload []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.pend = frame.Header{Length: uint32(len(payload)), Type: t}.Append(o.pend)
		o.pend = append(o.pend, payload...)
	}
}

// Ping asks the peer whether it is there.
func (o *Outbox) Ping() {
	o.mu.Lock()
	o.ping = !o.closed
	o.mu.Unlock()
}

// receivePing sees to the answer to a PING.
func (o *Outbox) receivePing(f *Frame, b *Batch) error {
	if len(f.Payload) != frame.PingSize {
		return violation("PING of %d bytes", len(f.Payload))
	}
	if f.Flags&frame.FlagAck != 0 {
		return nil
	}
	o.mu.Lock()
	o.pong = !o.closed
	copy(o.pongData[:], f.Payload)
	o.mu.Unlock()
	b.touch(o)
	return nil
}

// Written returns how many bytes were taken.
func (o *Outbox) Written() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written
}

// close makes the outbox refuse and forget everything. It needs mu.
func (o *Outbox) close() {
	o.closed = true
	for _, l := range []*list{&o.ready, &o.granting} {
		for l.first != nil {
			o.drop(l.first)
		}
	}
	o.pend = nil
	o.ping, o.pong, o.goodbye = false, false, ""
}

// Begin makes the caller the writer, if nobody is and there is something to write. It then calls Take
// until that returns false. shared says that there are several streams: others may have something to add.
func (o *Outbox) Begin() (ok, shared bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || o.empty() {
		return false, false
	}
	o.writing = true
	return true, o.running() > 1
}

// Idle says whether all that was put in has been written, and gives memory back if so.
func (o *Outbox) Idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || !o.empty() {
		return false
	}
	o.pend = nil
	return true
}

// Finish makes the outbox refuse everything from now on, if all that was put in has been written. It says
// whether that is so.
func (o *Outbox) Finish() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.writing || !o.empty() {
		return false
	}
	o.closed, o.pend = true, nil
	return true
}

func (o *Outbox) empty() bool {
	return len(o.pend) == 0 && o.granting.first == nil && o.ready.first == nil && !o.ping && !o.pong && o.goodbye == ""
}

// Take moves what goes next into p. Where nothing is left it returns false, and the caller is the writer
// no more.
func (o *Outbox) Take(p *Parcel) bool {
	o.mu.Lock()
	p.small, o.pend = o.pend, p.small[:0]
	p.large, p.legs = p.large[:0], p.legs[:0]
	p.off, p.next = 0, -1
	o.takeControl(p)
	size := len(p.small)
	// Each stream gets one turn: two segments of one in a parcel could change places where the second is small.
	for left := o.ready.count(maxTurns); left > 0 && size < takeLimit; left-- {
		size += o.takeTurn(p)
	}
	o.written += uint64(size)
	if size == 0 {
		o.writing = false
	}
	o.mu.Unlock()
	if size == 0 {
		return false // p may be another writer's by now
	}
	for _, l := range p.legs {
		l.afterTake()
	}
	return true
}

// takeTurn gives the first ready stream its turn and returns the bytes that it took.
func (o *Outbox) takeTurn(p *Parcel) int {
	s := o.ready.first
	o.ready.remove(s)
	seg := s.queue.pop()
	s.bytes -= len(seg.data) - frame.HeaderSize
	opens := !s.opened
	if opens {
		s.opened = true
		o.unopened--
	}
	if len(seg.data) < smallSpace && !(opens && len(p.large) > 0) {
		p.small = append(p.small, seg.data...)
		seg.buf.Release()
	} else {
		p.large = append(p.large, seg)
	}
	if s.queue.len() > 0 {
		o.ready.push(s)
	} else {
		s.grow = false
	}
	if s.leg != nil && s.leg.taken() {
		p.legs = append(p.legs, s.leg)
	}
	return len(seg.data)
}

// maxTurns bounds the streams that get their turn in one Take.
const maxTurns = 16

// takeControl takes the control frames. They come after the small frames, one of which may open the
// stream that they speak of, and ahead of what waits in queues.
func (o *Outbox) takeControl(p *Parcel) {
	if o.pong {
		p.small = frame.Header{Length: frame.PingSize, Type: frame.Ping, Flags: frame.FlagAck}.Append(p.small)
		p.small = append(p.small, o.pongData[:]...)
	}
	if o.ping {
		p.small = frame.Header{Length: frame.PingSize, Type: frame.Ping}.Append(p.small)
		p.small = append(p.small, make([]byte, frame.PingSize)...)
	}
	o.ping, o.pong = false, false
	if o.goodbye != "" && o.unopened == 0 {
		end := frame.AppendEnd(nil, frame.Draining, o.goodbye)
		p.small = frame.Header{Length: uint32(len(end)), Type: frame.GoAway}.Append(p.small)
		p.small = append(p.small, end...)
		o.goodbye = ""
	}
	for s := o.granting.first; s != nil; {
		next := s.granting.next
		if s.opened { // else its OPEN is still in the queue
			p.small = frame.Header{Length: 4, Type: frame.Credit, Stream: s.id}.Append(p.small)
			p.small = frame.AppendCredit(p.small, s.credit)
			s.credit = 0
			o.granting.remove(s)
		}
		s = next
	}
}
