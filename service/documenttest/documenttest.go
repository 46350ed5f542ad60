// Package documenttest is the suite that every service.DocumentStore passes.
package documenttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
)

// Store is what the suite opens and closes.
type Store interface {
	service.DocumentStore
	Close() error
}

// Run runs the suite. Each call of place stands for a place that is empty, and each call of what it returns opens a store
// there; the suite closes what it opens, one before the next.
func Run(t *testing.T, place func(t *testing.T) (open func() Store)) {
	for name, test := range map[string]func(t *testing.T, open func() Store){
		"Empty": testEmpty, "Replace": testReplace, "Durable": testDurable, "Concurrent": testConcurrent, "Ended": testEnded,
	} {
		t.Run(name, func(t *testing.T) { test(t, place(t)) })
	}
}

func closeStore(t *testing.T, s Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func check(t *testing.T, s Store, want string, wantVersion int64) {
	t.Helper()
	if data, version, err := s.LoadDocument(t.Context()); err != nil || string(data) != want || version != wantVersion {
		t.Errorf("LoadDocument = %.40q, %d, %v, want %.40q, %d", data, version, err, want, wantVersion)
	}
}

func save(t *testing.T, s Store, text string, version int64) int64 {
	t.Helper()
	next, err := s.SaveDocument(t.Context(), []byte(text), version)
	if err != nil || next <= version {
		t.Fatalf("SaveDocument over version %d = %d, %v", version, next, err)
	}
	return next
}

func testEmpty(t *testing.T, open func() Store) {
	s := open()
	defer closeStore(t, s)
	check(t, s, "", 0)
	if _, err := s.SaveDocument(t.Context(), []byte("x"), 1); !errors.Is(err, service.ErrStale) {
		t.Errorf("over a version that there is not: %v", err)
	}
	check(t, s, "", 0)
}

func testReplace(t *testing.T, open func() Store) {
	s := open()
	defer closeStore(t, s)
	first := save(t, s, "one", 0)
	check(t, s, "one", first)
	second := save(t, s, "two", first)
	check(t, s, "two", second)
	for _, version := range []int64{0, first, second + 1, -1} {
		if _, err := s.SaveDocument(t.Context(), []byte("x"), version); !errors.Is(err, service.ErrStale) {
			t.Errorf("over version %d: %v", version, err)
		}
	}
	check(t, s, "two", second)
}

func testDurable(t *testing.T, open func() Store) {
	s := open()
	large := string(bytes.Repeat([]byte("\x00\xff'\"é"), 200_000))
	version := save(t, s, large, save(t, s, "one", 0))
	closeStore(t, s)
	s = open()
	defer closeStore(t, s)
	check(t, s, large, version)
	check(t, s, large, version)
	save(t, s, "two", version)
}

// testConcurrent counts in the document: no increment is lost.
func testConcurrent(t *testing.T, open func() Store) {
	s := open()
	defer closeStore(t, s)
	const writers, each = 4, 10
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				if err := increment(t.Context(), s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	data, _, err := s.LoadDocument(t.Context())
	if want := fmt.Sprint(writers * each); err != nil || string(data) != want {
		t.Errorf("the count is %q, %v, want %s", data, err, want)
	}
}

func increment(ctx context.Context, s Store) error {
	for {
		data, version, err := s.LoadDocument(ctx)
		if err != nil {
			return err
		}
		n := 0
		if version > 0 {
			if _, err := fmt.Sscan(string(data), &n); err != nil {
				return err
			}
		}
		if _, err := s.SaveDocument(ctx, fmt.Append(nil, n+1), version); !errors.Is(err, service.ErrStale) {
			return err
		}
	}
}

func testEnded(t *testing.T, open func() Store) {
	s := open()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.SaveDocument(ended, []byte("x"), 0); err == nil || errors.Is(err, service.ErrStale) {
		t.Errorf("with a context that has ended: %v", err)
	}
	closeStore(t, s)
	if _, _, err := s.LoadDocument(t.Context()); err == nil {
		t.Error("a store that is closed loads")
	}
	if _, err := s.SaveDocument(t.Context(), []byte("x"), 0); err == nil || errors.Is(err, service.ErrStale) {
		t.Errorf("a store that is closed: %v", err)
	}
}
