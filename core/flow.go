package core

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/usageflow/usageflow-go-middleware/internal/wire"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// Flow meters and limits the work of one application. Safe for concurrent use.
type Flow struct {
	// Static after construction.
	cfg          Config
	log          *slog.Logger
	secrets      secretNames
	transport    socket.Transport
	ownTransport bool
	ctx          context.Context // ends when Shutdown has drained
	cancel       context.CancelFunc
	gate         chan struct{} // closed when the first attempt to get a configuration is over
	outbox       *outbox
	sender       *sender

	configuration atomic.Pointer[configuration] // nil before the first
	configured    chan struct{}                 // closed when there is a configuration
	refreshError  atomic.Pointer[error]         // why the last refresh that failed did
	stopped       atomic.Bool                   // Shutdown was called: requests pass
	deciding      atomic.Int64                  // requests that wait for a decision
	refusals      refusals
	outage        atomic.Bool // the last decision failed
	breaker       breaker
	callMemory    memory // of requests and jobs that run, and wait for the sender
	leases        leases
	counters      counters
	shadowLog     logLimiter
	keepLog       logLimiter
	keptDigest    [sha256.Size]byte // of the configuration in SpoolDir; owned by New, then by refresh

	gateOnce  sync.Once
	warnedJWT bool // owned by New, then by refresh
	running   sync.WaitGroup

	shutdownOnce sync.Once
	shutdownDone chan struct{}
	shutdownErr  error // set before shutdownDone is closed
}

// New makes a flow. It neither dials nor waits for anybody: the flow's own goroutine connects. With Config.SpoolDir it reads that folder, and may call
// Config.Observe. An error means that the configuration can't work, or SpoolDir can't be had.
func New(cfg Config) (*Flow, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	f := &Flow{cfg: cfg, log: cfg.Logger, secrets: newSecretNames(cfg.Secrets), transport: cfg.Transport, gate: make(chan struct{}), configured: make(chan struct{}), shutdownDone: make(chan struct{})}
	if f.transport == nil {
		f.ownTransport = true
		f.transport, err = socket.NewManager(socket.ManagerConfig{
			APIKey: cfg.APIKey, URL: cfg.URL, PoolSize: cfg.PoolSize, RequestTimeout: cfg.Timeout, Logger: cfg.Logger,
		})
		if err != nil {
			return nil, fmt.Errorf("core: %w", err)
		}
	}
	f.breaker.flow, f.leases.flow = f, f
	f.callMemory.limit = cfg.runningBytes()
	f.refusals.most, f.leases.most = cfg.tableSize(maxRefusals, refusalBytes), cfg.tableSize(maxLeases, leaseBytes)
	f.outbox = newOutbox(f)
	if cfg.SpoolDir != "" {
		if f.outbox.spool, err = openSpool(f); err != nil {
			if f.ownTransport {
				err = errors.Join(err, f.transport.Close())
			}
			return nil, err
		}
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.refusals.clear()
	lanes, ok := f.transport.(wire.LaneTransport)
	if !ok || lanes.Self() != any(f.transport) {
		lanes = newCallLanes(f.ctx, f.transport, cfg.Timeout, &f.running)
	}
	f.sender = newSender(f, lanes)
	if cfg.SpoolDir != "" {
		f.useKeptDescription()
	}
	f.running.Go(f.refresh)
	f.running.Go(f.sender.run)
	if f.outbox.spool != nil {
		go f.outbox.spool.run() // to its close, after the others have ended
	}
	return f, nil
}

// openGate lets the requests pass that waited for the first configuration.
func (f *Flow) openGate() { f.gateOnce.Do(func() { close(f.gate) }) }

// Shutdown stops metering and waits until every call has ended and the service has confirmed every settlement, or ctx
// ends. Then it ends the flow's goroutines and closes the pool that the flow made (not a Transport given to it), which
// takes at most 5 s more. Requests that come later pass unmetered. The error says how many settlements are left
// unconfirmed, if any: those count as Dropped, but for what is in SpoolDir. Call it after the HTTP server's own Shutdown, so that running requests
// can end. Later calls wait for the first, or for their own ctx, and return the same error.
func (f *Flow) Shutdown(ctx context.Context) error {
	first := false
	f.shutdownOnce.Do(func() { first = true })
	if first {
		f.shutdownErr = f.shutdown(ctx)
		close(f.shutdownDone)
		return f.shutdownErr
	}
	select {
	case <-f.shutdownDone:
		return f.shutdownErr
	default:
	}
	select {
	case <-f.shutdownDone:
		return f.shutdownErr
	case <-ctx.Done():
		return fmt.Errorf("core: shutdown is going on: %w", context.Cause(ctx))
	}
}

func (f *Flow) shutdown(ctx context.Context) error {
	f.stopped.Store(true)
	f.openGate()
	f.leases.closeAll()
	drained := f.outbox.drain(ctx)
	f.cancel()
	var err error
	if f.ownTransport {
		err = f.transport.Close() // what is under way may still be confirmed
	}
	f.running.Wait()
	f.leases.reserving.Wait()
	if f.outbox.spool != nil {
		f.outbox.spool.close()
	}
	if drained {
		return err
	}
	lost, onDisk := f.outbox.abandon()
	if lost+onDisk == 0 {
		return err
	}
	f.log.Error("usageflow shut down before every settlement was confirmed", "unconfirmed", lost+onDisk, "kept_on_disk", onDisk)
	return errors.Join(fmt.Errorf("core: shutdown: %d settlements are not confirmed, of which %d are on disk for the next start: %w",
		lost+onDisk, onDisk, context.Cause(ctx)), err)
}
