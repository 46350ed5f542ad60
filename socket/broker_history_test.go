package socket_test

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// The history checker runs a random load over a broker while connections are delayed, held, cut and reset,
// and clients come and go. It writes down every Send and every execution, and then looks for what must never
// be: an answer to another question, a clean end that came early, a second execution, a byte of the other
// channel, a call that does not return, anything that is left.
//
// The load and the faults follow from the seed; how goroutines take turns does not. A failing run says its
// seed. BROKER_HISTORY_SEED=n runs that one, BROKER_HISTORY_RUNS=n runs n random ones.

const (
	historyQuestions = 400
	historyParallel  = 64
	// historySlack is how much later than its timeout a call may return. It is no measure of speed.
	historySlack = 5 * time.Second
	// historyTries and historyPatience bound how often a question is asked.
	historyTries    = 8
	historyPatience = time.Second
)

func TestBrokerHistory(t *testing.T) {
	warmUp(t)
	for _, seed := range historySeeds(t) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("run it again: BROKER_HISTORY_SEED=%d go test -race ./socket -run TestBrokerHistory", seed)
				}
			})
			goroutines, files := runtime.NumGoroutine(), openFiles()
			newHistory(t, seed).run()
			settlesAt(t, goroutines)
			eventually(t, fmt.Sprintf("no more open files than the %d before", files), func() bool { return openFiles() <= files })
		})
	}
}

// warmUp makes what the runtime opens once and keeps: the poller's descriptors.
func warmUp(t *testing.T) {
	t.Helper()
	rig := newBrokerRig(t)
	_ = rig.consumer().Close()
	rig.stop()
}

func historySeeds(t *testing.T) []uint64 {
	t.Helper()
	if s := os.Getenv("BROKER_HISTORY_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("BROKER_HISTORY_SEED: %v", err)
		}
		return []uint64{seed}
	}
	if s := os.Getenv("BROKER_HISTORY_RUNS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("BROKER_HISTORY_RUNS: %v", err)
		}
		seeds := make([]uint64, n)
		for i := range seeds {
			seeds[i] = uint64(rand.Uint32())
		}
		return seeds
	}
	if testing.Short() {
		return []uint64{1, 2}
	}
	return []uint64{1, 2, 3, 4}
}

// history is one run: what takes part, and what was seen.
type history struct {
	t    *testing.T
	seed uint64
	rig  *brokerRig

	channels  [2]uuid.UUID
	consumers [2][]*askingSlot
	toBroker  [2]*faultyProxy // of consumers, of providers

	stopChurn chan struct{}
	stopOnce  sync.Once
	churn     sync.WaitGroup
	asking    sync.WaitGroup // also the goroutines that write bodies

	handlers    atomic.Int32 // that run
	openAnswers atomic.Int32 // that have to be closed

	mu        sync.Mutex
	attempts  []*attempt // by id
	providers []*answerer
	counts    map[string]int
	wrong     int
	over      bool // nothing may be reported any more
}

// maxWrong is how many violations a run prints.
const maxWrong = 20

// violation notes what must not be.
func (h *history) violation(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wrong++; h.wrong <= maxWrong && !h.over {
		h.t.Errorf(format, args...)
	}
}

func (h *history) count(what string) {
	h.mu.Lock()
	h.counts[what]++
	h.mu.Unlock()
}

func newHistory(t *testing.T, seed uint64) *history {
	random := rand.New(rand.NewPCG(seed, math.MaxUint64))
	limits := socket.Limits{
		Streams: []int{6, 16, 0}[random.IntN(3)],
		Window:  []int{64 << 10, 0}[random.IntN(2)],
		Memory:  []int64{2 << 20, 8 << 20, 0}[random.IntN(3)],
	}
	h := &history{
		t: t, seed: seed, rig: newBrokerRig(t, socket.WithLimits(limits)),
		channels:  [2]uuid.UUID{uuid.New(), uuid.New()},
		stopChurn: make(chan struct{}), counts: map[string]int{},
	}
	for i := range h.toBroker {
		h.toBroker[i] = newFaultyProxy(t, []string{h.rig.addr, h.rig.farAddr}[i], seed, uint64(i))
	}
	t.Cleanup(h.abandon)
	return h
}

// run is the whole life of the run.
func (h *history) run() {
	h.begin()
	h.load()
	h.calm()
	h.rest("after the load")
	h.probe()
	h.quietLoad()
	h.rest("after the quiet load")
	h.end()
	h.check()
	h.t.Logf("%d attempts: %v", len(h.attempts), h.counts)
}

