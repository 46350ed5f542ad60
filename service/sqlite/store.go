package sqlite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/internal/wal"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/book"
	"github.com/usageflow/usageflow-go-middleware/service/internal/intake"
)

// ErrInUse is returned by Open when another Store, of this or of another process, has the folder open.
var ErrInUse = errors.New("the data folder is in use by another process")

// Options configure a Store. The zero value of everything but Dir is a good default.
type Options struct {
	// Dir is the folder of the data files; it is created if it does not exist.
	Dir string
	// Now is the clock; time.Now by default.
	Now func() time.Time
	// HoldTime is how long an allocation is held before it expires; 5 minutes by default.
	HoldTime time.Duration
	// Retention is how long allocations are kept after they were reserved; DefaultRetention by default, for ever where it
	// is negative. An id that is older is not known any more.
	Retention time.Duration
	// Logger is told when writing begins to fail and when it works again; slog.Default by default.
	Logger *slog.Logger
	// QueueSize bounds the operations that wait (65,536 by default), MaxBatch those that are
	// decided together (1,024), MaxLedgers the aliases (2,000,000).
	QueueSize, MaxBatch, MaxLedgers int
	// FoldAfter is the number of changed records after which they are folded without waiting for the
	// second to end (32,768); from MaxUnfolded on (1,000,000) operations wait for the
	// folder, or fail while it does.
	FoldAfter, MaxUnfolded int

	foldInterval time.Duration
}

func (o *Options) setDefaults() {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.HoldTime = cmp.Or(o.HoldTime, 5*time.Minute)
	o.Retention = cmp.Or(o.Retention, DefaultRetention)
	o.QueueSize = cmp.Or(o.QueueSize, 1<<16)
	o.MaxBatch = cmp.Or(o.MaxBatch, 1024)
	o.MaxLedgers = cmp.Or(o.MaxLedgers, 2_000_000)
	o.FoldAfter = cmp.Or(o.FoldAfter, 1<<15)
	o.foldInterval = cmp.Or(o.foldInterval, foldInterval)
	o.MaxUnfolded = cmp.Or(o.MaxUnfolded, 1_000_000)
}

// Store is a service.Ledger in a folder.
type Store struct {
	// Static after Open.
	opts     Options
	unlock   func() error // of the data folder
	queue    *intake.Queue
	foldJobs chan *foldJob
	foldDone chan error
	waiters  chan chan error // each waits until what there is is in the tables
	ended    chan struct{}   // closed when the committer has ended
	filled   chan filled
	toWrite  chan *decided
	written  chan *decided // in the order of toWrite
	wg       sync.WaitGroup

	// Owned by the committer.
	unfinished             []*decided // decided and not answered, the oldest first
	round                  uint64     // counts failures of the writer
	free                   []*decided
	tables                 *tables
	dirt                   dirt
	folding                *foldJob
	last, folded           uint64 // the last journal row that is finished, and that the tables have
	waiting                []waiter
	lookupKeys             []book.Key
	filter, filling        *filter // of the keys in the tables; nil where there is none
	newKeys                int     // since startFilter was called
	readyAlarm             intake.Alarm
	commitAlarm, foldAlarm intake.Alarm

	retireAlarm intake.Alarm // owned by the folder

	journal *journal      // owned by the writer
	mayTrim atomic.Uint64 // rows up to here are in the tables

	mu      sync.RWMutex // written by the committer, read by queries
	state   *state
	counted service.Counters

	closeErr  error
	closeOnce sync.Once
}

var _ service.Ledger = (*Store)(nil)

// Open opens the ledger in opts.Dir and brings it to where the last process left it. The error wraps
// ErrInUse where another process has it.
func Open(opts Options) (*Store, error) { return openOn(opts, wal.Options{}) }

// openOn opens the ledger with a journal as log says; it is in the data folder where log says nothing else.
func openOn(opts Options, log wal.Options) (*Store, error) {
	opts.setDefaults()
	if opts.Dir == "" {
		return nil, errors.New("sqlite: no data folder is given")
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create the data folder: %w", err)
	}
	unlock, err := wal.Lock(opts.Dir)
	if errors.Is(err, wal.ErrInUse) {
		return nil, fmt.Errorf("%s: %w", opts.Dir, ErrInUse)
	}
	if err != nil {
		return nil, err
	}
	s := &Store{
		opts:     opts,
		unlock:   unlock,
		queue:    intake.NewQueue(opts.QueueSize),
		foldJobs: make(chan *foldJob, 1),
		foldDone: make(chan error, 1),
		waiters:  make(chan chan error),
		ended:    make(chan struct{}),
		toWrite:  make(chan *decided, maxDecided),
		written:  make(chan *decided, maxDecided),
		filled:   make(chan filled, 1),
		round:    1,
	}
	ctx := context.Background()
	if s.tables, err = openTables(ctx, filepath.Join(opts.Dir, "usageflow.db")); err != nil {
		return nil, errors.Join(err, unlock())
	}
	if err := errors.Join(removeBackups(opts.Dir), s.restore(ctx, log)); err != nil {
		err = fmt.Errorf("read the ledger in %s: %w", opts.Dir, err)
		return nil, errors.Join(err, s.tables.close(), unlock())
	}
	s.wg.Add(3)
	go s.committer(ctx)
	go s.writer()
	go s.folder(ctx)
	return s, nil
}

