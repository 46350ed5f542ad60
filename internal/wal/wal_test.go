package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/internal/wal/waltest"
)

const seed = 20261125

// writer works on a log as a program would, and knows what must be there after a crash.
type writer struct {
	log     *wal.Log
	records map[uint64][][]byte // what the number has stood for; the last is the newest
	durable uint64
	trimmed uint64 // records up to here need not be there
}

func openLog(files wal.Files, each func(uint64, []byte) error) (*wal.Log, error) {
	return wal.Open(wal.Options{Files: files, Segment: 4096}, each)
}

// open checks what is there and goes on from it.
func (w *writer) open(t *testing.T, files wal.Files) error {
	t.Helper()
	next := uint64(0)
	log, err := openLog(files, func(number uint64, data []byte) error {
		if next != 0 && number != next {
			t.Fatalf("record %d comes after record %d", number, next-1)
		}
		if next == 0 && number > w.trimmed+1 {
			t.Fatalf("the first record is %d, trimmed are those up to %d", number, w.trimmed)
		}
		next = number + 1
		known := w.records[number]
		for i, was := range known {
			if bytes.Equal(was, data) {
				w.records[number] = known[i : i+1]
				return nil
			}
		}
		t.Fatalf("record %d was never appended: %q", number, data)
		return nil
	})
	if errors.Is(err, waltest.ErrCrashed) {
		return err
	}
	if err != nil {
		t.Fatal(err)
	}
	if log.Last() < w.durable {
		t.Fatalf("the last record is %d, durable were those up to %d", log.Last(), w.durable)
	}
	w.log, w.durable = log, log.Last()
	return nil
}

// work does what rng says until something fails.
func (w *writer) work(rng *rand.Rand, steps int) error {
	for range steps {
		switch n := rng.IntN(20); {
		case n < 10:
			data := bytes.Repeat([]byte{byte('a' + rng.IntN(26))}, rng.IntN(400))
			if rng.IntN(40) == 0 {
				data = bytes.Repeat([]byte{'L'}, 9000) // larger than a segment
			}
			number, err := w.log.Append(data)
			if err != nil {
				return err
			}
			w.records[number] = append(w.records[number], data)
		case n < 12:
			if err := w.log.Flush(); err != nil {
				return err
			}
		case n < 17:
			if err := w.log.Sync(); err != nil {
				return err
			}
			w.durable = w.log.Last()
		case n < 18:
			w.log.Drop()
		default:
			to := w.trimmed + uint64(rng.IntN(int(w.durable-w.trimmed)+1))
			w.trimmed = to
			if err := w.log.Trim(to); err != nil {
				return err
			}
		}
		w.durable = max(w.durable, w.log.Durable())
	}
	return nil
}

// TestCrashAtEveryWrite crashes at each change of the disk, and then again and again while it recovers and goes on.
func TestCrashAtEveryWrite(t *testing.T) {
	crashes := 0
	for n := 1; ; n++ {
		crashed := false
		for variant := range 6 {
			rng := rand.New(rand.NewPCG(seed, uint64(n*10+variant)))
			work := rand.New(rand.NewPCG(seed, uint64(variant)))
			disk := waltest.New(n)
			w := &writer{records: map[uint64][][]byte{}}
			for life := range 5 {
				err := w.open(t, disk)
				if err == nil {
					err = w.work(work, 120)
				}
				if err == nil {
					break
				}
				if !errors.Is(err, waltest.ErrCrashed) {
					t.Fatalf("change %d, variant %d, life %d: %v", n, variant, life, err)
				}
				crashed = true
				crashes++
				disk = disk.AfterCrash(rng, rng.IntN(3) > 0, 1+rng.IntN(60))
			}
			if err := w.open(t, disk.AfterCrash(rng, true, -1)); err != nil {
				t.Fatal(err)
			}
		}
		if !crashed {
			break
		}
	}
	if crashes < 1000 {
		t.Errorf("%d crashes only", crashes)
	}
}

// Faults that pass cost nothing that was confirmed, and nothing that was not dropped.
func TestFaults(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed, 3))
	disk := waltest.New(-1)
	disk.Fault(func(string, string) error {
		if rng.IntN(4) == 0 {
			return syscall.ENOSPC
		}
		return nil
	})
	w := &writer{records: map[uint64][][]byte{}}
	if err := w.open(t, disk); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for range 2000 {
		if err := w.work(rng, 20); err != nil {
			failed++
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
		}
	}
	if failed < 200 || w.durable < 1000 {
		t.Errorf("%d failures, %d durable records", failed, w.durable)
	}
	if err := w.open(t, disk.AfterCrash(rng, true, -1)); err != nil {
		t.Fatal(err)
	}
}

