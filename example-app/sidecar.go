package main

import (
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
)

// jobsChannel is where the API's jobs meet the workers.
var jobsChannel = uuid.MustParse("0196d0a8-5f5e-7000-8000-6a6f62730001")

// sidecarPool is how many WebSockets the workers share.
const sidecarPool = 2

// sidecar is the broker between the API and its workers. It also passes on what the workers have to tell the service: they have
// neither a key nor a connection of their own. With usageflow broker it is a process of its own.
type sidecar struct {
	server   *socket.Server
	pool     *socket.UsageFlowSocketManager
	provider *socket.Provider // of the workers' messages to the service
	jobs     *socket.Consumer // of the API's jobs
}

// startSidecar listens on address, and connects to the service with cfg's key.
func startSidecar(address string, cfg *core.Config) (_ *sidecar, err error) {
	log := socket.WithLogger(cfg.Logger)
	s := &sidecar{server: socket.NewServer("", socket.WithAddress(address), log)}
	if err := s.server.Start(); err != nil {
		return nil, explain(err, address, "-broker")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.pool, err = socket.NewManager(socket.ManagerConfig{APIKey: cfg.APIKey, URL: cfg.URL, PoolSize: sidecarPool, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if s.provider, err = socket.NewProvider(s.address(), socket.SidecarChannel, log); err != nil {
		return nil, err
	}
	if err = socket.ServeTransport(s.provider, s.pool); err != nil {
		return nil, err
	}
	if s.jobs, err = socket.NewConsumer(s.address(), jobsChannel, log); err != nil {
		return nil, err
	}
	return s, nil
}

// address is where clients reach the broker.
func (s *sidecar) address() string { return reachable(s.server.Addr()) }

// stop ends the sidecar; what its pool has queued is sent first.
func (s *sidecar) stop() (err error) {
	if s.jobs != nil {
		err = s.jobs.Close()
	}
	if s.provider != nil {
		err = errors.Join(err, s.provider.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	err = errors.Join(err, s.server.Shutdown(ctx))
	if s.pool != nil {
		err = errors.Join(err, s.pool.Close())
	}
	return err
}
