package broker

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

var (
	simSeed      = flag.Uint64("sim.seed", 1, "seed of the first schedule")
	simSchedules = flag.Int("sim.schedules", 500, "how many schedules to run, each with the next seed")
)

// TestSchedules runs a relay and its clients through random schedules: which goroutine would run next, how
// much of what is written arrives, what time it is and which connection breaks is all decided by a seed.
// A longer run: go test ./internal/broker -run Schedules -sim.schedules 1000000.
func TestSchedules(t *testing.T) {
	schedules := *simSchedules
	if testing.Short() {
		schedules /= 10
	}
	var requests, completed int
	outcomes, codes := map[Outcome]uint64{}, map[frame.Code]bool{}
	for i := range schedules {
		w := newWorld(t, *simSeed+uint64(i), 1)
		w.run()
		requests += len(w.questions)
		completed += w.completed
		for o, n := range w.outcomes() {
			outcomes[o] += n
		}
		maps.Copy(codes, w.codes)
		if t.Failed() {
			t.Fatalf("seed %d: go test ./internal/broker -run Schedules -sim.seed %d -sim.schedules 1", w.seed, w.seed)
		}
	}
	t.Logf("%d requests, %d with a whole answer; the relay's outcomes: %v; codes: %v", requests, completed, outcomes, codes)
	for o := Completed; o < numOutcomes; o++ {
		if outcomes[o] == 0 {
			t.Errorf("no request had the outcome %d: the schedules show too little", o)
		}
	}
	for code := frame.NoProvider; code <= frame.Rejected; code++ {
		if !codes[code] && code != frame.Cancelled {
			t.Errorf("no request ended with %v: the schedules show too little", code)
		}
	}
}

// world is one schedule.
type world struct {
	t      *testing.T
	seed   uint64
	random *rand.Rand
	now    int64
	limits Limits
	relays []*Relay
	faults bool

	links  []*simLink // alive
	seeks  []seek     // that nobody has dealt with
	linked int        // links that were made
	again  int        // seeks while one was under way

	clients   []*simClient // alive
	questions []*question
	tasks     []*task
	completed int
	codes     map[frame.Code]bool // that questions ended with
	settling  bool
}

// Every request id has the same second half, so that all of them are one worker's.
var simChannels = [2]uuid.UUID{{15: 1}, {15: 2}}

func newWorld(t *testing.T, seed uint64, relays int) *world {
	w := &world{t: t, seed: seed, random: rand.New(rand.NewPCG(seed, 0)), now: 1, codes: map[frame.Code]bool{}}
	w.limits = Limits{
		Streams: w.pick(2, 8, 100),
		Window:  w.pick(frame.InitialWindow, 100_000, 1<<20),
		Memory:  int64(w.pick(150_000, 2_000_000, 1<<30, 1<<30)),
	}
	for range relays {
		w.relays = append(w.relays, NewRelay(w.limits, w.pick(1, 4), nil))
	}
	w.join()
	w.faults = w.random.IntN(2) == 0
	return w
}

func (w *world) pick(of ...int) int      { return of[w.random.IntN(len(of))] }
func (w *world) chance(percent int) bool { return w.random.IntN(100) < percent }

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Errorf("at %d: %s", w.now, fmt.Sprintf(format, args...))
}

func (w *world) run() {
	for channel := range simChannels {
		w.connect(frame.Consumer, channel)
		for range w.pick(0, 1, 2, 3, 3) {
			w.connect(frame.Provider, channel)
		}
	}
	for range w.pick(50, 300, 1500) {
		w.step()
		if w.t.Failed() {
			return
		}
	}
	w.settle()
	w.checkRest()
}

func (w *world) step() {
	c, n := w.clients, w.random.IntN(100)
	switch {
	case n < 30 && len(c) > 0:
		w.anyWire().write(w.amount())
	case n < 60 && len(c) > 0:
		w.anyWire().deliver(w.amount())
	case n < 70:
		w.ask()
	case n < 80 && len(w.questions) > 0:
		w.questions[w.random.IntN(len(w.questions))].step()
	case n < 92 && len(w.tasks) > 0:
		w.tasks[w.random.IntN(len(w.tasks))].step()
	case n < 94:
		w.pass(time.Duration(w.random.IntN(20)) * time.Millisecond)
	case n < 95 && w.faults && w.chance(70):
		w.breakSomething()
	case n < 95:
		w.meshStep()
	case n < 96 && len(c) < 10:
		w.connect(frame.Role(1+w.random.IntN(2)), w.random.IntN(2))
	}
}

