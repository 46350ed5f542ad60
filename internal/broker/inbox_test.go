package broker

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// arrival is a frame as it came out of an Inbox, or was read from the whole of what came.
type arrival struct {
	header  frame.Header
	payload []byte
}

func TestInboxEverySplit(t *testing.T) {
	stream := framesOf(1, 0, 8, 1, 4, 0, 100, 0, 0, 30, 2)
	want := arrivalsOf(t, stream)
	for first := range len(stream) + 1 {
		for second := first; second <= len(stream); second++ {
			var in Inbox
			got, err := arrive(t, &in, stream, inTurn(first, second-first, len(stream)-second))
			if err != nil {
				t.Fatalf("cut at %d and %d: %v", first, second, err)
			}
			sameFrames(t, fmt.Sprintf("cut at %d and %d", first, second), got, want)
			in.Close()
		}
	}
}

// Frames that do not fit into the buffer of a quiet connection, cut around everything that has a border.
func TestInboxEverySplitOfLargeFrames(t *testing.T) {
	for _, sizes := range [][]int{
		{0, frame.MaxPayload, 0, 5},
		{frame.MaxPayload, frame.MaxPayload},
		{frame.MaxPayload - 1, 1, frame.MaxPayload, 0},
		{smallSpace - frame.HeaderSize, 1, passOn, passOn - 1},
		{smallSpace - 2*frame.HeaderSize, 10, frame.MaxPayload - frame.HeaderSize, 10},
	} {
		stream := framesOf(2, sizes...)
		want := arrivalsOf(t, stream)
		borders := []int{0, smallSpace, frameSize, smallSpace + frameSize, len(stream)}
		at := 0
		for _, a := range want {
			at += frame.HeaderSize + len(a.payload)
			borders = append(borders, at, at+smallSpace)
		}
		near := frame.HeaderSize + 2
		if testing.Short() {
			near = 2
		}
		for _, border := range borders {
			for cut := max(border-near, 0); cut <= min(border+near, len(stream)); cut++ {
				var in Inbox
				got, err := arrive(t, &in, stream, inTurn(cut, len(stream)-cut))
				if err != nil {
					t.Fatalf("%v cut at %d: %v", sizes, cut, err)
				}
				sameFrames(t, fmt.Sprintf("%v cut at %d", sizes, cut), got, want)
				in.Close()
			}
		}
	}
}

func TestInboxByteByByte(t *testing.T) {
	stream := framesOf(3, 0, 1, 0, smallSpace, 3, 3*smallSpace, 0, 9)
	var in Inbox
	got, err := arrive(t, &in, stream, func() int { return 1 })
	if err != nil {
		t.Fatal(err)
	}
	sameFrames(t, "byte by byte", got, arrivalsOf(t, stream))
}

func TestInboxRandomSplits(t *testing.T) {
	for seed := range uint64(12) {
		random := rand.New(rand.NewPCG(seed, 1))
		stream := framesOf(seed, mixedSizes(random, 150)...)
		var in Inbox
		got, err := arrive(t, &in, stream, mixedReads(random))
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		sameFrames(t, fmt.Sprintf("seed %d", seed), got, arrivalsOf(t, stream))
		in.Close()
	}
}

// What is not of the protocol is refused as soon as its header is there, after the frames before it.
func TestInboxErrors(t *testing.T) {
	good := framesOf(4, 0, 20, 3)
	for name, bad := range map[string][]byte{
		"no type":   frame.Header{Type: 0}.Append(nil),
		"too large": frame.Header{Type: frame.Data, Length: frame.MaxPayload + 1, Stream: 1}.Append(nil),
		"no stream": frame.Header{Type: frame.Data, Length: 5}.Append(nil),
		"garbage":   bytes.Repeat([]byte{0xff}, frame.HeaderSize),
	} {
		for _, tail := range []int{0, 1, 3000} {
			stream := slices.Concat(good, bad, make([]byte, tail))
			for first := range len(good) + len(bad) + 1 {
				var in Inbox
				got, err := arrive(t, &in, stream, inTurn(first, len(good)+len(bad)-first, tail))
				if !errors.Is(err, frame.ErrInvalid) && !errors.Is(err, frame.ErrTooLarge) {
					t.Fatalf("%s, cut at %d: got %v", name, first, err)
				}
				sameFrames(t, fmt.Sprintf("%s, cut at %d", name, first), got, arrivalsOf(t, good))
				if ok, again := in.Next(&Frame{}); ok || again == nil || again.Error() != err.Error() {
					t.Fatalf("%s: it goes on after the error: %v, %v", name, ok, again)
				}
				in.Close()
			}
		}
	}
}

