package service

import "time"

// Routes are the operations of /api/v1 as "METHOD /path", and whether each needs no token.
func (s *Service) Routes() map[string]bool {
	routes := map[string]bool{}
	for _, r := range s.api() {
		routes[r.method+" "+r.path] = r.open
	}
	return routes
}

// SetSessionClock replaces the clock of sessions.
func (s *Service) SetSessionClock(now func() time.Time) { s.sessions.now = now }

// Refresh looks for what others have changed, at once.
func (s *Service) Refresh() error { return s.registry.refresh(s.ended) }

// EventRing is how many events are kept.
const EventRing = eventRing