// amount is how many bytes move at once.
func (w *world) amount() int {
	return w.pick(1, 7, frame.HeaderSize, 100, 5000, 70_000, 1<<20)
}

func (w *world) anyWire() *wire {
	if len(w.links) > 0 && w.chance(50) {
		l := w.links[w.random.IntN(len(w.links))]
		return &l.wires[w.random.IntN(2)]
	}
	c := w.clients[w.random.IntN(len(w.clients))]
	if w.chance(50) {
		return &c.up
	}
	return &c.down
}

func (w *world) pass(d time.Duration) {
	w.now += int64(d)
	for _, r := range w.relays {
		if w.chance(70) {
			r.Expire(w.now)
		}
	}
	for _, c := range w.clients {
		if w.chance(70) {
			c.endpoint.Expire(w.now)
		}
	}
}

func (w *world) breakSomething() {
	if len(w.clients) == 0 {
		return
	}
	if w.chance(3) {
		w.relays[w.random.IntN(len(w.relays))].Drain()
		return
	}
	c := w.clients[w.random.IntN(len(w.clients))]
	if c.role == frame.Provider && w.chance(50) {
		c.endpoint.Leave()
		return
	}
	w.cut(c)
}

// simClient is a client with its connection to the relay.
type simClient struct {
	w        *world
	role     frame.Role
	channel  int
	relay    *Relay
	conn     *Conn
	endpoint *Endpoint
	up, down wire
	lost     bool
	drained  bool // the relay has said that no more requests come
}

func (w *world) connect(role frame.Role, channel int) {
	relay := w.relays[w.random.IntN(len(w.relays))]
	c := &simClient{w: w, role: role, channel: channel, relay: relay, conn: relay.NewConn(role, simChannels[channel])}
	c.endpoint = NewEndpoint(EndpointConfig{
		Role:    role,
		Welcome: frame.WelcomePayload{Version: 1, Streams: uint32(w.limits.Streams), Window: uint32(w.limits.Window)},
		Flush:   func() {},
		Make:    func() *Stream { return c.newTask() },
		Accept:  func(s *Stream) { w.accept(s.Owner.(*task)) },
		Drained: func() { c.drained = true },
	})
	c.conn.Out.Flush = func() {}
	c.up = wire{w: w, of: role, out: &c.endpoint.Out, receive: c.conn.Receive, at: c.conn}
	c.down = wire{w: w, of: role, out: &c.conn.Out, receive: c.endpoint.Receive}
	relay.Connect(c.conn)
	w.clients = append(w.clients, c)
}

func (w *world) cut(c *simClient) {
	for i, other := range w.clients {
		if other == c {
			w.clients = append(w.clients[:i:i], w.clients[i+1:]...)
		}
	}
	c.lost = true
	c.up.drop()
	c.down.drop()
	if w.chance(50) {
		c.conn.Close()
		c.endpoint.Close(ErrLost)
	} else {
		c.endpoint.Close(ErrLost)
		c.conn.Close()
	}
	c.conn.Close()
}

// wire is one direction of a connection.
type wire struct {
	w       *world
	of      frame.Role
	at      *Conn // what receives, where that is a relay
	out     *Outbox
	parcel  Parcel
	writing bool
	next    []byte
	flying  []byte
	in      Inbox
	receive func(*Frame, int64, *Batch) error
}

// write lets up to n bytes be written, and says whether there was something to do.
func (w *wire) write(n int) bool {
	if !w.writing {
		ok, _ := w.out.Begin()
		if w.writing = ok; !ok {
			return false
		}
		w.take()
	}
	for n > 0 && w.writing {
		m := min(n, len(w.next))
		w.flying = append(w.flying, w.next[:m]...)
		n -= m
		if w.next = w.parcel.Next(m); w.next == nil {
			w.take()
		}
	}
	return true
}

func (w *wire) take() {
	if w.writing = w.out.Take(&w.parcel); w.writing {
		w.next = w.parcel.Next(0)
	}
}

