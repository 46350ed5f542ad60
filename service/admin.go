package service

import (
	"errors"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// applicationView is an application as /api/v1 shows it. Times are Unix ms.
type applicationView struct {
	Name      string    `json:"name"`
	Source    string    `json:"source"`
	CreatedAt int64     `json:"createdAt"`
	UpdatedAt int64     `json:"updatedAt"`
	Version   int64     `json:"version"`
	Keys      []keyView `json:"keys"`
	settings
}

type keyView struct {
	ID         string `json:"id"`
	Prefix     string `json:"prefix"`
	Label      string `json:"label"`
	CreatedAt  int64  `json:"createdAt"`
	LastUsedAt *int64 `json:"lastUsedAt"`
	Source     string `json:"source"`
}

func (s *Service) view(r *record) applicationView {
	v := applicationView{
		Name: r.Name, Source: r.Source, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, Version: r.Version, Keys: []keyView{}, settings: r.settings,
	}
	if v.CreatedAt == 0 { // it comes from no store, which would know
		v.CreatedAt, v.UpdatedAt = s.started.UnixMilli(), s.started.UnixMilli()
	}
	for _, k := range r.Keys {
		v.Keys = append(v.Keys, s.viewKey(k))
	}
	return v
}

func (s *Service) viewKey(k keyRecord) keyView {
	v := keyView{ID: k.ID, Prefix: k.Prefix, Label: k.Label, CreatedAt: k.CreatedAt, Source: k.Source}
	if v.CreatedAt == 0 {
		v.CreatedAt = s.started.UnixMilli()
	}
	if hash, err := parseKeyHash(k.Hash); err == nil {
		if clock, ok := s.lastUsed.Load(hash); ok {
			used := clock.(*atomic.Int64).Load()
			v.LastUsedAt = &used
		}
	}
	return v
}

// application returns the application that the request names, or answers 404.
func (s *Service) application(w http.ResponseWriter, r *http.Request) *Application {
	name := r.PathValue("application")
	for _, a := range s.config.Load().Applications {
		if a.Name == name {
			w.Header().Set("ETag", etag(a.Version))
			return a
		}
	}
	s.problem(w, r, errNoApplication)
	return nil
}

// change makes a change through the API and says whether it is made; where not, it has answered.
func (s *Service) change(w http.ResponseWriter, r *http.Request, f func(*document) error) bool {
	if s.registry == nil {
		s.problem(w, r, errNotEditable)
		return false
	}
	if err := s.registry.change(r.Context(), f); err != nil {
		s.problem(w, r, err)
		return false
	}
	s.log.Info("the configuration was changed through the API", "method", r.Method, "path", r.URL.Path)
	return true
}

// edit is change for the application that the request names.
func (s *Service) edit(w http.ResponseWriter, r *http.Request, f func(a *record, now time.Time) error) bool {
	version := int64(0)
	ok := s.change(w, r, func(d *document) error {
		now := time.Now()
		a, err := d.editable(r.PathValue("application"), r.Header.Get("If-Match"), now)
		if err != nil {
			return err
		}
		version = a.Version
		return f(a, now)
	})
	if ok {
		w.Header().Set("ETag", etag(version))
	}
	return ok
}

// problem answers an error. One table says which status it has.
func (s *Service) problem(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem
	var wrong *invalidError
	switch {
	case errors.As(err, &p):
		writeError(w, p.status, p.code, p.message)
	case errors.As(err, &wrong):
		writeError(w, http.StatusUnprocessableEntity, "invalid", wrong.Error())
	default:
		s.log.Error("the configuration could not be changed", "method", r.Method, "path", r.URL.Path, "error", err)
		writeError(w, http.StatusServiceUnavailable, "unavailable", "the configuration could not be changed, or it is not known whether it was")
	}
}

// serveApplications answers {"applications":[…]}.
func (s *Service) serveApplications(w http.ResponseWriter, _ *http.Request) {
	config := s.config.Load()
	views := make([]applicationView, len(config.Applications))
	for i, a := range config.Applications {
		views[i] = s.view(recordOf(a))
	}
	w.Header().Set("ETag", etag(config.version))
	writeJSON(w, http.StatusOK, map[string]any{"applications": views})
}

func (s *Service) serveApplication(w http.ResponseWriter, r *http.Request) {
	if a := s.application(w, r); a != nil {
		writeJSON(w, http.StatusOK, s.view(recordOf(a)))
	}
}

// createApplication answers with the application and its key, which nobody is shown again.
func (s *Service) createApplication(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Name string `json:"name"`
		settings
	}
	if !readJSON(w, r, &body) {
		return
	}
	key := generateKey()
	var made *record
	if !s.change(w, r, func(d *document) error {
		if !matches(r.Header.Get("If-Match"), d.version) {
			return errPrecondition
		}
		if err := d.create(body.Name, body.settings, newKey(key, "", SourceAPI), time.Now()); err != nil {
			return err
		}
		made = d.find(body.Name)
		return nil
	}) {
		return
	}
	w.Header().Set("ETag", etag(made.Version))
	w.Header().Set("Location", "/api/v1/applications/"+url.PathEscape(made.Name))
	writeJSON(w, http.StatusCreated, map[string]any{"application": s.view(made), "key": key})
}

