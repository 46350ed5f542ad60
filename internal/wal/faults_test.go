package wal_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/internal/wal/waltest"
)

// After faults that pass, and a crash of the machine, the log can be opened.
func TestFaultsThenCrash(t *testing.T) {
	bad := 0
	for s := range 1000 {
		rng := rand.New(rand.NewPCG(uint64(s), 77))
		disk := waltest.New(40 + rng.IntN(400))
		disk.Fault(func(string, string) error {
			if rng.IntN(12) == 0 {
				return syscall.EIO
			}
			return nil
		})
		w := &writer{records: map[uint64][][]byte{}}
		for {
			err := w.open(t, disk)
			if err == nil {
				break
			}
			if errors.Is(err, waltest.ErrCrashed) {
				break
			}
		}
		if w.log == nil {
			continue
		}
		for !disk.Crashed() {
			_ = w.work(rng, 20)
		}
		_, err := openLog(disk.AfterCrash(rng, true, -1), func(uint64, []byte) error { return nil })
		if err != nil {
			if bad++; bad <= 5 {
				t.Errorf("seed %d: after faults and a crash the log can't be opened: %v", s, err)
			}
		}
	}
	t.Logf("%d of 1000 logs were lost", bad)
}

// A segment whose new name is not durable yet, as the folder could not be synced, is not used again.
func TestSpareIsDurableBeforeItIsUsed(t *testing.T) {
	disk := waltest.New(-1)
	log, err := openLog(disk, nil)
	if err != nil {
		t.Fatal(err)
	}
	put := func(n int) {
		t.Helper()
		for range n {
			if _, err := log.Append(bytes.Repeat([]byte("x"), 1000)); err != nil {
				t.Fatal(err)
			}
			if err := log.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	put(8) // three segments of 3 records
	disk.Fault(func(op, name string) error {
		if op == "sync" && name == "." {
			return syscall.EIO
		}
		return nil
	})
	if err := log.Trim(6); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	disk.Fault(nil)
	put(1)
	// The next record begins a segment; the machine crashes between the sync of its header and that of the folder.
	disk.Fault(func(op, name string) error {
		if op == "rename" {
			return waltest.ErrCrashed
		}
		return nil
	})
	if _, err := log.Append(bytes.Repeat([]byte("x"), 1000)); !errors.Is(err, waltest.ErrCrashed) {
		t.Fatal(err)
	}
	for s := range 20 {
		rng := rand.New(rand.NewPCG(uint64(s), 1))
		last := uint64(0)
		_, err := openLog(disk.AfterCrash(rng, true, -1), func(n uint64, _ []byte) error { last = n; return nil })
		if err != nil || last != 9 {
			t.Fatalf("after the crash (seed %d): last record %d, want 9: %v", s, last, err)
		}
	}
}

// The same with faults of files alone, and everything that Sync has confirmed is there.
func TestFileFaultsThenCrash(t *testing.T) {
	for s := range 500 {
		rng := rand.New(rand.NewPCG(uint64(s), 78))
		disk := waltest.New(40 + rng.IntN(400))
		fault := func(_, name string) error {
			if name != "." && rng.IntN(10) == 0 {
				return syscall.EIO
			}
			return nil
		}
		w := &writer{records: map[uint64][][]byte{}}
		if err := w.open(t, disk); err != nil {
			continue
		}
		disk.Fault(fault)
		for !disk.Crashed() {
			_ = w.work(rng, 20)
		}
		if err := w.open(t, disk.AfterCrash(rng, s%2 == 0, -1)); err != nil {
			t.Fatalf("seed %d: %v", s, err)
		}
	}
}