// deliver lets up to n of the bytes that were written arrive.
func (w *wire) deliver(n int) bool {
	space := w.in.Space()
	if len(space) == 0 {
		w.w.fail("Space is empty")
		return false
	}
	n = copy(space[:min(n, len(space))], w.flying)
	if n == 0 {
		return false
	}
	w.flying = w.flying[n:]
	w.in.Filled(n)
	var f Frame
	var b Batch
	for {
		ok, err := w.in.Next(&f)
		if err == nil && ok {
			err = w.receive(&f, w.w.now, &b)
		}
		if ok && f.Type == frame.Reset && w.at != nil && w.at.legs[f.Stream] != nil {
			w.w.fail("stream %d was reset, and is there", f.Stream)
		}
		if err != nil {
			w.w.fail("%v of %v: %v", w.of, f.Header, err)
		}
		if err != nil || !ok {
			break
		}
	}
	b.Flush()
	if w.at != nil {
		w.w.checkBounds(w.at)
	}
	return true
}

// checkBounds says which limit does not hold.
func (w *world) checkBounds(c *Conn) {
	if n := len(c.legs); n > w.limits.Streams {
		w.fail("%d legs, where %d are allowed", n, w.limits.Streams)
	}
	var sum int64
	for id, l := range c.legs {
		sum += l.room
		if used := l.allow + int64(l.send.bytes); used > l.room || l.room > int64(w.limits.Window)+100 { // an OPEN's metadata come on top
			w.fail("stream %d has %d bytes on their way or allowed, reserved are %d, and %d is the window", id, used, l.room, w.limits.Window)
		}
	}
	if reserved := c.relay.reserved.Load(); reserved > w.limits.Memory || sum > reserved {
		w.fail("%d bytes are reserved, of them %d on one connection; %d are allowed", reserved, sum, w.limits.Memory)
	}
}

func (w *wire) drop() {
	if w.writing {
		w.parcel.Drop()
	}
	w.writing = false
	w.in.Close()
	w.flying = nil
}

// stampByte is byte i of what request n sends (way 0) or gets (way 1).
func stampByte(n, way, i int) byte { return byte(n*131 + way*29 + i*7 + i>>8*13) }

func stampBytes(b []byte, n, way, from int) []byte {
	for i := range b {
		b[i] = stampByte(n, way, from+i)
	}
	return b
}

func (w *world) checkStamp(b []byte, n, way, from int) {
	for i, c := range b {
		if c != stampByte(n, way, from+i) {
			w.fail("request %d, way %d: byte %d is not its own", n, way, from+i)
			return
		}
	}
}

func (w *world) size() int {
	if w.limits.Memory < 1<<20 && w.limits.Window == 1<<20 && w.chance(10) {
		return 2_000_000 // enough for windows that grow out of the budget
	}
	return w.random.IntN(w.pick(1, 20, 3000, 40_000, 40_000, 400_000))
}

// question is a request as its consumer sees it.
type question struct {
	w      *world
	c      *simClient
	n      int
	stream Stream
	size   int // of the request
	sent   int
	read   int
	ended  int // how often Ended was called
	over   bool
	result error // io.EOF for a whole answer
	gaveUp bool
	long   bool // its time is never over
	task   *task
}

func (q *question) Ended(error) { q.ended++ }

func (w *world) ask() {
	if len(w.clients) == 0 {
		return
	}
	c := w.clients[w.random.IntN(len(w.clients))]
	if c.role != frame.Consumer {
		return
	}
	q := &question{w: w, c: c, n: len(w.questions), size: w.size(), long: w.chance(60)}
	q.stream.Owner = q
	r := Request{ID: uuid.UUID{0: byte(w.random.IntN(3)), 15: 7}, Timeout: time.Duration(1+w.random.IntN(50)) * time.Millisecond}
	if q.long {
		r.Timeout = 1000 * time.Hour
	}
	r.Metadata, _ = frame.AppendMetadata(nil, map[string]string{"n": strconv.Itoa(q.n)})
	if room := frame.MaxPayload - 22 - len(r.Metadata); w.chance(50) {
		r.Data = stampBytes(make([]byte, min(q.size, room)), q.n, 0, 0)
		r.Whole = q.size <= room
	}
	if err := c.endpoint.Open(&q.stream, r, w.now); err != nil {
		var refused *Error
		if !errors.As(err, &refused) || refused.Code != frame.Busy && refused.Code != frame.Draining {
			w.fail("Open: %v", err)
		}
		return
	}
	q.sent = len(r.Data)
	w.questions = append(w.questions, q)
}