// begin starts everything. Channel 0 has a provider that is always there, channel 1 has none.
func (h *history) begin() {
	for channel := range byte(2) {
		h.consumers[channel] = []*askingSlot{
			h.newSlot(channel, false, false), h.newSlot(channel, true, false), h.newSlot(channel, true, true), h.newSlot(channel, false, true),
		}
		h.churning(uint64(channel), func(random *rand.Rand) { h.consumers[channel][3].replace(random) })
		h.keepProvider(h.newAnswerer(channel, behindFaults, h.toServe))
		h.keepProvider(h.newAnswerer(channel, behindFaults, h.toReceive))
		h.replacing(channel, channel == 1)
	}
	h.keepProvider(h.newAnswerer(0, direct, h.toServe))
	for _, p := range h.toBroker {
		p.arm()
	}
	h.churn.Go(h.watchStats)
}

// load asks all questions.
func (h *history) load() {
	var next atomic.Uint32
	for range historyParallel {
		h.asking.Go(func() {
			for n := next.Add(1); n <= historyQuestions; n = next.Add(1) {
				h.ask(h.plan(n))
			}
		})
	}
	returnsWithin(h.t, 2*time.Minute, "the load", h.asking.Wait)
}

// calm ends all faults and changes.
func (h *history) calm() {
	h.stopChanges()
	returnsWithin(h.t, 15*time.Second, "the last replacement", h.churn.Wait)
}

func (h *history) stopChanges() {
	h.stopOnce.Do(func() { close(h.stopChurn) })
	for _, p := range h.toBroker {
		p.calm()
	}
}

// rest waits until nothing runs any more, with the clients still there.
func (h *history) rest(when string) {
	h.t.Helper()
	eventually(h.t, when+": every request's context has ended", func() bool { return h.handlers.Load() == 0 })
	eventually(h.t, when+": every answer is closed", func() bool { return h.openAnswers.Load() == 0 })
	h.rig.atRest()
	eventually(h.t, when+": each request has one outcome", func() bool {
		r := h.rig.server.Stats().Requests
		return r.Opened == r.Completed+r.Failed+r.NoProvider+r.Busy+r.Draining+r.ProviderLost+r.Expired+r.Cancelled
	})
}

// probe sees that every consumer gets answers again.
func (h *history) probe() {
	number := uint32(historyQuestions)
	for channel := range byte(2) {
		for i := range h.consumers[channel] {
			for end := time.Now().Add(20 * time.Second); ; {
				number++
				if err := h.ask(probeQuestion(number, channel, i)); err == nil {
					break
				} else if time.Now().After(end) {
					h.t.Fatalf("consumer %d of channel %d gets no answers after the faults: %v", i, channel, err)
				}
			}
		}
	}
}

// quietLoad asks once more, after a partition that harms nobody, and with timeouts so long that none of them
// hides what was lost: credit, the end of a body, the word that a consumer gave up.
func (h *history) quietLoad() {
	const each, timeout = 6, time.Minute
	for _, p := range h.toBroker {
		p.hold(toServer, 200*time.Millisecond)
		p.hold(toClient, 200*time.Millisecond)
	}
	number := uint32(2 * historyQuestions)
	for channel := range byte(2) {
		for i := range h.consumers[channel] {
			for range each {
				number++
				q := h.plan(number)
				q.channel, q.consumer, q.timeout, q.cancel = channel, i, timeout, 0
				if q.use == useForget {
					q.use = useNothing
				}
				if q.answer == answerNever {
					q.plainSend, q.cancel = false, 50*time.Millisecond
				}
				h.asking.Go(func() { h.ask(q) })
			}
		}
	}
	returnsWithin(h.t, timeout/4, "the quiet load", h.asking.Wait)
}

// end closes everything, the clients first.
func (h *history) end() {
	h.closeClients()
	h.rig.atRest()
	eventually(h.t, "no client is left", func() bool {
		st := h.rig.server.Stats()
		return st.Consumers+st.Providers+st.Handshakes+len(st.Channels) == 0
	})
	returnsWithin(h.t, 5*time.Second, "Stop", h.rig.stop)
	for _, p := range h.toBroker {
		p.stop()
	}
	if v := h.rig.server.Stats().Refused.Violations; v > 0 {
		h.violation("the broker found %d violations of the protocol", v)
	}
}

// closeClients closes all clients that there are.
func (h *history) closeClients() {
	h.t.Helper()
	for channel := range h.consumers {
		for _, slot := range h.consumers[channel] {
			returnsWithin(h.t, 5*time.Second, "Consumer.Close", func() { _ = slot.current.Load().Close() })
		}
	}
	h.mu.Lock()
	providers := slices.Clone(h.providers)
	h.mu.Unlock()
	for _, p := range providers {
		returnsWithin(h.t, 5*time.Second, "Provider.Close", p.close)
	}
}

