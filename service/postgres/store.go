package postgres

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/internal/intake"
)

// DefaultRetention is how long allocations are kept after they were reserved.
const DefaultRetention = 30 * 24 * time.Hour

// Options configure a Store. The zero value of everything but URL is a good default.
type Options struct {
	// URL is the database, as postgres://user:password@host:port/database?parameters or as key=value pairs. PostgreSQL's
	// environment variables (PGHOST, PGPASSWORD, …) and its password file are used for what is not said.
	URL string
	// Now is the clock; the database's by default, so that all replicas have the same.
	Now func() time.Time
	// HoldTime is how long an allocation is held before it expires; 5 minutes by default.
	HoldTime time.Duration
	// Retention is how long allocations are kept after they were reserved; DefaultRetention by default, for ever where it
	// is negative. An id that is older is not known any more.
	Retention time.Duration
	// Logger is told when writing begins to fail and when it works again; slog.Default by default.
	Logger *slog.Logger
	// QueueSize bounds the operations that wait (65,536 by default), MaxBatch those of one transaction (1,024),
	// MaxLedgers the aliases (2,000,000).
	QueueSize, MaxBatch, MaxLedgers int
	// Timeout bounds a transaction and the wait for the other replicas' turns; 5 seconds by default.
	Timeout time.Duration
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	o.HoldTime = cmp.Or(o.HoldTime, 5*time.Minute)
	o.Retention = cmp.Or(o.Retention, DefaultRetention)
	o.QueueSize = cmp.Or(o.QueueSize, 1<<16)
	o.MaxBatch = cmp.Or(o.MaxBatch, 1024)
	o.MaxLedgers = cmp.Or(o.MaxLedgers, 2_000_000)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
}

// Store is a service.Ledger in a PostgreSQL database.
type Store struct {
	// Static after Open.
	opts Options
	pool *pgxpool.Pool // for queries, exports and the configuration
	// decider has the one connection that decides, so that nothing else can take it.
	decider *pgxpool.Pool
	queue   *intake.Queue
	wg      sync.WaitGroup
	ctx     context.Context // ends when Close waits no longer
	end     context.CancelFunc

	alarm, retireAlarm intake.Alarm // owned by the committer, by the janitor

	merged  int64 // usage before is by the day already, Unix ms; owned by the janitor
	retired int64 // it has looked at allocations up to that number; the same

	closing chan struct{}

	mu      sync.Mutex
	counted service.Counters

	closeOnce sync.Once
}

var (
	_ service.Ledger = (*Store)(nil)
)

// Open connects to the database and brings its schema to the newest version. It fails where the database does not
// answer.
func Open(ctx context.Context, opts Options) (*Store, error) {
	opts.setDefaults()
	config, err := pgxpool.ParseConfig(opts.URL)
	if err != nil {
		return nil, err // pgx leaves the password out of it
	}
	config.MaxConns = max(config.MaxConns, 8)
	params := config.ConnConfig.RuntimeParams
	if params["application_name"] == "" {
		params["application_name"] = "usageflow"
	}
	// A replica that hangs in a transaction must not stop the others, and what is acknowledged must be on disk.
	params["idle_in_transaction_session_timeout"] = fmt.Sprint(opts.Timeout.Milliseconds())
	config.AfterConnect = durable
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, pool); err != nil {
		pool.Close()
		return nil, fmt.Errorf("prepare the database: %w", err)
	}
	one := config.Copy()
	one.MaxConns, one.MinConns, one.MinIdleConns = 1, 0, 0
	decider, err := pgxpool.NewWithConfig(ctx, one)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s := &Store{opts: opts, pool: pool, decider: decider, queue: intake.NewQueue(opts.QueueSize), closing: make(chan struct{})}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.wg.Add(2)
	go s.committer()
	go s.janitor()
	return s, nil
}

// durable makes a commit wait for the disk, where the server does not by itself.
func durable(ctx context.Context, conn *pgx.Conn) error {
	var commit string
	if err := conn.QueryRow(ctx, `SHOW synchronous_commit`).Scan(&commit); err != nil {
		return err
	}
	if commit == "off" {
		_, err := conn.Exec(ctx, `SET synchronous_commit = on`)
		return err
	}
	return nil
}

// SubmitReserve implements service.Ledger.
func (s *Store) SubmitReserve(r service.Reservation, done func(service.Decision, error)) error {
	return s.queue.SubmitReserve(r, done)
}

// SubmitSettle implements service.Ledger.
func (s *Store) SubmitSettle(t service.Settlement, done func(service.Receipt, error)) error {
	return s.queue.SubmitSettle(t, done)
}

// Counters implements service.Ledger. Held and Ledgers are those of the last transaction.
func (s *Store) Counters() service.Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.counted
	c.Queued = s.queue.Queued()
	return c
}

// closeTimeout bounds the time that Close takes to carry out what is queued.
const closeTimeout = 30 * time.Second

// Close implements service.Ledger.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.queue.CloseQueue()
		close(s.closing)
		late := time.AfterFunc(closeTimeout, s.end) // what is queued fails then
		s.wg.Wait()
		late.Stop()
		s.end()
		s.decider.Close()
		s.pool.Close()
	})
	return nil
}
