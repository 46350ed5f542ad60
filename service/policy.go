package service

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/internal/alias"
)

// jobMethod stands in the alias of work that is not HTTP, which policies of type FUNCTION limit.
const jobMethod = "JOB"

// limitIndex finds the limit of a ledger alias. It is immutable.
//
// A policy matches a route whose method and url are its own, or for which it says "*". Of the limited
// policies that match, the most specific applies: method and url named before url alone, that before
// method alone, that before neither. Of equally specific ones the strictest applies: the lowest rate,
// then the shorter window, then the name. The order of the list changes nothing.
type limitIndex struct {
	limits map[Endpoint]*Limit
	// headNamed has the urls ("*" for all) for which a policy names HEAD, limited or not.
	headNamed map[string]bool
}

func newLimitIndex(policies []Policy) limitIndex {
	index := limitIndex{limits: map[Endpoint]*Limit{}, headNamed: map[string]bool{}}
	sorted := slices.Clone(policies)
	slices.SortStableFunc(sorted, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(a.rate(), b.rate()), cmp.Compare(a.first().Window, b.first().Window), cmp.Compare(a.first().Limit, b.first().Limit), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range sorted {
		if p.Scope == ScopeIdentity {
			continue // it limits no alias by itself
		}
		key := Endpoint{Method: jobMethod, URL: alias.Escape(strings.TrimSpace(p.URL))}
		if p.Type == TypeAPI {
			key = Endpoint{Method: alias.Escape(strings.ToUpper(strings.TrimSpace(p.Method))), URL: alias.Escape(alias.Pattern(strings.TrimSpace(p.URL)))}
		}
		if key.Method == http.MethodHead {
			index.headNamed[key.URL] = true
		}
		if p.HasRateLimit && index.limits[key] == nil {
			index.limits[key] = &Limit{Amount: p.first().Limit, Window: p.first().Window, Policy: p.Name}
		}
	}
	return index
}

// rate is the limit in units per second; a month counts as 30 days.
func (p *Policy) rate() float64 {
	seconds := map[Window]float64{WindowSecond: 1, WindowMinute: 60, WindowHour: 3600, WindowDay: 86400, WindowMonth: 30 * 86400}[p.first().Window]
	return p.first().Limit.Units() / max(seconds, 1)
}

// first is the first limit, the zero value where there is none.
func (p *Policy) first() PolicyLimit {
	if len(p.Limits) == 0 {
		return PolicyLimit{}
	}
	return p.Limits[0]
}

// find returns the limit of the ledger of that name, or nil where it is metered without one.
func (x *limitIndex) find(ledger string) *Limit {
	method, rest, _ := strings.Cut(ledger, " ")
	url, _, _ := strings.Cut(rest, " ")
	if method == http.MethodHead && !x.headNamed[url] && !x.headNamed["*"] {
		method = http.MethodGet // its limit; the ledger stays that of HEAD
	}
	for _, key := range [...]Endpoint{{method, url}, {"*", url}, {method, "*"}, {"*", "*"}} {
		if limit := x.limits[key]; limit != nil {
			return limit
		}
	}
	return nil
}
