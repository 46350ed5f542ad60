package sqlite_test

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/ledgertest"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

const crashDirEnv = "USAGEFLOW_TEST_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		if err := crashChild(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// crashChild reserves and settles for ever, 32 at a time, and prints what is acknowledged.
func crashChild(dir string) error {
	store, err := sqlite.Open(sqlite.Options{Dir: dir, FoldAfter: 300})
	if err != nil {
		return err
	}
	failed := make(chan error)
	lines := make(chan string, 1024)
	run := os.Getpid()
	for worker := range 32 {
		go func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("%d-%d-%d", run, worker, i)
				alias := "GET /" + strconv.Itoa(i%50)
				err := store.SubmitReserve(service.Reservation{Application: "a", Alias: alias, ID: id, Amount: 1}, func(service.Decision, error) {})
				if err != nil {
					failed <- err
				}
				answered := make(chan struct{})
				err = store.SubmitSettle(service.Settlement{Application: "a", Alias: alias, ID: id, Amount: 3}, func(_ service.Receipt, err error) {
					if err != nil {
						failed <- err
					}
					close(answered)
				})
				if err != nil {
					failed <- err
				}
				<-answered
				lines <- id + " " + alias
			}
		}()
	}
	out := bufio.NewWriter(os.Stdout)
	for {
		select {
		case err := <-failed:
			return err
		case line := <-lines:
			if _, err := out.WriteString(line + "\n"); err != nil {
				return err
			}
			if len(lines) == 0 {
				if err := out.Flush(); err != nil {
					return err
				}
			}
		}
	}
}

