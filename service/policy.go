package service

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/internal/alias"
)

// jobMethod stands in the alias of work that is not HTTP, which policies of type FUNCTION limit.
const jobMethod = "JOB"

// limitIndex finds the limits of a ledger alias. It is immutable.
//
// A policy matches a route whose method and url are its own, or for which it says "*". Of the limited
// policies that match, the most specific applies, with all of its limits: method and url named before url
// alone, that before method alone, that before neither. Of equally specific ones the strictest applies: the
// lowest rate, then the name. The order of the list changes nothing. Budgets and the plan's cap apply beside it.
type limitIndex struct {
	limits map[Endpoint][]Limit // with the plan's cap
	// headNamed has the urls ("*" for all) for which a policy names HEAD, limited or not.
	headNamed map[string]bool
	// budgets are those of policies of scope identity, whose ledger is budgetLedger and the identity.
	budgets []Limit
	// rest is what applies where no policy does: the plan's cap, or nothing.
	rest []Limit
}

// The aliases of ledgers that others share: what an application uses, and, with an identity after it, what that one uses.
const (
	planLedger   = "* *"
	budgetLedger = "* * "
	planPolicy   = "plan"
)

func newLimitIndex(policies []Policy, plan *PlanCap) limitIndex {
	index := limitIndex{limits: map[Endpoint][]Limit{}, headNamed: map[string]bool{}}
	if plan != nil {
		index.rest = []Limit{{Amount: plan.Limit, Window: plan.Window, Policy: planPolicy, Ledger: planLedger, Soft: true}}
	}
	sorted := slices.Clone(policies)
	slices.SortStableFunc(sorted, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(a.rate(), b.rate()), cmp.Compare(a.Name, b.Name))
	})
	for i := range sorted {
		p := &sorted[i]
		if p.Scope == ScopeIdentity {
			index.addBudget(p)
			continue
		}
		key := Endpoint{Method: jobMethod, URL: alias.Escape(strings.TrimSpace(p.URL))}
		if p.Type == TypeAPI {
			key = Endpoint{Method: alias.Escape(strings.ToUpper(strings.TrimSpace(p.Method))), URL: alias.Escape(alias.Pattern(strings.TrimSpace(p.URL)))}
		}
		if key.Method == http.MethodHead {
			index.headNamed[key.URL] = true
		}
		if p.HasRateLimit && index.limits[key] == nil {
			index.limits[key] = append(p.limits(), index.rest...)
		}
	}
	return index
}

// addBudget adds p's limits. Of several over one window the lowest count.
func (x *limitIndex) addBudget(p *Policy) {
	for _, l := range p.limits() {
		i := slices.IndexFunc(x.budgets, func(known Limit) bool { return known.Window == l.Window })
		if i < 0 {
			x.budgets = append(x.budgets, l)
			continue
		}
		known := &x.budgets[i]
		if known.Burst == 0 || l.Burst > 0 && l.Burst < known.Burst {
			known.Burst = l.Burst
		}
		if l.Amount < known.Amount {
			known.Amount, known.Policy = l.Amount, l.Policy
		}
	}
}

// limits are p's limits as ledgers take them.
func (p *Policy) limits() []Limit {
	limits := make([]Limit, 0, len(p.Limits)+1)
	for _, l := range p.Limits {
		limits = append(limits, Limit{Amount: l.Limit, Window: l.Window, Burst: l.Burst, Policy: p.Name})
	}
	return limits
}

// rate is the strictest limit in units per second; a month counts as 30 days.
func (p *Policy) rate() float64 {
	rate := math.Inf(1)
	for _, l := range p.Limits {
		seconds := map[Window]float64{WindowSecond: 1, WindowMinute: 60, WindowHour: 3600, WindowDay: 86400, WindowMonth: 30 * 86400}[l.Window]
		rate = min(rate, l.Limit.Units()/max(seconds, 1))
	}
	return rate
}

// find returns the limits that operations on the ledger of that name are under.
func (x *limitIndex) find(ledger string) []Limit {
	method, rest, _ := strings.Cut(ledger, " ")
	url, identity, _ := strings.Cut(rest, " ")
	limits := x.ofRoute(method, url)
	if len(x.budgets) == 0 || identity == "" {
		return limits
	}
	all := make([]Limit, 0, len(limits)+len(x.budgets))
	all = append(all, limits...)
	name := budgetLedger + identity
	for _, l := range x.budgets {
		l.Ledger = name
		all = append(all, l)
	}
	return all
}

func (x *limitIndex) ofRoute(method, url string) []Limit {
	if method == http.MethodHead && !x.headNamed[url] && !x.headNamed["*"] {
		method = http.MethodGet // its limit; the ledger stays that of HEAD
	}
	for _, key := range [...]Endpoint{{method, url}, {"*", url}, {method, "*"}, {"*", "*"}} {
		if limits := x.limits[key]; limits != nil {
			return limits
		}
	}
	return x.rest
}
