package service

import (
	"context"
	"errors"
	"sync/atomic"
)

// configure puts the first configuration in force.
func (s *Service) configure(opts Options) error {
	if opts.Documents == nil {
		s.install(opts.Config)
		return nil
	}
	s.registry = &registry{store: opts.Documents, log: s.log, install: s.install, version: -1}
	if opts.Config == nil {
		return s.registry.refresh(context.Background())
	}
	return s.registry.applyFile(context.Background(), opts.Config)
}

// Config returns the configuration in force.
func (s *Service) Config() *Config { return s.config.Load() }

// Reconfigure puts another configuration in force. Where there are Options.Documents, config is what the configuration file says
// now: an application of which it says something else than when it was last applied is replaced, also where the API has changed
// it, one that it has no more is removed, and all else stays.
//
// Agents see a change at their next refresh; what they send counts by it at once. A connection whose key is gone, or has another
// application's name now, is closed (1008).
func (s *Service) Reconfigure(config *Config) error {
	if config == nil {
		return errors.New("service: there is no configuration")
	}
	if s.registry != nil {
		return s.registry.applyFile(context.Background(), config)
	}
	s.install(config)
	return nil
}

// install puts config in force and closes the connections whose key is gone.
func (s *Service) install(config *Config) {
	s.mu.Lock()
	s.config.Store(config)
	var revoked []*conn
	for c := range s.conns {
		if !c.adopt(config) {
			revoked = append(revoked, c)
		}
	}
	s.mu.Unlock()
	s.lastUsed.Range(func(hash, _ any) bool {
		if config.byKey[hash.(keyHash)] == nil {
			s.lastUsed.Delete(hash)
		}
		return true
	})
	for _, c := range revoked {
		c.revoke()
	}
}

// usedClock returns where it is noted when a key was last used, in Unix ms.
func (s *Service) usedClock(key keyHash) *atomic.Int64 {
	clock, _ := s.lastUsed.LoadOrStore(key, new(atomic.Int64))
	return clock.(*atomic.Int64)
}
