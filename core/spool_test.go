package core_test

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// spooled makes the flow keep its settlements in dir, with memory for about a hundred.
func spooled(dir string) func(*core.Config) {
	return func(c *core.Config) { c.SpoolDir, c.MaxPendingBytes, c.SpoolSync = dir, 128<<10, 5*time.Millisecond }
}

// unanswered leaves settlements without an answer while it is told to.
func unanswered(srv *sockettest.Server, silent *atomic.Bool) {
	mute(srv, silent, socket.TypeUseAllocation)
}

// mute leaves messages of the types, or all where none is named, without an answer while it is told to.
func mute(srv *sockettest.Server, silent *atomic.Bool, types ...string) {
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if silent.Load() && (len(types) == 0 || slices.Contains(types, m.Type)) {
			return sockettest.Silence()
		}
		return sockettest.Default()
	})
}

// eventually waits until cond holds for the flow's counts, and checks in between that they add up.
func (h *harness) eventually(what string, cond func(core.Stats) bool) core.Stats {
	h.t.Helper()
	deadline := time.After(limit)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for {
		s := h.flow.Stats()
		if s.Admitted != s.Settled+s.Voided+s.Pending+s.Spooled+s.Dropped || s.Pending < 0 || s.Spooled < 0 {
			h.t.Fatalf("the counts don't add up: %+v", s)
		}
		if cond(s) {
			return s
		}
		select {
		case <-again.C:
		case <-deadline:
			h.t.Fatalf("waited in vain for %s; stats %+v; log:\n%s", what, s, h.logs)
		}
	}
}

// charged returns how often each id was charged at the service.
func charged(srv *sockettest.Server) map[string]int {
	ids := make(map[string]int)
	for _, m := range srv.Messages(socket.TypeUseAllocation) {
		ids[m.Use().AllocationID]++
	}
	return ids
}

// What a process leaves behind is sent by the next one under the same ids, and counts there as admitted.
func TestSpoolOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	var silent atomic.Bool
	silent.Store(true)
	h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(dir), func(c *core.Config) { c.MaxPendingBytes = 1 << 20 })
	for range 50 {
		h.do(h.route("/x", ok), get("/x"))
		h.do(h.route("/void", func(_ http.ResponseWriter, r *http.Request) { core.FromContext(r.Context()).Void() }), get("/void"))
	}
	h.eventually("all on disk", func(s core.Stats) bool { return s.Spooled == 100 })
	h.uses(100)
	killed := t.TempDir() // what is there now is what a kill would leave
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(killed + "/*.wal")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	torn, err := os.OpenFile(files[len(files)-1], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.Seek(-30, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString("a write that did not end"); err != nil {
		t.Fatal(err)
	}
	if err := torn.Close(); err != nil {
		t.Fatal(err)
	}
	silent.Store(false)
	next := newHarness(t, nil, spooled(killed))
	s := next.eventually("what was left", func(s core.Stats) bool { return s.Settled+s.Voided == 100 })
	if s.Settled != 50 || s.Voided != 50 || s.Admitted != 100 {
		t.Errorf("stats %+v", s)
	}
	was, is := charged(h.srv), charged(next.srv)
	for id := range was {
		if is[id] == 0 {
			t.Errorf("%s is not charged", id)
		}
	}
	if len(is) != 100 {
		t.Errorf("%d ids", len(is))
	}
	if err := next.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	last := newHarness(t, nil, spooled(killed))
	if s := last.flow.Stats(); s.Admitted != 0 {
		t.Errorf("confirmed settlements are there again: %+v", s)
	}
}

// A long outage fills memory, and then the disk alone; afterwards everything is charged once.
func TestSpoolBehindMemory(t *testing.T) {
	dir := t.TempDir()
	var silent atomic.Bool
	silent.Store(true)
	h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(dir))
	const n = 3000 // thirty times what memory holds
	for i := range n {
		h.do(h.route("/x", ok), get("/x"))
		if i%20 == 0 {
			h.eventually("room", func(s core.Stats) bool { return s.Pending < 20 })
		}
	}
	s := h.eventually("all on disk", func(s core.Stats) bool { return s.Spooled == n })
	if s.Dropped != 0 {
		t.Errorf("stats %+v", s)
	}
	if sent := len(charged(h.srv)); sent > 300 {
		t.Errorf("%d settlements were in memory", sent)
	}
	silent.Store(false)
	h.srv.DropAll()      // so that what was sent is sent again at once
	for i := range 400 { // which wait behind the others
		h.do(h.route("/x", ok), get("/x"))
		if i%20 == 0 {
			h.eventually("room", func(s core.Stats) bool { return s.Pending < 20 })
		}
	}
	h.eventually("all settled", func(s core.Stats) bool { return s.Settled == n+400 })
	if ids := charged(h.srv); len(ids) != n+400 {
		t.Errorf("%d ids", len(ids))
	}
	check(t, h.srv)
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	size := int64(0)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 200<<10 {
		t.Errorf("the folder has %d bytes", size)
	}
}

