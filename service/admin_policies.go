package service

import (
	"net/http"
	"time"
)

// servePolicies answers {"policies":[…]}.
func (s *Service) servePolicies(w http.ResponseWriter, r *http.Request) {
	if a := s.application(w, r); a != nil {
		writeJSON(w, http.StatusOK, map[string]any{"policies": settingsOf(a).Policies})
	}
}

func (s *Service) servePolicy(w http.ResponseWriter, r *http.Request) {
	a := s.application(w, r)
	if a == nil {
		return
	}
	for i := range a.Policies {
		if a.Policies[i].ID == r.PathValue("policy") {
			writeJSON(w, http.StatusOK, specOf(&a.Policies[i]))
			return
		}
	}
	s.problem(w, r, errNoPolicy)
}

func (s *Service) createPolicy(w http.ResponseWriter, r *http.Request) {
	var body, made policySpec
	if !readJSON(w, r, &body) {
		return
	}
	if s.edit(w, r, func(a *record, _ time.Time) (err error) {
		made, err = a.addPolicy(body)
		return err
	}) {
		w.Header().Set("Location", r.URL.EscapedPath()+"/"+made.ID)
		writeJSON(w, http.StatusCreated, made)
	}
}

func (s *Service) replacePolicy(w http.ResponseWriter, r *http.Request) {
	var body, made policySpec
	if !readJSON(w, r, &body) {
		return
	}
	if s.edit(w, r, func(a *record, _ time.Time) (err error) {
		made, err = a.replacePolicy(r.PathValue("policy"), body)
		return err
	}) {
		writeJSON(w, http.StatusOK, made)
	}
}

func (s *Service) deletePolicy(w http.ResponseWriter, r *http.Request) {
	if s.edit(w, r, func(a *record, _ time.Time) error { return a.removePolicy(r.PathValue("policy")) }) {
		w.WriteHeader(http.StatusNoContent)
	}
}