// restore reads the tables and replays the journal over them.
func (s *Store) restore(ctx context.Context, log wal.Options) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	if s.tables.wall != 0 {
		s.state.Clock.Restore(s.tables.age, time.UnixMilli(s.tables.wall))
	}
	if err := s.takeOldJournal(ctx); err != nil {
		return err
	}
	if log.Files == nil {
		dir := filepath.Join(s.opts.Dir, journalDir)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if err := wal.Dir(s.opts.Dir).Sync(); err != nil { // the journal's name is durable before anything in it counts
			return err
		}
		log.Files = wal.Dir(dir)
	}
	s.folded = s.tables.folded
	var err error
	if s.journal, err = openJournal(log, s.folded, s.replay); err != nil {
		return err
	}
	s.last = s.journal.last()
	s.restoreOrder()
	return nil
}

// takeOldJournal brings what an earlier version's journal has into the tables.
func (s *Store) takeOldJournal(ctx context.Context) error {
	path := filepath.Join(s.opts.Dir, oldJournal)
	last, err := replayOldJournal(ctx, path, s.tables.folded, s.replay)
	if err != nil {
		return err
	}
	if s.dirt.size() > 0 {
		j := s.takeFold(last)
		if err := s.tables.fold(ctx, j); err != nil {
			return err
		}
		for i := range j.allocs {
			al := j.allocs[i].Allocation
			if al.InTables = true; al.State != service.StateHeld {
				s.state.RemoveAllocation(al.Key)
			}
		}
		s.tables.folded, s.tables.hasAllocs = last, s.tables.hasAllocs || len(j.allocs) > 0
	}
	return removeOldJournal(path)
}

func (s *Store) restoreAccount(a *book.Account) {
	s.state.AddAccount(a)
	s.state.number(a)
	s.state.NextNum = max(s.state.NextNum, a.Num+1)
	s.state.NextSeq = max(s.state.NextSeq, a.Last+1) // its allocations may be gone
	s.state.Size++
}

// restoreAllocation keeps the allocation if it is held or not in the tables. They come in the order of Seq, which is
// the one that they expire in.
func (s *Store) restoreAllocation(coded *book.Coded) error {
	al, err := coded.Link(s.state.account)
	if err != nil {
		return err
	}
	if al.State == service.StateHeld || !al.InTables {
		s.state.AddAllocation(al)
	}
	s.restorePlace(al)
	return nil
}

func (s *Store) restorePlace(al *book.Allocation) {
	s.state.place(al, al.State)
	s.state.NextSeq = max(s.state.NextSeq, al.Seq+1)
}

// replay puts the records of one journal row over what is there.
func (s *Store) replay(r *row) error {
	s.state.Clock.Restore(r.age, time.UnixMilli(r.wall))
	for _, a := range r.accounts {
		if known := s.state.account(a.Num); known != nil {
			known.Sums, known.Counters = a.Sums, a.Counters
			a = known
		} else if !a.Named {
			return fmt.Errorf("%w: ledger %d has no name", errBadRow, a.Num)
		} else {
			s.restoreAccount(a)
		}
		s.dirt.addAccount(a)
	}
	for _, coded := range r.allocs {
		al := s.state.Allocation(coded.Key)
		if al != nil {
			al.Progress = coded.Progress
			s.state.place(al, al.State)
		} else if err := s.restoreAllocation(coded); err != nil {
			return err
		} else {
			al = coded.Allocation
		}
		s.dirt.addAllocation(al)
	}
	return nil
}

// restoreOrder brings the accounts in the order of use.
func (s *Store) restoreOrder() {
	type use struct {
		touched int64
		account *book.Account
	}
	uses := make([]use, 0, s.state.Size)
	for _, a := range s.state.byNum {
		if a != nil {
			uses = append(uses, use{a.Touched, a})
		}
	}
	slices.SortFunc(uses, func(a, b use) int {
		return cmp.Or(cmp.Compare(a.touched, b.touched), cmp.Compare(a.account.Num, b.account.Num))
	})
	for _, u := range uses {
		s.state.touch(u.account)
	}
}

// SubmitReserve implements service.Ledger.
func (s *Store) SubmitReserve(r service.Reservation, done func(service.Decision, error)) error {
	return s.queue.SubmitReserve(r, done)
}

// SubmitSettle implements service.Ledger.
func (s *Store) SubmitSettle(t service.Settlement, done func(service.Receipt, error)) error {
	return s.queue.SubmitSettle(t, done)
}

// Sweep implements service.Ledger.
func (s *Store) Sweep(ctx context.Context) (int, error) { return s.queue.Sweep(ctx) }

// Close implements service.Ledger.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.queue.CloseQueue()
		s.wg.Wait()
		s.closeErr = errors.Join(s.tables.close(), s.journal.close(), s.unlock())
	})
	return s.closeErr
}
