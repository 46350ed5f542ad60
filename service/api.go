package service

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// ledgerView is a ledger in /api/v1/ledgers: amounts in units, times in Unix ms.
type ledgerView struct {
	Application string      `json:"application"`
	Alias       string      `json:"alias"`
	Method      string      `json:"method"`
	Route       string      `json:"route"`
	Identity    string      `json:"identity"`
	Used        float64     `json:"used"`
	Held        float64     `json:"held"`
	Limit       *float64    `json:"limit"`
	ResetAt     *int64      `json:"resetAt"`
	Window      string      `json:"window"`
	Policy      string      `json:"policy"`
	Total       float64     `json:"total"`
	LastUsed    int64       `json:"lastUsed"`
	Limits      []limitView `json:"limits"`
}

// limitView is one limit of a ledger.
type limitView struct {
	Policy  string  `json:"policy"`
	Window  string  `json:"window"`
	Burst   bool    `json:"burst"`
	Soft    bool    `json:"soft"`
	Limit   float64 `json:"limit"`
	Used    float64 `json:"used"`
	Held    float64 `json:"held"`
	ResetAt int64   `json:"resetAt"`
}

func viewLedger(l *LedgerState) ledgerView {
	v := ledgerView{
		Application: l.Application, Alias: l.Alias, Used: l.Used.Units(), Held: l.Held.Units(), Total: l.Total.Units(),
		Window: l.Window.String(), Policy: l.Policy, LastUsed: l.LastUsed.UnixMilli(), Limits: []limitView{},
	}
	v.Method, v.Route, v.Identity = splitAlias(l.Alias)
	if l.Limited {
		limit, reset := l.Limit.Units(), l.ResetAt.UnixMilli()
		v.Limit, v.ResetAt = &limit, &reset
	}
	for i := range l.Limits {
		s := &l.Limits[i]
		v.Limits = append(v.Limits, limitView{
			Policy: s.Policy, Window: s.Window.String(), Burst: s.Burst, Soft: s.Soft,
			Limit: s.Amount.Units(), Used: s.Used.Units(), Held: s.Held.Units(), ResetAt: s.ResetAt.UnixMilli(),
		})
	}
	return v
}

// splitAlias is the reverse of alias.Ledger.
func splitAlias(name string) (method, route, identity string) {
	method, rest, _ := strings.Cut(name, " ")
	route, identity, _ = strings.Cut(rest, " ")
	return method, route, identity
}

// serveLedger answers one ledger.
func (s *Service) serveLedger(w http.ResponseWriter, r *http.Request) {
	l, ok, err := s.ledger.Find(r.Context(), r.FormValue("application"), r.FormValue("alias"))
	switch {
	case err != nil:
		s.serverError(w, r, err)
	case !ok:
		writeError(w, http.StatusNotFound, "not_found", "there is no ledger of this application and alias")
	default:
		writeJSON(w, http.StatusOK, viewLedger(&l))
	}
}

// serveLedgers answers {"ledgers":[…],"total":n}. ?limit= and ?offset= page, ?application= and ?q= (a part of
// the alias) select, ?sort= is recent, used, held, share or alias.
func (s *Service) serveLedgers(w http.ResponseWriter, r *http.Request) {
	limit, offset, ok := paging(w, r)
	if !ok {
		return
	}
	order, err := ParseLedgerSort(r.FormValue("sort"))
	if err != nil {
		writeError(w, http.StatusBadRequest, "invalid_parameter", err.Error())
		return
	}
	page, err := s.ledger.Ledgers(r.Context(), LedgerQuery{
		Application: r.FormValue("application"), Contains: r.FormValue("q"), Sort: order, Limit: limit, Offset: offset,
	})
	if err != nil {
		s.serverError(w, r, err)
		return
	}
	views := make([]ledgerView, len(page.Ledgers))
	for i := range page.Ledgers {
		views[i] = viewLedger(&page.Ledgers[i])
	}
	writeJSON(w, http.StatusOK, map[string]any{"ledgers": views, "total": page.Total})
}

// allocationView is an allocation in /api/v1/allocations.
type allocationView struct {
	ID          string   `json:"id"`
	Application string   `json:"application"`
	Alias       string   `json:"alias"`
	State       string   `json:"state"`
	Flags       []string `json:"flags"`
	Reserved    float64  `json:"reserved"`
	Charged     float64  `json:"charged"`
	ReservedAt  int64    `json:"reservedAt"`
	EndedAt     *int64   `json:"endedAt"`
	Metadata    Metadata `json:"metadata"`
}

// serveAllocations answers {"allocations":[…]}, the newest first: the most recent of all, or with ?application= and
// ?alias= those of one ledger.
func (s *Service) serveAllocations(w http.ResponseWriter, r *http.Request) {
	limit, _, ok := paging(w, r)
	if !ok {
		return
	}
	found, err := s.ledger.Allocations(r.Context(), AllocationQuery{Application: r.FormValue("application"), Alias: r.FormValue("alias"), Limit: limit})
	if err != nil {
		s.serverError(w, r, err)
		return
	}
	views := make([]allocationView, len(found))
	for i, a := range found {
		views[i] = allocationView{
			ID: a.ID, Application: a.Application, Alias: a.Alias, State: a.State.String(), Flags: a.Flags.Names(),
			Reserved: a.Reserved.Units(), Charged: a.Charged.Units(), ReservedAt: a.ReservedAt.UnixMilli(), Metadata: a.Metadata,
		}
		if !a.EndedAt.IsZero() {
			ended := a.EndedAt.UnixMilli()
			views[i].EndedAt = &ended
		}
	}
	writeJSON(w, http.StatusOK, map[string]any{"allocations": views})
}

// serveStats answers what the service has done since it was started.
func (s *Service) serveStats(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{
		"now":          time.Now().UnixMilli(),
		"startedAt":    s.started.UnixMilli(),
		"applications": len(s.config.Load().Applications),
		"connections":  s.connections(),
		"ledger":       s.ledger.Counters(),
		"refused":      s.counts.refused.Load(),
		"oneWayErrors": s.counts.oneWayErrors.Load(),
		"failures":     s.counts.failures.Load(),
		"unauthorized": s.counts.unauthorized.Load(),
	})
}

// paging reads ?limit= and ?offset=; where they are no numbers it answers 400.
func paging(w http.ResponseWriter, r *http.Request) (limit, offset int, ok bool) {
	for name, value := range map[string]*int{"limit": &limit, "offset": &offset} {
		text := r.FormValue(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			writeError(w, http.StatusBadRequest, "invalid_parameter", name+" is not a number from 0 up")
			return 0, 0, false
		}
		*value = n
	}
	return limit, offset, true
}

// queryTimeout bounds a look into the ledger: nobody waits longer for an answer.
const queryTimeout = 25 * time.Second

// query gives a handler that looks into the ledger its time.
func query(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTimeout)
		defer cancel()
		handle(w, r.WithContext(ctx))
	}
}

func (s *Service) serverError(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == nil {
		s.log.Error("a query failed", "path", r.URL.Path, "error", err)
	}
	writeError(w, http.StatusInternalServerError, "internal", "the ledger could not be read")
}