func (s *Service) replaceApplication(w http.ResponseWriter, r *http.Request) {
	var body settings
	if !readJSON(w, r, &body) {
		return
	}
	var made *record
	if s.edit(w, r, func(a *record, _ time.Time) error {
		made = a
		return a.configure(body)
	}) {
		writeJSON(w, http.StatusOK, s.view(made))
	}
}

func (s *Service) deleteApplication(w http.ResponseWriter, r *http.Request) {
	if s.change(w, r, func(d *document) error {
		a, err := d.editable(r.PathValue("application"), r.Header.Get("If-Match"), time.Now())
		if err != nil {
			return err
		}
		d.remove(a.Name)
		return nil
	}) {
		w.WriteHeader(http.StatusNoContent)
	}
}

// maxLabel bounds a key's label in bytes.
const maxLabel = 200

// createKey answers with a key, which nobody is shown again.
func (s *Service) createKey(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Label string `json:"label"`
	}
	if r.ContentLength != 0 && !readJSON(w, r, &body) {
		return
	}
	if len(body.Label) > maxLabel {
		s.problem(w, r, invalid("$.label", "the label is longer than %d bytes", maxLabel))
		return
	}
	text := generateKey()
	key := newKey(text, body.Label, SourceAPI)
	if s.edit(w, r, func(a *record, now time.Time) error {
		key.CreatedAt = now
		return a.addKey(key, now)
	}) {
		w.Header().Set("Location", r.URL.EscapedPath()+"/"+key.ID)
		writeJSON(w, http.StatusCreated, struct {
			Key string `json:"key"`
			keyView
		}{text, s.viewKey(key.record())})
	}
}

func (s *Service) deleteKey(w http.ResponseWriter, r *http.Request) {
	if s.edit(w, r, func(a *record, _ time.Time) error { return a.removeKey(r.PathValue("key")) }) {
		w.WriteHeader(http.StatusNoContent)
	}
}

// createBlocked blocks an endpoint.
func (s *Service) createBlocked(w http.ResponseWriter, r *http.Request) {
	var body BlockedEndpoint
	if !readJSON(w, r, &body) {
		return
	}
	if s.edit(w, r, func(a *record, _ time.Time) error { return a.block(body) }) {
		writeJSON(w, http.StatusCreated, body)
	}
}

// deleteBlocked takes ?method=&url=&identity= of a blocked endpoint.
func (s *Service) deleteBlocked(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	e := BlockedEndpoint{Method: query.Get("method"), URL: query.Get("url"), Identity: query.Get("identity")}
	if s.edit(w, r, func(a *record, _ time.Time) error { return a.unblock(e) }) {
		w.WriteHeader(http.StatusNoContent)
	}
}