// The bound on the disk holds; what it and memory have no room for is counted and logged, and the oldest stay.
func TestSpoolIsFull(t *testing.T) {
	var silent atomic.Bool
	silent.Store(true)
	h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(t.TempDir()), func(c *core.Config) { c.MaxSpoolBytes = 1 })
	for i := range 3000 {
		h.do(h.route("/x", ok), get("/x"))
		if i%20 == 0 && h.count(core.EventSpoolFailed) == 0 {
			h.eventually("room", func(s core.Stats) bool { return s.Pending < 20 || h.count(core.EventSpoolFailed) > 0 })
		}
	}
	s := h.eventually("all ended", func(s core.Stats) bool { return s.Settled+s.Spooled+s.Dropped+s.Pending == 3000 && s.Dropped > 500 })
	if s.Spooled < 400 {
		t.Errorf("stats %+v", s)
	}
	for _, line := range []string{"settlements lost", "the spool can't be written"} {
		if h.logs.Count(line) != 1 {
			t.Errorf("%d lines say that %s", h.logs.Count(line), line)
		}
	}
	silent.Store(false)
	h.srv.DropAll()
	h.eventually("the rest", func(s core.Stats) bool { return s.Settled+s.Dropped == 3000 })
	h.do(h.route("/x", ok), get("/x"))
	h.eventually("one more", func(s core.Stats) bool { return s.Settled+s.Dropped == 3001 })
	h.wait("the spool", func(core.Stats) bool { return h.count(core.EventSpoolRecovered) == 1 })
	if h.logs.Count("the spool is written again") != 1 || h.count(core.EventSpoolFailed) != 1 || h.count(core.EventSpoolRecovered) != 1 {
		t.Errorf("log:\n%s", h.logs)
	}
}

// Shutdown says how many settlements it leaves on disk; they are not dropped.
func TestShutdownLeavesTheSpool(t *testing.T) {
	dir := t.TempDir()
	var silent atomic.Bool
	silent.Store(true)
	h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(dir))
	for range 1000 {
		h.do(h.route("/x", ok), get("/x"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.flow.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "on disk") {
		t.Errorf("got %v", err)
	}
	s := h.flow.Stats()
	if s.Spooled+s.Dropped != 1000 || s.Spooled < 100 || s.Pending != 0 {
		t.Errorf("stats %+v", s)
	}
	next := newHarness(t, nil, spooled(dir))
	next.eventually("the rest", func(n core.Stats) bool { return n.Settled == s.Spooled && n.Admitted == s.Spooled })
}

// A folder is for one flow; another gets a clear error.
func TestSpoolIsInUse(t *testing.T) {
	dir := t.TempDir()
	newHarness(t, nil, spooled(dir))
	f, err := core.New(core.Config{APIKey: "key", SpoolDir: dir})
	if f != nil || !errors.Is(err, wal.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, %v", f, err)
	}
}

// Damage is no reason not to start: it is said, and what can be read is sent.
func TestSpoolIsDamaged(t *testing.T) {
	dir := t.TempDir()
	var silent atomic.Bool
	silent.Store(true)
	h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(dir))
	for range 300 {
		h.do(h.route("/x", ok), get("/x"))
		h.eventually("it on disk", func(s core.Stats) bool { return s.Pending == 0 })
	}
	killed := t.TempDir()
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(killed + "/*.wal")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	next := newHarness(t, nil, spooled(killed))
	next.eventually("what can be read", func(s core.Stats) bool { return s.Settled > 20 && s.Settled == s.Admitted })
	if next.logs.Count("files of the spool are damaged") != 1 {
		t.Errorf("log:\n%s", next.logs)
	}
}

// Entries that can't be read any more, while they wait on disk, are counted as dropped, and those behind them are sent.
func TestSpoolIsDamagedWhileOpen(t *testing.T) {
	dir := t.TempDir()
	var silent atomic.Bool
	silent.Store(true)
	h := newHarness(t, func(s *sockettest.Server) { unanswered(s, &silent) }, spooled(dir))
	const n = 1000
	for i := range n {
		h.do(h.route("/x", ok), get("/x"))
		if i%20 == 0 {
			h.eventually("room", func(s core.Stats) bool { return s.Pending < 20 })
		}
	}
	h.eventually("all on disk", func(s core.Stats) bool { return s.Spooled == n })
	files, err := filepath.Glob(dir + "/*.wal")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[2], make([]byte, 64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	silent.Store(false)
	h.srv.DropAll()
	s := h.eventually("the rest", func(s core.Stats) bool { return s.Settled+s.Dropped == n })
	if s.Dropped < 20 || s.Dropped > n/2 || h.logs.Count("settlements in the spool can't be read") != 1 {
		t.Errorf("stats %+v, log:\n%s", s, h.logs)
	}
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// One settlement that is never confirmed does not keep the disk of all that are.
func TestSpoolIsTidied(t *testing.T) {
	dir := t.TempDir()
	h := newHarness(t, nil, spooled(dir))
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeUseAllocation && m.Use().Alias == "GET /stuck" {
			return sockettest.Error("internal", "later")
		}
		return sockettest.Default()
	})
	h.do(h.route("/stuck", ok), get("/stuck"))
	h.eventually("it on disk", func(s core.Stats) bool { return s.Spooled == 1 })
	for range 3000 {
		h.do(h.route("/x", ok), get("/x"))
		h.eventually("the settlement", func(s core.Stats) bool { return s.Pending+s.Spooled <= 1 })
	}
	files, err := filepath.Glob(dir + "/*.wal")
	if err != nil || len(files) > 6 {
		t.Errorf("%d files, %v", len(files), err)
	}
	if s := h.flow.Stats(); s.Spooled != 1 || s.Settled != 3000 {
		t.Errorf("stats %+v", s)
	}
}
