package service

import (
	"context"
	"net/http"
	"time"
)

// readyTimeout is how long the store may take to answer /readyz.
const readyTimeout = 2 * time.Second

// serveReady answers whether agents should be sent here: the service is not stopping, and its ledger answers.
func (s *Service) serveReady(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	leaving := s.leaving
	s.mu.Unlock()
	if leaving {
		writeError(w, http.StatusServiceUnavailable, "unavailable", errLeaving.Error())
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readyTimeout)
	defer cancel()
	if _, err := s.ledger.Sweep(ctx); err != nil {
		writeError(w, http.StatusServiceUnavailable, "unavailable", "the ledger does not answer")
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ready"})
}
