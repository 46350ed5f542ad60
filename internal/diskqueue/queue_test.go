package diskqueue_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/diskqueue"
	"github.com/usageflow/usageflow-go-middleware/internal/wal"
)

const segment = 4096

func open(t *testing.T, dir string) *diskqueue.Queue {
	t.Helper()
	q, err := diskqueue.Open(diskqueue.Options{Dir: dir, MaxBytes: 40 * segment, Segment: segment})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// contents are the entries of a queue, in order.
func contents(t *testing.T, q *diskqueue.Queue) (list []string, numbers []uint64) {
	t.Helper()
	for from := uint64(0); from <= q.Last(); {
		next, err := q.Read(from, func(number uint64, data []byte) bool {
			list, numbers = append(list, string(data)), append(numbers, number)
			return len(list)%7 != 0
		})
		if err != nil {
			t.Fatal(err)
		}
		from = next
	}
	if len(list) != q.Len() {
		t.Fatalf("%d entries, Len is %d", len(list), q.Len())
	}
	return list, numbers
}

// killed is a copy of a queue's folder, as the end of its process leaves it.
func killed(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// What was flushed is there after the process has ended, whatever was added, taken out and written anew; the files don't grow without end.
func TestRandom(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 20261125))
			dir := t.TempDir()
			q := open(t, dir)
			want := map[uint64]string{}
			next, full := 0, 0
			for step := range 3000 {
				switch n := rng.IntN(100); {
				case n < 60:
					data := fmt.Sprint(next, strings.Repeat("-", rng.IntN(300)))
					number, err := q.Append([]byte(data))
					if errors.Is(err, diskqueue.ErrFull) {
						full++
						for number := range want { // most of them are confirmed
							if rng.IntN(10) > 0 {
								q.Remove(number)
								delete(want, number)
							}
						}
						continue
					}
					if err != nil {
						t.Fatal(err)
					}
					want[number] = data
					next++
				case n < 80:
					for number := range want {
						q.Remove(number)
						delete(want, number)
						break
					}
				case n < 90:
					if err := q.Flush(); err != nil {
						t.Fatal(err)
					}
				case n < 96:
					if err := q.Sync(); err != nil {
						t.Fatal(err)
					}
					if upTo, sparse := q.Sparse(); sparse {
						for _, old := range slices.Sorted(maps.Keys(want)) {
							if old > upTo {
								break
							}
							number, err := q.Replace(old, []byte(want[old]))
							if err != nil {
								t.Fatal(err)
							}
							want[number] = want[old]
							delete(want, old)
						}
					}
				case n < 98:
					if err := q.Flush(); err != nil {
						t.Fatal(err)
					}
					check(t, q, want)
					other := open(t, killed(t, dir))
					check(t, other, want)
					if err := other.Close(); err != nil {
						t.Fatal(err)
					}
				case step%3 == 0:
					if err := q.Close(); err != nil {
						t.Fatal(err)
					}
					q = open(t, dir)
					check(t, q, want)
				}
				if q.Size() > 41*segment {
					t.Fatalf("it takes %d bytes", q.Size())
				}
			}
			if full == 0 {
				t.Error("it was never full")
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func check(t *testing.T, q *diskqueue.Queue, want map[uint64]string) {
	t.Helper()
	list, numbers := contents(t, q)
	if len(list) != len(want) {
		t.Fatalf("%d entries, want %d", len(list), len(want))
	}
	for i, number := range numbers {
		if want[number] != list[i] {
			t.Fatalf("entry %d is %.20q, want %.20q", number, list[i], want[number])
		}
	}
}

// A queue whose oldest entry stays takes little of the disk, once that is written anew.
func TestSparse(t *testing.T) {
	q := open(t, t.TempDir())
	old, err := q.Append([]byte("old"))
	if err != nil {
		t.Fatal(err)
	}
	replaced := 0
	for range 10_000 {
		n, err := q.Append(bytes.Repeat([]byte("x"), 100))
		if err != nil {
			t.Fatal(err)
		}
		q.Remove(n)
		if err := q.Sync(); err != nil {
			t.Fatal(err)
		}
		if upTo, sparse := q.Sparse(); sparse && old <= upTo {
			if old, err = q.Replace(old, []byte("old")); err != nil {
				t.Fatal(err)
			}
			replaced++
		}
	}
	if list, _ := contents(t, q); len(list) != 1 || list[0] != "old" || replaced == 0 {
		t.Errorf("entries %q, replaced %d times", list, replaced)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// One queue at a time has a folder.
func TestInUse(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	if _, err := diskqueue.Open(diskqueue.Options{Dir: dir, MaxBytes: 40 * segment, Segment: segment}); !errors.Is(err, wal.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
}

// Files that are damaged are put aside; what can be read of each is in the queue.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	for i := range 100 {
		if _, err := q.Append(fmt.Appendf(nil, "%03d%s", i, strings.Repeat(".", 200))); err != nil {
			t.Fatal(err)
		}
		if err := q.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	q.Remove(1, 2, 3)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dir + "/*.wal")
	if err != nil || len(files) < 4 {
		t.Fatalf("%q, %v", files, err)
	}
	data, err := os.ReadFile(files[2])
	if err != nil {
		t.Fatal(err)
	}
	data[1500] ^= 1
	if err := os.WriteFile(files[2], data, 0o600); err != nil {
		t.Fatal(err)
	}
	q = open(t, dir)
	list, _ := contents(t, q)
	if len(list) < 80 || len(list) > 96 || list[0][:3] != "003" || list[len(list)-1][:3] != "099" { // of one file, what follows the damage is lost
		t.Errorf("%d entries", len(list))
	}
	aside, err := filepath.Glob(q.Aside() + "/*.wal")
	if err != nil || len(aside) != len(files) {
		t.Errorf("put aside %q, %v", aside, err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	q = open(t, dir)
	if again, _ := contents(t, q); len(again) != len(list) || q.Aside() != "" {
		t.Errorf("%d entries after another start, damaged files in %q", len(again), q.Aside())
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}

// Entries that can't be read any more are told, and the ones behind them are read.
func TestDamagedWhileOpen(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir)
	for range 100 {
		if _, err := q.Append(bytes.Repeat([]byte("x"), 200)); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Sync(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(dir + "/*.wal")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[1], make([]byte, segment), 0o600); err != nil {
		t.Fatal(err)
	}
	read, lost := 0, 0
	for from := uint64(0); from <= q.Last(); {
		next, err := q.Read(from, func(uint64, []byte) bool { read++; return true })
		if err != nil {
			var n int
			n, next = q.Discard(next)
			lost += n
		}
		from = next
	}
	if read+lost != 100 || lost < 10 || lost > 20 || q.Len() != read {
		t.Errorf("%d read, %d lost, %d left", read, lost, q.Len())
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
}