// TestKill shows that what is acknowledged survives kill -9, exactly once, however often it happens.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]string{}
	for range 4 {
		child := exec.CommandContext(t.Context(), os.Args[0])
		child.Env = append(os.Environ(), crashDirEnv+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		scanner := bufio.NewScanner(out)
		for n := 0; scanner.Scan(); n++ {
			if id, alias, ok := strings.Cut(scanner.Text(), " "); ok && strings.HasPrefix(alias, "GET /") {
				acknowledged[id] = alias
			}
			if n == 1500 {
				if err := child.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := child.Wait(); child.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("the child was not killed: %v", err)
		}
	}
	store := open(t, sqlite.Options{Dir: dir})
	defer store.Close()
	for id, alias := range acknowledged {
		r, err := service.Settle(t.Context(), store, service.Settlement{Application: "a", Alias: alias, ID: id, Amount: 9})
		if err != nil || !r.Repeated || r.Amount != 3 || r.Flags != 0 {
			t.Fatalf("%s was acknowledged; after the crash Settle = %+v, %v", id, r, err)
		}
	}
	page, err := store.Ledgers(t.Context(), service.LedgerQuery{})
	if err != nil {
		t.Fatal(err)
	}
	var used service.Micros
	for _, l := range page.Ledgers {
		used += l.Used
	}
	// Up to 32 a run were written without having been printed, and what the pipe still held.
	if got := int(used / 3); used%3 != 0 || got < len(acknowledged) || got > len(acknowledged)+4*32+4*1024 {
		t.Errorf("%v used in all, %d settlements of 3 were acknowledged", used, len(acknowledged))
	}
}

// TestRandomCrashes compares the ledger with the model while it is abandoned and opened again at random
// moments: the files are copied as they are between two operations, which is what a crash leaves.
func TestRandomCrashes(t *testing.T) {
	rng := rand.New(rand.NewPCG(ledgertest.Seed, 2))
	clock := ledgertest.NewClock()
	model := ledgertest.NewModel(12e6)
	dir := t.TempDir()
	options := func() sqlite.Options {
		return sqlite.Options{Dir: dir, Now: clock.Now, FoldAfter: 1 + rng.IntN(40)}
	}
	store := open(t, options())
	for step := range 800 {
		ledgertest.Step(t, rng, clock, store, model)
		if step%10 == 0 {
			ledgertest.Compare(t, clock, store, model)
		}
		switch rng.IntN(50) {
		case 0:
			copied := t.TempDir()
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			dir = copied
			store = open(t, options())
			model.Restart(clock.Now())
			ledgertest.Compare(t, clock, store, model)
		case 1:
			if err := store.Close(); err != nil {
				t.Fatal(err)
			}
			store = open(t, options())
			model.Restart(clock.Now())
			ledgertest.Compare(t, clock, store, model)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReopenKeepsOrder(t *testing.T) {
	clock := ledgertest.NewClock()
	dir := t.TempDir()
	store := open(t, sqlite.Options{Dir: dir, Now: clock.Now})
	for i := range 1200 {
		_, err := service.Reserve(t.Context(), store, service.Reservation{Application: "a", Alias: fmt.Sprintf("GET /%04d", i%600), ID: strconv.Itoa(i), Amount: 1, Metadata: service.Metadata{URL: "/x"}})
		if err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			clock.Move(1e6)
		}
	}
	for range 2 {
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		store = open(t, sqlite.Options{Dir: dir, Now: clock.Now})
		found, err := store.Allocations(t.Context(), service.AllocationQuery{Limit: 1000})
		if err != nil || len(found) != 1000 || found[0].ID != "1199" || found[999].ID != "200" || found[0].Metadata.URL != "/x" {
			t.Fatalf("%d recent allocations, %v", len(found), err)
		}
		if c := store.Counters(); c.Held != 1200 || c.Ledgers != 600 {
			t.Fatalf("counters %+v", c)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	store := open(t, sqlite.Options{Dir: dir})
	for i := range 300 {
		if _, err := service.Reserve(t.Context(), store, service.Reservation{Application: "a", Alias: "GET /" + strconv.Itoa(i), ID: strconv.Itoa(i), Amount: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := sqlite.Open(sqlite.Options{Dir: dir}); !errors.Is(err, sqlite.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("a folder in use: %v", err)
	}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), crashDirEnv+"="+dir)
	if out, err := child.CombinedOutput(); err == nil || !strings.Contains(string(out), "in use by another process") {
		t.Errorf("a second process: %v, %s", err, out)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	segments, err := filepath.Glob(filepath.Join(dir, "journal", "*.wal"))
	if err != nil || len(segments) != 1 {
		t.Fatalf("segments %q, %v", segments, err)
	}
	journal := filepath.Join("journal", filepath.Base(segments[0]))
	damage := func(name string, from int64, want string) {
		t.Helper()
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(filepath.Join(copied, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		garbage := []byte(strings.Repeat("garbage!", min(512, int(info.Size()-from)/8)))
		if _, err := f.WriteAt(garbage, from); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := sqlite.Open(sqlite.Options{Dir: copied}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("a damaged %s: %v, want %q", name, err, want)
		}
	}
	damage("usageflow.db", 0, "not a database")
	damage("usageflow.db", 4096, "malformed")
	damage(journal, 0, "it has no header")
	damage(journal, 100, "the log is damaged")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", file, "/proc/nothing"} {
		if _, err := sqlite.Open(sqlite.Options{Dir: dir}); err == nil {
			t.Errorf("Open(%q) worked", dir)
		}
	}
	odd := filepath.Join(t.TempDir(), "100% odd?#folder")
	if err := open(t, sqlite.Options{Dir: odd}).Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(odd, "usageflow.db")); err != nil {
		t.Error(err)
	}
}

// More holds than one batch ends are over at once: those that have not been come to count as over all the same.
func TestManyExpire(t *testing.T) {
	clock := ledgertest.NewClock()
	s := open(t, sqlite.Options{Now: clock.Now})
	defer s.Close()
	const many = 70_000
	var answers sync.WaitGroup
	for i := range many {
		answers.Add(1)
		r := service.Reservation{Application: "a", Alias: "GET /x", ID: strconv.Itoa(i), Amount: 1}
		for errors.Is(s.SubmitReserve(r, func(service.Decision, error) { answers.Done() }), service.ErrQueueFull) {
			if _, err := s.Sweep(t.Context()); err != nil && !errors.Is(err, service.ErrQueueFull) {
				t.Fatal(err)
			}
		}
	}
	answers.Wait()
	clock.Move(ledgertest.HoldTime)
	r, err := service.Settle(t.Context(), s, service.Settlement{Application: "a", Alias: "GET /x", ID: strconv.Itoa(many - 1), Amount: 2})
	if err != nil || r.Flags != service.FlagLate {
		t.Errorf("the youngest is settled: %+v, %v", r, err)
	}
	if c := s.Counters(); c.Held == 0 || c.Held == many-1 {
		t.Errorf("%d are held after a batch", c.Held)
	}
	for range 10 {
		if _, err := s.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l, _, err := s.Find(t.Context(), "a", "GET /x")
	if c := s.Counters(); err != nil || c.Held != 0 || l.Held != 0 || l.Total != 2 || c.Expired != many {
		t.Errorf("%+v, %+v, %v", c, l, err)
	}
}