// step does what the consumer's goroutines might do next, and says whether there was something to do.
func (q *question) step() bool {
	if !q.w.settling && q.w.chance(2) && !q.over {
		q.gaveUp = true
		q.stream.End(errGivenUp, frame.Cancelled)
		if n := q.stream.send.bytes; n != 0 {
			q.w.fail("request %d was given up, and %d bytes of it wait to be sent", q.n, n)
		}
	}
	if q.w.chance(2) {
		q.giveMore()
	}
	sent := q.w.upload(&q.stream, q.n, 0, &q.sent, q.size, frame.Data, true)
	return q.receive() || sent
}

// giveMore grants credit that nobody has asked for, as a client may that starts with a larger window.
func (q *question) giveMore() {
	s := &q.stream
	s.mu.Lock()
	n := q.w.random.Int64N(100_000)
	if s.granted+n > int64(q.w.limits.Window) || s.over {
		n = 0
	}
	s.granted += n
	s.mu.Unlock()
	s.grantNow(uint32(n))
}

var errGivenUp = errors.New("the test gave up")

// upload sends what may be sent of size bytes, after which the body ends, or not.
func (w *world) upload(s *Stream, n, way int, sent *int, size int, t frame.Type, ends bool) bool {
	s.mu.Lock()
	allowed := int(min(s.allow, frame.MaxPayload))
	if s.over || s.sealed || allowed < 0 {
		allowed = 0
	}
	s.mu.Unlock()
	if allowed == 0 {
		return false
	}
	m := min(allowed, size-*sent)
	switch {
	case !w.settling:
		m = w.random.IntN(m + 1)
	case w.chance(50) && m > 0:
		m = 1 + w.random.IntN(m)
	}
	if m == 0 && !ends && t == frame.Data {
		return false
	}
	var err error
	if end := ends && *sent+m == size; end || t == frame.Head || w.chance(50) {
		var flags frame.Flags
		if end {
			flags = frame.FlagEnd
		}
		err = s.Send(t, flags, stampBytes(make([]byte, m), n, way, *sent))
	} else {
		buf := NewBuffer()
		stampBytes(buf.B[frame.HeaderSize:frame.HeaderSize+m], n, way, *sent)
		err = s.SendBuffer(buf, m)
	}
	if err != nil {
		w.fail("request %d, way %d: Send: %v", n, way, err)
	}
	*sent += m
	return true
}

// next reads what has come, and returns the error of it, nil where nothing has.
func (w *world) next(s *Stream, n, way int, read *int) (moved bool, err error) {
	s.mu.Lock()
	ready := s.received.len() > 0 || s.fin != nil || s.err != nil
	s.mu.Unlock()
	if !ready {
		s.mu.Lock()
		s.starved = true // as next would note
		s.mu.Unlock()
		return false, nil
	}
	p := make([]byte, w.pick(1, 100, 100_000))
	m, err := s.Read(p)
	w.checkStamp(p[:m], n, way, *read)
	*read += m
	return true, err
}

func (q *question) receive() bool {
	if q.over {
		return false
	}
	moved, err := q.w.next(&q.stream, q.n, 1, &q.read)
	if err != nil {
		q.end(err)
	}
	return moved
}

// end checks how a question ended.
func (q *question) end(err error) {
	w := q.w
	q.over, q.result = true, err
	if q.ended != 1 {
		w.fail("request %d ended with %v, and Ended was called %d times", q.n, err, q.ended)
	}
	var failure *Failure
	var said *Error
	switch {
	case err == io.EOF:
		w.completed++
		if q.task == nil || q.task.fails || q.read != q.task.size {
			w.fail("request %d got a whole answer of %d bytes from %v", q.n, q.read, q.task)
		}
	case errors.As(err, &failure):
		if q.task == nil || !q.task.fails || failure.Message != q.task.message() {
			w.fail("request %d got the failure %.20q from %v", q.n, failure.Message, q.task)
		}
	case errors.As(err, &said):
		if !said.Code.Dispatched() && (q.read > 0 || q.task != nil && !q.task.back) {
			w.fail("request %d got %v, but a provider has it", q.n, said.Code)
		}
		w.codes[said.Code] = true
		if said.Code == frame.Deadline && q.long || said.Code == frame.Protocol {
			w.fail("request %d got %v", q.n, said.Code)
		}
	case errors.Is(err, ErrLost):
		if !q.c.lost {
			w.fail("request %d got %v over a good connection", q.n, err)
		}
	case errors.Is(err, errGivenUp):
	default:
		w.fail("request %d got %v", q.n, err)
	}
}