// A frame that was retained is read on by others while the Inbox reads what comes next: the race detector
// sees it if that goes to the same memory, and the comparison sees it without.
func TestInboxRetained(t *testing.T) {
	type kept struct {
		f    Frame
		want []byte
	}
	for seed := range uint64(6) {
		random := rand.New(rand.NewPCG(seed, 2))
		stream := framesOf(seed, mixedSizes(random, 150)...)
		var held []kept
		retained := 0
		later := make(chan kept, 1000)
		var reader sync.WaitGroup
		check := func(k kept) {
			if !bytes.Equal(k.f.raw, k.want) {
				t.Errorf("seed %d: a retained frame of %d bytes was overwritten", seed, len(k.want))
			}
			k.f.buf.Release()
		}
		reader.Go(func() {
			for k := range later {
				check(k)
			}
		})
		var in Inbox
		_, err := arriveEach(t, &in, stream, mixedReads(random), func(f *Frame) {
			if f.buf == nil {
				return // not to be retained
			}
			k := kept{*f, bytes.Clone(f.raw)}
			switch random.IntN(4) {
			case 0:
				f.buf.retain()
				held = append(held, k)
				retained++
			case 1:
				f.buf.retain()
				later <- k
				retained++
			}
			for len(held) > 20 { // what is released is used again, by this Inbox too
				check(held[0])
				held = held[1:]
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		in.Close()
		for range 20 { // whoever takes a buffer now must not get one of those
			clear(NewBuffer().B)
		}
		for _, k := range held {
			check(k)
		}
		close(later)
		reader.Wait()
		if retained < 20 {
			t.Errorf("seed %d: only %d frames were retained", seed, retained)
		}
	}
}

// Frames that lie in one buffer are independent of each other: rewriting one, or appending to it, leaves
// the next alone.
func TestInboxFramesOfOneBuffer(t *testing.T) {
	stream := framesOf(5, smallSpace, 10, 10)
	want := arrivalsOf(t, stream)
	var in Inbox
	n := 0
	got, err := arriveEach(t, &in, stream, inTurn(smallSpace, len(stream)-smallSpace), func(f *Frame) {
		frame.SetStream(f.raw, ^uint64(0))
		_ = append(f.raw, "overwritten, if there is room"...)
		_ = append(f.Payload, "overwritten, if there is room"...)
		n++
	})
	if err != nil || n != 3 {
		t.Fatalf("%d frames, %v", n, err)
	}
	sameFrames(t, "after rewriting", got, want)
}

func TestInboxQuiet(t *testing.T) {
	small := framesOf(6, 100)
	fill := func(in *Inbox, reads int, b []byte) {
		for range reads {
			if _, err := arrive(t, in, b, func() int { return len(b) }); err != nil {
				t.Fatal(err)
			}
		}
	}
	wake := func(in *Inbox) *Buffer {
		fill(in, 1, framesOf(7, frame.MaxPayload))
		if in.buf == nil {
			t.Fatal("a large frame was read into no pooled buffer")
		}
		return in.buf
	}

	t.Run("it begins quiet", func(t *testing.T) {
		var in Inbox
		fill(&in, 100, small)
		if in.buf != nil {
			t.Error("it holds a pooled buffer for small frames")
		}
		if n := len(in.Space()); n != smallSpace {
			t.Errorf("it reads %d bytes at once, want %d", n, smallSpace)
		}
	})
	t.Run("it wakes when a read fills all there is", func(t *testing.T) {
		var in Inbox
		fill(&in, 1, framesOf(12, smallSpace-frame.HeaderSize))
		if n := len(in.Space()); n != frameSize {
			t.Errorf("it reads %d bytes at once, want %d", n, frameSize)
		}
	})
	t.Run("it becomes quiet", func(t *testing.T) {
		var in Inbox
		for range 3 { // again and again
			buf := wake(&in)
			fill(&in, quietReads-1, small)
			in.Space()
			if in.buf != buf {
				t.Fatalf("it gave its buffer back after %d small reads, want %d", quietReads-1, quietReads)
			}
			fill(&in, 1, small)
			in.Space()
			if in.buf != nil || buf.refs.Load() != 0 {
				t.Fatalf("it holds its buffer (%d references) after %d small reads", buf.refs.Load(), quietReads)
			}
			fill(&in, 1, small)
		}
	})
	t.Run("a large read begins the count anew", func(t *testing.T) {
		var in Inbox
		buf := wake(&in)
		fill(&in, quietReads-1, small)
		fill(&in, 1, framesOf(8, smallSpace))
		fill(&in, quietReads-1, small)
		in.Space()
		if in.buf != buf {
			t.Error("it gave its buffer back")
		}
	})
	t.Run("not in the middle of a frame", func(t *testing.T) {
		var in Inbox
		wake(&in)
		stream := framesOf(9, 5000, 3)
		got, err := arrive(t, &in, stream, func() int { return 50 })
		if err != nil {
			t.Fatal(err)
		}
		sameFrames(t, "in many small reads", got, arrivalsOf(t, stream))
	})
	t.Run("a retained buffer is another's", func(t *testing.T) {
		var in Inbox
		var buf *Buffer
		_, err := arriveEach(t, &in, framesOf(10, 5, frame.MaxPayload), func() int { return frameSize }, func(f *Frame) {
			if len(f.Payload) == frame.MaxPayload {
				buf = f.buf
				buf.retain()
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		fill(&in, quietReads+1, small)
		in.Space()
		if in.buf != nil || buf.refs.Load() != 1 {
			t.Errorf("it holds a buffer, or the retained one has %d references, want 1", buf.refs.Load())
		}
		buf.Release()
	})
	t.Run("closed", func(t *testing.T) {
		var in Inbox
		buf := wake(&in)
		in.Close()
		if in.buf != nil || buf.refs.Load() != 0 {
			t.Errorf("it holds its buffer (%d references)", buf.refs.Load())
		}
		in.Close()
		if buf.refs.Load() != 0 {
			t.Errorf("closed twice, it released its buffer twice: %d references", buf.refs.Load())
		}
	})
}

// Wherever it is cut, what arrives is the same frames and the same error. The frames before the arbitrary
// bytes are what lets a short input be a long stream.
func FuzzInbox(f *testing.F) {
	f.Add([]byte{}, framesOf(1, 0, 8, 1, 4, 0, 100), []byte{1, 2, 3})
	f.Add([]byte{255, 0, 255, 3}, framesOf(2, 9)[:20], []byte{255, 3, 250})
	f.Add([]byte{45, 44, 182, 181, 1}, []byte{}, []byte{200})
	f.Add([]byte{2, 60, 2}, []byte{0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{})
	f.Add([]byte{}, append(framesOf(5, 5), make([]byte, 20)...), []byte{0, 15, 16, 17})
	f.Fuzz(func(t *testing.T, roots, tail, cuts []byte) {
		var sizes []int
		for _, root := range roots[:min(len(roots), 8)] {
			size := int(root) * int(root)
			if root == 255 {
				size = frame.MaxPayload
			}
			sizes = append(sizes, size)
		}
		stream := append(framesOf(1, sizes...), tail...)
		want, wantErr := parseAll(stream)
		i := 0
		reads := func() int {
			if len(cuts) == 0 {
				return len(stream)
			}
			c := int(cuts[i%len(cuts)])
			if i++; c < 200 {
				return c + 1
			}
			return (c - 199) * 2000
		}
		type kept struct {
			buf *Buffer
			raw []byte
			n   int
		}
		var held []kept
		var in Inbox
		n := 0
		got, err := arriveEach(t, &in, stream, reads, func(f *Frame) {
			if f.buf != nil && len(held) < 50 {
				f.buf.retain()
				held = append(held, kept{f.buf, f.raw, n})
			}
			n++
		})
		in.Close()
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("got error %v, want %v", err, wantErr)
		}
		sameFrames(t, "cut", got, want)
		for _, k := range held {
			if a := want[k.n]; !bytes.Equal(k.raw, append(a.header.Append(nil), a.payload...)) {
				t.Fatalf("frame %d was overwritten after it was retained", k.n)
			}
			k.buf.Release()
		}
	})
}

// arrive gives stream to an Inbox, in reads of as many bytes as reads says, and returns what comes out.
func arrive(t testing.TB, in *Inbox, stream []byte, reads func() int) ([]arrival, error) {
	t.Helper()
	return arriveEach(t, in, stream, reads, func(*Frame) {})
}

// arriveEach is arrive with a function that is called with each frame, as whoever deals with it would be.
func arriveEach(t testing.TB, in *Inbox, stream []byte, reads func() int, each func(*Frame)) (got []arrival, err error) {
	t.Helper()
	for len(stream) > 0 {
		space := in.Space()
		if len(space) == 0 {
			t.Fatal("there is no space to read to")
		}
		n := min(reads(), len(stream), len(space))
		copy(space, stream[:n])
		for i := n; i < min(len(space), n+64); i++ {
			space[i] = 0xee // what a read leaves there is nobody's business
		}
		stream = stream[n:]
		in.Filled(n)
		var f Frame
		for {
			ok, err := in.Next(&f)
			if err != nil {
				return got, err
			}
			if !ok {
				break
			}
			if len(f.raw) != frame.HeaderSize+len(f.Payload) || int(f.Length) != len(f.Payload) || f.buf != in.buf {
				t.Fatalf("%+v: raw holds %d bytes, the payload %d", f.Header, len(f.raw), len(f.Payload))
			}
			if !bytes.Equal(f.raw, append(f.Header.Append(nil), f.Payload...)) {
				t.Fatalf("%+v: raw holds another frame", f.Header)
			}
			got = append(got, arrival{f.Header, bytes.Clone(f.Payload)})
			each(&f)
		}
	}
	return got, nil
}

// parseAll reads the whole frames at the start of stream.
func parseAll(stream []byte) (list []arrival, err error) {
	for len(stream) >= frame.HeaderSize {
		h, err := frame.ParseHeader(stream)
		if err != nil {
			return list, err
		}
		size := frame.HeaderSize + int(h.Length)
		if len(stream) < size {
			break
		}
		list = append(list, arrival{h, stream[frame.HeaderSize:size]})
		stream = stream[size:]
	}
	return list, nil
}

func arrivalsOf(t testing.TB, stream []byte) []arrival {
	t.Helper()
	list, err := parseAll(stream)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func sameFrames(t testing.TB, what string, got, want []arrival) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i].header != want[i].header || !bytes.Equal(got[i].payload, want[i].payload) {
			t.Fatalf("%s: frame %d is %+v, want %+v, or its payload is another", what, i, got[i].header, want[i].header)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d frames, want %d", what, len(got), len(want))
	}
}

// framesOf returns frames with payloads of those sizes. No two have the same payload or stream.
func framesOf(seed uint64, sizes ...int) (b []byte) {
	random := rand.NewChaCha8([32]byte{byte(seed)})
	for i, size := range sizes {
		h := frame.Header{Length: uint32(size), Type: frame.Data, Flags: frame.Flags(i / 2 % 2), Stream: seed<<32 + uint64(i) + 1}
		if i%3 == 1 {
			h.Type = frame.Head
		}
		b = append(h.Append(b), make([]byte, size)...)
		_, _ = random.Read(b[len(b)-size:]) // never fails
	}
	return b
}

// mixedSizes are sizes of payloads: runs of small ones, empty ones, the largest, and all between.
func mixedSizes(random *rand.Rand, n int) (sizes []int) {
	for len(sizes) < n {
		var of func() int
		switch random.IntN(5) {
		case 0:
			of = func() int { return 0 }
		case 1:
			of = func() int { return frame.MaxPayload }
		case 2:
			of = func() int { return random.IntN(frame.MaxPayload + 1) }
		default:
			of = func() int { return random.IntN(300) }
		}
		for range 1 + random.IntN(30) {
			sizes = append(sizes, of())
		}
	}
	return sizes[:n]
}

// mixedReads are sizes of reads: runs of some bytes, of about a packet, and of as much as there is space.
func mixedReads(random *rand.Rand) func() int {
	left, most := 0, 0
	return func() int {
		if left--; left < 0 {
			left, most = random.IntN(30), []int{40, 1500, 9000, 2 * frameSize}[random.IntN(4)]
		}
		if most > frameSize && random.IntN(2) == 0 {
			return most
		}
		return 1 + random.IntN(most)
	}
}

// inTurn returns those sizes, but for 0, which no read has.
func inTurn(sizes ...int) func() int {
	return func() int {
		for len(sizes) > 0 && sizes[0] <= 0 {
			sizes = sizes[1:]
		}
		if len(sizes) == 0 {
			return 1 << 30
		}
		n := sizes[0]
		sizes = sizes[1:]
		return n
	}
}
