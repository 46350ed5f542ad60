package service

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// applyName stands for the file in the errors of /api/v1/apply.
const applyName = "usageflow.yaml"

// serveApply takes a usageflow.yaml and brings its applications to what it says. ?dry_run=true changes nothing.
func (s *Service) serveApply(w http.ResponseWriter, r *http.Request) {
	data, ok := readBody(w, r, "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml", "application/json")
	if !ok {
		return
	}
	dry := r.URL.Query().Get("dry_run")
	if !slices.Contains([]string{"", "true", "false"}, dry) {
		writeError(w, http.StatusBadRequest, "invalid_parameter", "dry_run is neither true nor false")
		return
	}
	file, err := parseConfig(applyName, data, false)
	if err != nil {
		writeError(w, http.StatusUnprocessableEntity, "invalid", err.Error())
		return
	}
	var changes []applicationChange
	var after *document
	apply := func(d *document) error {
		if !matches(r.Header.Get("If-Match"), d.version) {
			return errPrecondition
		}
		changes, after = d.apply(file, time.Now()), d
		return nil
	}
	if s.registry != nil && dry == "true" {
		if err := s.registry.look(r.Context(), apply); err != nil {
			s.problem(w, r, err)
			return
		}
	} else if !s.change(w, r, apply) {
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"changes": changes, "warnings": applyWarnings(file, after)})
}

// applyWarnings are what is allowed and probably not meant.
func applyWarnings(file *Config, after *document) []string {
	warnings := list(file.Warnings())
	if len(file.Server) > 0 {
		warnings = append(warnings, "server: these settings are those of usageflow serve, which reads them from its own file")
	}
	if len(file.Broker) > 0 {
		warnings = append(warnings, "broker: these settings are those of usageflow broker, which reads them from its own file")
	}
	for _, a := range file.Applications {
		switch n := len(after.find(a.Name).Keys); {
		case n == 0:
			warnings = append(warnings, fmt.Sprintf("application %s has no key", a.Name))
		case n > maxKeys:
			warnings = append(warnings, fmt.Sprintf("application %s has %d live keys; revoke those that are not needed", a.Name, n))
		}
	}
	return slices.Compact(slices.DeleteFunc(warnings, func(text string) bool { return strings.TrimSpace(text) == "" }))
}