// abandon ends a run that was given up half-way, so that it does not disturb the next.
func (h *history) abandon() {
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
	h.stopChanges()
	h.closeClients()
}

// watchStats looks at the statistics while there is something to see.
func (h *history) watchStats() {
	for pause(20*time.Millisecond, h.stopChurn) {
		if st := h.rig.server.Stats(); st.Reserved < 0 || st.Streams < 0 {
			h.violation("the broker has %d bytes reserved, %d streams", st.Reserved, st.Streams)
		}
	}
}

// churning calls change again and again, until the load is over.
func (h *history) churning(number uint64, change func(random *rand.Rand)) {
	random := rand.New(rand.NewPCG(h.seed, 1<<40+number))
	h.churn.Go(func() {
		for pause(between(random, 50*time.Millisecond, 600*time.Millisecond), h.stopChurn) {
			change(random)
		}
	})
}

// pause waits for d, and says false if quit was closed.
func pause(d time.Duration, quit <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-quit:
		return false
	}
}

func between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}

// weighted returns an index of weights.
func weighted(random *rand.Rand, weights ...int) int {
	sum := 0
	for _, w := range weights {
		sum += w
	}
	n := random.IntN(sum)
	for i, w := range weights {
		if n -= w; n < 0 {
			return i
		}
	}
	panic("unreachable")
}

// The plan: what is asked, and what becomes of it.

// question is what one caller wants answered. It may be asked several times: each is an attempt.
type question struct {
	number     uint32
	channel    byte
	consumer   int
	size       int
	body       bodyKind
	plainSend  bool // by Send: no metadata and no context
	timeout    time.Duration
	cancel     time.Duration // after which the context is cancelled; 0 for never
	idempotent bool
	answer     answerKind
	answerSize int
	use        useKind
	seed       uint64
}

type bodyKind int

const (
	bodyInMemory bodyKind = iota
	bodyPiped             // in pieces, now and then
	bodyBroken            // its reader fails half-way
)

// answerKind is what the provider does.
type answerKind int

const (
	answerWhole  answerKind = iota // at once
	answerPieces                   // now and then
	answerStream                   // while the request arrives
	answerEarly                    // without reading the request
	answerEmpty                    // nothing
	answerError                    // with an error
	answerBroken                   // half of it, then its reader fails
	answerPanic                    // by panicking
	answerNever                    // not before its context ends
)

// useKind is what the consumer does with the answer.
type useKind int

const (
	useAll useKind = iota
	useSlowly
	useHalf    // and close it
	useNothing // and close it
	useForget  // neither read nor close it
)

// plan makes question number. It follows from the seed alone.
func (h *history) plan(number uint32) *question {
	random := rand.New(rand.NewPCG(h.seed, uint64(number)))
	q := &question{
		number: number, seed: h.seed, channel: byte(random.IntN(2)), consumer: weighted(random, 30, 30, 30, 10),
		body:       bodyKind(weighted(random, 50, 45, 5)),
		size:       randomSize(random),
		answer:     answerKind(weighted(random, 25, 20, 20, 5, 4, 8, 6, 3, 4)),
		answerSize: randomSize(random),
		use:        useKind(weighted(random, 70, 12, 6, 6, 6)),
		idempotent: random.IntN(3) == 0,
	}
	switch weighted(random, 15, 80, 5) {
	case 0:
		q.timeout = between(random, 5*time.Millisecond, 60*time.Millisecond)
	case 1:
		q.timeout = between(random, 200*time.Millisecond, time.Second)
	case 2:
		q.timeout = between(random, time.Second, 2*time.Second)
	}
	if random.IntN(8) == 0 {
		q.cancel = between(random, time.Millisecond, 200*time.Millisecond)
	}
	if random.IntN(4) == 0 || q.use == useForget { // a context's cancel function would end what is forgotten
		q.plainSend, q.cancel, q.idempotent, q.size = true, 0, false, max(q.size, stampedHeader)
	}
	return q
}

func probeQuestion(number uint32, channel byte, consumer int) *question {
	return &question{number: number, channel: channel, consumer: consumer, size: 1000, answerSize: 1000, timeout: 2 * time.Second}
}