// task is a request as a provider sees it.
type task struct {
	w      *world
	c      *simClient
	q      *question
	stream Stream
	read   int
	over   bool // reading is
	size   int  // of the answer
	sent   int
	head   bool
	fails  bool
	never  bool
	back   bool // it was dropped or handed back
	ended  int
}

func (k *task) String() string {
	if k == nil {
		return "no task"
	}
	return fmt.Sprintf("a task that read %d (over: %v) and sent %d of %d (fails: %v, never: %v, ended: %d)", k.read, k.over, k.sent, k.size, k.fails, k.never, k.ended)
}

func (k *task) message() string { return fmt.Sprint("failure of ", k.q.n) }

func (k *task) Ended(error) { k.ended++ }

func (c *simClient) newTask() *Stream {
	k := &task{w: c.w, c: c}
	k.stream.Owner = k
	return &k.stream
}

func (w *world) accept(k *task) {
	n, err := strconv.Atoi(k.stream.Metadata["n"])
	if err != nil || n >= len(w.questions) {
		w.fail("accepted a request with metadata %v", k.stream.Metadata)
		return
	}
	k.q = w.questions[n]
	if k.q.task != nil && !(k.q.task.back && len(w.relays) > 1) { // another relay may take over what was handed back
		w.fail("request %d was given to two providers", n)
	}
	if k.q.c.channel != k.c.channel || k.stream.ID != k.q.stream.ID {
		w.fail("request %d is on another channel, or has another id", n)
	}
	if k.c.drained {
		w.fail("request %d was given to a provider that had been let go", n)
	}
	k.q.task = k
	k.size, k.fails, k.never = w.size(), w.chance(15), w.chance(10)
	w.tasks = append(w.tasks, k)
}

func (k *task) step() bool {
	moved := k.receive()
	switch {
	case k.never && !(k.w.settling && k.q.long):
		return moved
	case k.w.settling || !k.w.faults || !k.w.chance(3):
	case k.ended == 0:
		// A provider drops its request, or hands it back, perhaps when it may no longer.
		k.back = true
		k.stream.End(errGivenUp, []frame.Code{frame.Cancelled, frame.Draining, frame.Rejected}[k.w.random.IntN(3)])
	}
	return k.answer() || moved
}

func (k *task) answer() bool {
	if k.stream.Over() {
		return false
	}
	t := frame.Data
	if !k.head {
		t = frame.Head
	}
	if k.fails && k.sent >= k.size/2 {
		return k.fail()
	}
	moved := k.w.upload(&k.stream, k.q.n, 1, &k.sent, k.size, t, !k.fails)
	k.head = k.head || moved
	return moved
}

// fail answers with a failure, perhaps in the middle of the answer.
func (k *task) fail() bool {
	message := []byte(k.message())
	if n, err := k.stream.allowed(); n < len(message) || err != nil {
		return false
	}
	if err := k.stream.Send(frame.Head, frame.FlagError, nil); err != nil {
		k.w.fail("Send of a failure: %v", err)
	}
	if err := k.stream.Send(frame.Data, frame.FlagEnd, message); err != nil {
		k.w.fail("Send of a failure: %v", err)
	}
	return true
}

// allowed is WaitCredit without the wait.
func (s *Stream) allowed() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.sealed {
		return 0, ErrOver
	}
	return int(s.allow), nil
}

func (k *task) receive() bool {
	if k.over {
		return false
	}
	moved, err := k.w.next(&k.stream, k.q.n, 0, &k.read)
	if k.over = err != nil; err == io.EOF && k.read != k.q.size {
		k.w.fail("request %d came with %d bytes of %d", k.q.n, k.read, k.q.size)
	}
	return moved
}

// settle lets everybody do what they have to, until nothing moves any more.
func (w *world) settle() {
	w.settling = true
	for more := true; more && !w.t.Failed(); {
		more = w.round()
		if !more {
			more = w.skip()
		}
	}
}

func (w *world) round() bool {
	moved := false
	var wires []*wire
	for _, c := range w.clients {
		wires = append(wires, &c.up, &c.down)
	}
	for _, l := range w.links {
		wires = append(wires, &l.wires[0], &l.wires[1])
	}
	for _, x := range wires {
		for x.write(1 << 20) {
			moved = true
		}
		for x.deliver(1 << 20) {
			moved = true
		}
	}
	for len(w.seeks) > 0 {
		moved = true
		w.find()
	}
	for _, q := range w.questions {
		moved = q.step() || moved
	}
	for _, k := range w.tasks {
		moved = k.step() || moved
	}
	return moved
}