// A byte that changes in what was durable is found, wherever it is, but in the very last record.
func TestDamage(t *testing.T) {
	fill := func() (*waltest.Disk, [][]byte) {
		disk := waltest.New(-1)
		log, err := openLog(disk, nil)
		if err != nil {
			t.Fatal(err)
		}
		var records [][]byte
		for i := range 150 {
			records = append(records, []byte(strings.Repeat(fmt.Sprint(i), 20)))
			if _, err := log.Append(records[i]); err != nil {
				t.Fatal(err)
			}
			if err := log.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		return disk, records
	}
	disk, _ := fill()
	names, err := disk.Names()
	if err != nil || len(names) < 3 {
		t.Fatalf("files %q, %v", names, err)
	}
	for _, name := range names {
		data, err := disk.Read(name)
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(data); at += 3 {
			disk, records := fill()
			disk.Damage(name, at)
			n := 0
			_, err := openLog(disk, func(_ uint64, data []byte) error {
				if !bytes.Equal(data, records[n]) {
					t.Fatalf("%s, byte %d: record %d is %q", name, at, n, data)
				}
				n++
				return nil
			})
			if err == nil && n < len(records)-1 {
				t.Fatalf("%s, byte %d: %d records and no error", name, at, n)
			}
			if err != nil && !errors.Is(err, wal.ErrDamaged) {
				t.Fatalf("%s, byte %d: %v", name, at, err)
			}
		}
	}
	if err := disk.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(disk, func(number uint64, _ []byte) error {
		if number == 1 {
			t.Error("the first record is there without its file")
		}
		return nil
	}); err != nil {
		t.Errorf("without the oldest file, as after a trim: %v", err)
	}
	disk, _ = fill()
	if err := disk.Remove(names[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := openLog(disk, func(uint64, []byte) error { return nil }); !errors.Is(err, wal.ErrDamaged) {
		t.Errorf("a file is missing: %v", err)
	}
}

// TestDir uses real files: records are there again, trimmed files are used again, and a second process is kept out.
func TestDir(t *testing.T) {
	dir := t.TempDir()
	unlock, err := wal.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wal.Lock(dir); !errors.Is(err, wal.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a second lock: %v", err)
	}
	last := uint64(0)
	for range 3 {
		log, err := openLog(wal.Dir(dir), func(number uint64, data []byte) error {
			if want := fmt.Sprint(number); string(data) != want {
				t.Errorf("record %d is %q", number, data)
			}
			return nil
		})
		if err != nil || log.Last() != last {
			t.Fatalf("last record %d, want %d, %v", log.Last(), last, err)
		}
		for range 1000 {
			last++
			if number, err := log.Append([]byte(fmt.Sprint(last))); err != nil || number != last {
				t.Fatalf("record %d, want %d, %v", number, last, err)
			}
			if last%10 == 0 {
				if err := log.Sync(); err != nil {
					t.Fatal(err)
				}
			}
			if last%100 == 0 {
				if err := log.Trim(last - 50); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) > 5 {
			t.Fatalf("%d files, %v", len(entries), err)
		}
	}
	if _, err := os.Stat(dir + "/spare"); err != nil {
		t.Errorf("nothing is kept to be used again: %v", err)
	}
	log, err := wal.Open(wal.Options{Files: wal.Dir(dir), Segment: 8192}, func(uint64, []byte) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/spare"); !os.IsNotExist(err) {
		t.Errorf("a spare segment of another size: %v", err)
	}
	if err := log.Skip(last + 10); err != nil {
		t.Fatal(err)
	}
	if number, err := log.Append(nil); err != nil || number != last+10 {
		t.Errorf("after a skip: %d, %v", number, err)
	}
	if err := errors.Join(log.Close(), unlock()); err != nil {
		t.Fatal(err)
	}
	unlock, err = wal.Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
}

// What was dropped is not read behind the records that took its place.
func TestDropped(t *testing.T) {
	disk := waltest.New(-1)
	log, err := openLog(disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	appendAll := func(records ...string) {
		t.Helper()
		for _, r := range records {
			if _, err := log.Append([]byte(r)); err != nil {
				t.Fatal(err)
			}
		}
	}
	appendAll("kept")
	if err := log.Sync(); err != nil {
		t.Fatal(err)
	}
	appendAll("old 2", "old 3")
	disk.Fault(func(op, _ string) error {
		if op == "sync" {
			return syscall.EIO
		}
		return nil
	})
	if err := log.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	disk.Fault(nil)
	log.Drop()
	appendAll("new 2")
	if err := log.Sync(); err != nil {
		t.Fatal(err)
	}
	var found []string
	if _, err := openLog(disk.AfterCrash(nil, false, -1), func(_ uint64, data []byte) error {
		found = append(found, string(data))
		return nil
	}); err != nil || strings.Join(found, ", ") != "kept, new 2" {
		t.Errorf("found %q, %v", found, err)
	}
}
