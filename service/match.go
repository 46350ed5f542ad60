package service

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/internal/alias"
)

// matchView says what becomes of a request.
type matchView struct {
	Alias       string       `json:"alias"`
	Whitelisted bool         `json:"whitelisted"`
	Monitored   bool         `json:"monitored"`
	Blocked     bool         `json:"blocked"`
	Policy      *policySpec  `json:"policy"`
	Budgets     []policySpec `json:"budgets"`
	Matches     []string     `json:"matches"`
}

// serveMatch answers what would become of a request.
func (s *Service) serveMatch(w http.ResponseWriter, r *http.Request) {
	a := s.application(w, r)
	if a == nil {
		return
	}
	var body struct {
		Method   string `json:"method"`
		URL      string `json:"url"`
		Identity string `json:"identity"`
	}
	if !readJSON(w, r, &body) {
		return
	}
	method := strings.ToUpper(strings.TrimSpace(body.Method))
	url, _, _ := strings.Cut(strings.TrimSpace(body.URL), "?")
	switch {
	case method == "" || method == "*":
		s.problem(w, r, invalid("$.method", "the method of a request is needed"))
	case method != jobMethod && !strings.HasPrefix(url, "/"):
		s.problem(w, r, invalid("$.url", "the url %q does not begin with /", body.URL))
	case url == "":
		s.problem(w, r, invalid("$.url", "the name of the job is needed"))
	default:
		writeJSON(w, http.StatusOK, a.match(method, url, body.Identity))
	}
}

// match says what becomes of a request. url is a route's pattern or a path.
func (a *Application) match(method, url, identity string) matchView {
	q := matcher{method: method, url: url}
	if method != jobMethod {
		q.url = alias.Pattern(url)
	}
	q.headNamed = slices.ContainsFunc(a.Policies, func(p Policy) bool {
		return strings.EqualFold(strings.TrimSpace(p.Method), http.MethodHead) && matchesURL(p.URL, q.url)
	})
	route := a.routeOf(&q)
	v := matchView{Alias: alias.Ledger(method, route, identity), Budgets: []policySpec{}, Matches: []string{}}
	for _, e := range a.WhitelistEndpoints {
		v.Whitelisted = v.Whitelisted || q.fits(e.Method, e.URL)
	}
	v.Monitored = len(a.MonitoringPaths) == 0 || method == jobMethod
	for _, e := range a.MonitoringPaths {
		v.Monitored = v.Monitored || q.fits(e.Method, e.URL)
	}
	v.Monitored = v.Monitored && !v.Whitelisted
	for _, e := range a.BlockedEndpoints {
		v.Blocked = v.Blocked || !v.Whitelisted && q.fits(e.Method, e.URL) && (e.Identity == "" || e.Identity == identity)
	}
	applies := a.limits.ofRoute(method, alias.Escape(route))
	for i := range a.Policies {
		p := &a.Policies[i]
		if !q.policy(p) {
			continue
		}
		v.Matches = append(v.Matches, p.ID)
		switch {
		case !v.Monitored || !p.HasRateLimit:
		case p.Scope == ScopeIdentity:
			v.Budgets = append(v.Budgets, specOf(p))
		case v.Policy == nil && len(applies) > 0 && applies[0].Policy == p.Name:
			spec := specOf(p)
			v.Policy = &spec
		}
	}
	return v
}

// routeOf returns the pattern that the url belongs to, of those that policies and blocks name: the most specific one.
func (a *Application) routeOf(q *matcher) string {
	if q.method == jobMethod {
		return q.url
	}
	best := ""
	try := func(url string) {
		url = alias.Pattern(strings.TrimSpace(url))
		if url != "*" && (best == "" || moreSpecific(url, best)) {
			best = url
		}
	}
	for i := range a.Policies {
		if p := &a.Policies[i]; q.policy(p) {
			try(p.URL)
		}
	}
	for _, e := range a.BlockedEndpoints {
		if q.fits(e.Method, e.URL) {
			try(e.URL)
		}
	}
	return cmp.Or(best, q.url)
}

// matcher compares one request with what the configuration names. HEAD stands where GET does, but for policies only where none of
// them names HEAD.
type matcher struct {
	method, url string
	headNamed   bool
}

func (q *matcher) policy(p *Policy) bool {
	if p.Type == TypeFunction {
		return q.method == jobMethod && strings.TrimSpace(p.URL) == q.url
	}
	if q.headNamed && strings.EqualFold(strings.TrimSpace(p.Method), http.MethodGet) && q.method == http.MethodHead {
		return false
	}
	return q.fits(p.Method, p.URL)
}

func (q *matcher) fits(method, url string) bool {
	method = strings.ToUpper(strings.TrimSpace(method))
	if method != "*" && method != q.method && (q.method != http.MethodHead || method != http.MethodGet) {
		return false
	}
	return matchesURL(url, q.url)
}

func matchesURL(pattern, path string) bool {
	pattern = strings.TrimSpace(pattern)
	return pattern == "*" || matchesPattern(alias.Pattern(pattern), path)
}

// matchesPattern reports whether a path belongs to a pattern: :id stands for one segment, a * at the end for the rest.
func matchesPattern(pattern, path string) bool {
	if pattern == path {
		return true
	}
	for {
		want, wantRest, wantMore := strings.Cut(pattern, "/")
		got, gotRest, gotMore := strings.Cut(path, "/")
		switch {
		case want == "*" && !wantMore:
			return true
		case strings.HasPrefix(want, ":") && got != "", want == got:
		default:
			return false
		}
		if !wantMore || !gotMore {
			return wantMore == gotMore
		}
		pattern, path = wantRest, gotRest
	}
}

// moreSpecific reports whether pattern a names more than b: in the first segment in which they differ.
func moreSpecific(a, b string) bool {
	rank := func(segment string) int {
		switch {
		case segment == "*":
			return 0
		case strings.HasPrefix(segment, ":"):
			return 1
		}
		return 2
	}
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := range min(len(as), len(bs)) {
		if ra, rb := rank(as[i]), rank(bs[i]); ra != rb {
			return ra > rb
		}
	}
	return len(as) > len(bs)
}