// skip goes to the next deadline, if there is one, but not to those that are never over.
func (w *world) skip() bool {
	next := w.expire()
	for _, c := range w.clients {
		if at := c.endpoint.Expire(w.now); at > 0 {
			next = min(next, at)
		}
	}
	if next > w.now+int64(time.Hour) {
		return false
	}
	w.now = next
	w.expire()
	for _, c := range w.clients {
		c.endpoint.Expire(w.now)
	}
	return true
}

// checkRest says what is left, where nothing may be.
func (w *world) checkRest() {
	for _, q := range w.questions {
		if !q.over {
			w.fail("request %d has no outcome: sent %d of %d, its task is %v", q.n, q.sent, q.size, q.task)
		}
	}
	for _, k := range w.tasks {
		if k.ended != 1 {
			w.fail("Ended was called %d times of the task of request %d", k.ended, k.q.n)
		}
	}
	for _, r := range w.relays {
		w.checkRelay(r)
	}
	for _, c := range w.clients {
		c.checkRest()
	}
	if o := w.outcomes(); o[Completed] < uint64(w.completed) {
		w.fail("%d requests were completed, and the relays counted %+v", w.completed, o)
	}
	for len(w.links) > 0 {
		w.cutLink(0)
	}
	for len(w.clients) > 0 {
		w.cut(w.clients[0])
	}
	for _, r := range w.relays {
		if n := len(r.channels); n != 0 {
			w.fail("%d channels are left", n)
		}
	}
}

func (w *world) checkRelay(r *Relay) {
	stats := r.Stats(w.now)
	var outcomes uint64
	for _, n := range stats.Outcomes {
		outcomes += n
	}
	if stats.Running != 0 || stats.Reserved != 0 || outcomes != stats.Opened {
		w.fail("at rest: %+v, and %d outcomes", stats, outcomes)
	}
	if at := r.Expire(math.MaxInt64 - 1); at != math.MaxInt64 {
		w.fail("the relay waits for %d", at)
	}
	for _, ch := range r.channels {
		if n := len(ch.waiting); n != 0 {
			w.fail("%d requests wait for a provider", n)
		}
		for _, c := range ch.conns {
			if n := len(c.legs); n != 0 || c.outstanding.Load() != 0 || !c.Out.Idle() {
				w.fail("%d legs of a %v, %d outstanding", n, c.role, c.outstanding.Load())
			}
		}
	}
}

// expire ends what is due at all relays and returns when the next is.
func (w *world) expire() int64 {
	next := int64(math.MaxInt64)
	for _, r := range w.relays {
		next = min(next, r.Expire(w.now))
	}
	return next
}

// outcomes adds up those of all relays.
func (w *world) outcomes() map[Outcome]uint64 {
	sum := map[Outcome]uint64{}
	for _, r := range w.relays {
		for o, n := range r.Stats(w.now).Outcomes {
			sum[o] += n
		}
	}
	return sum
}

func (c *simClient) checkRest() {
	w := c.w
	if n := len(c.conn.legs); n != 0 || c.conn.outstanding.Load() != 0 {
		w.fail("%d legs of a %d, %d outstanding", n, c.role, c.conn.outstanding.Load())
	}
	if n := len(c.endpoint.table); n != 0 {
		w.fail("%d streams of a %d", n, c.role)
	}
	if n := len(c.endpoint.clock.heap.all()); n != 0 {
		w.fail("%d deadlines of a %d", n, c.role)
	}
	for _, out := range []*Outbox{&c.conn.Out, &c.endpoint.Out} {
		if !out.Idle() || out.unopened != 0 {
			w.fail("an outbox is not empty; %d unopened", out.unopened)
		}
	}
}

// TestWorkerOfAnyID: colliding ids share a worker, others need not.
func TestWorkerOfAnyID(t *testing.T) {
	r := NewRelay(Limits{1, 1, 1}, 8, nil)
	seen := map[*worker]bool{}
	for range 1000 {
		id := uuid.New()
		seen[r.worker(id)] = true
		binary.BigEndian.PutUint64(id[8:], 7)
		if r.worker(id) != r.worker(uuid.UUID{15: 7}) {
			t.Fatalf("%v has another worker", id)
		}
	}
	if len(seen) != 8 {
		t.Errorf("random ids have %d workers, want 8", len(seen))
	}
}