// randomSize is up to 300 KiB, mostly less.
func randomSize(random *rand.Rand) int {
	switch weighted(random, 8, 52, 28, 12) {
	case 0:
		return random.IntN(stampedHeader)
	case 1:
		return stampedHeader + random.IntN(2000)
	case 2:
		return random.IntN(80 << 10)
	default:
		return random.IntN(300<<10 + 1)
	}
}

// key is the idempotency key.
func (q *question) key() string { return fmt.Sprintf("key-%d", q.number) }

// Bodies.

// historyStamp begins each body: whose it is, and of a question its size, of an answer who gives it. Each of
// its bytes tells the channel, as all others do.
func historyStamp(channel byte, id uint32, size int) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, stampedHeader), spread(uint64(id)))
	b = binary.BigEndian.AppendUint64(b, spread(uint64(size)))
	for i := range b {
		b[i] |= channel << 7
	}
	return b
}

// questionBody is the body of an attempt: the stamp and then bytes that no other has, nor this one at another
// place. One too short for its stamp is the beginning of it.
func questionBody(channel byte, id uint32, size int) []byte {
	body := make([]byte, max(size, stampedHeader)+7) // whole words
	_, _ = stampSource(uint64(id)).Read(body)        // never fails
	for i := 0; i+8 <= len(body); i += 8 {
		word := binary.NativeEndian.Uint64(body[i:])&^0x8080808080808080 | uint64(channel)*0x8080808080808080
		binary.NativeEndian.PutUint64(body[i:], word)
	}
	copy(body, historyStamp(channel, id, size))
	return body[:size:size]
}

// disguise makes of a question's bytes an answer's, which tell who gives them. The channel stays.
func disguise(b []byte, provider int) {
	mask := bytes.Repeat([]byte{byte(provider+1) & 0x7f}, 512)
	for len(b) > 0 {
		b = b[subtle.XORBytes(b, b, mask):]
	}
}

// answerBody is the answer to an attempt.
func answerBody(channel byte, id uint32, provider, size int) []byte {
	b := questionBody(channel, id, size)
	disguise(b, provider)
	return append(historyStamp(channel, id, provider), b...)
}

// whatDiffers says how got, which is as long as want at most, is no beginning of it.
func whatDiffers(channel byte, got, want []byte) error {
	if bytes.HasPrefix(want, got) {
		return nil
	}
	for i := range got {
		if got[i]>>7 != channel {
			return fmt.Errorf("byte %d of %d belongs to the other channel", i, len(got))
		}
	}
	for i := range got {
		if i >= len(want) {
			return fmt.Errorf("%d bytes, more than %d", len(got), len(want))
		}
		if got[i] != want[i] {
			return fmt.Errorf("byte %d of %d is %#x, want %#x", i, len(got), got[i], want[i])
		}
	}
	return nil
}

func (h *history) check() {
	h.mu.Lock()
	attempts := h.attempts
	h.mu.Unlock()
	begun, answers := map[*question]int{}, 0
	total := uint64(0)
	for _, a := range attempts {
		n := int(a.begun.Load())
		begun[a.question] += n
		total += uint64(n)
		if a.answer {
			answers++
		}
		h.checkAttempt(a)
	}
	for q, n := range begun {
		if n > 1 && !q.idempotent {
			h.violation("question %d, which is not idempotent, was executed %d times", q.number, n)
		}
	}
	if opened := h.rig.server.Stats().Requests.Opened; opened < total || opened > uint64(len(attempts)) {
		h.violation("the broker counted %d requests, of %d attempts, %d of which were begun", opened, len(attempts), total)
	}
	if answers < historyQuestions/10 {
		h.violation("only %d answers to %d questions: the run says little", answers, historyQuestions)
	}
}

// checkAttempt checks what is known of an attempt only now that nothing more can happen to it.
func (h *history) checkAttempt(a *attempt) {
	begun, executed, by := a.begun.Load(), a.executed.Load(), a.by.Load()
	if executed > begun {
		h.violation("attempt %d was executed %d times, and begun %d times", a.id, executed, begun)
	}
	if socket.Retryable(a.outcome) && begun > 0 {
		h.violation("attempt %d ended with %v, which says that no provider had it, and provider %d had", a.id, a.outcome, by.number)
	}
	if a.answer && begun != 1 {
		h.violation("attempt %d was answered, and begun %d times", a.id, begun)
	}
	if a.answer && a.question.answer != answerEarly && executed != 1 {
		h.violation("attempt %d was answered, and executed %d times", a.id, executed)
	}
	if errors.Is(a.outcome, socket.ErrProviderLost) && by != nil && !by.faulty && !by.killed.Load() {
		h.violation("attempt %d lost provider %d, which was there all the time", a.id, by.number)
	}
}
