package core

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/usageflow/usageflow-go-middleware/internal/alias"
)

// maxRules bounds the memory of one configuration. Routers have finitely many routes; a caller of Begin need not.
const maxRules = 5_000

// configuration is what one refresh brought: policies, routes and blocks together. It does not change
// after newConfiguration, but for the rules that are derived from it as routes are seen.
type configuration struct {
	policies  []policy // in the fixed order that decides which identity is tried first
	monitored endpointSet
	whitelist endpointSet
	blocks    []endpoint
	paused    bool // the account has reached its limit: nothing is metered
	secrets   secretNames
	raw       bool              // Config.RawIdentity
	maxRules  int               // static
	digest    [sha256.Size]byte // of what the service said, to know it again

	rules  atomic.Pointer[map[routeKey]*rule] // by method and the router's own pattern
	rulesM sync.Mutex                         // held to add to rules, which is copied
}

type routeKey struct{ method, route string }

// policy is what the service says of a route, as it is on the wire.
type policy struct {
	URL                       string `json:"url"`
	Method                    string `json:"method"`
	Type                      string `json:"type"`
	IdentityFieldName         string `json:"identityFieldName"`
	IdentityFieldLocation     string `json:"identityFieldLocation"`
	HasRateLimit              bool   `json:"hasRateLimit"`
	ResponseTrackingField     string `json:"responseTrackingField"`
	IsResponseTrackingEnabled *bool  `json:"isResponseTrackingEnabled"`
	FailClosed                *bool  `json:"failClosed"` // in place of Config.FailClosed

	name string // URL as the service wrote it: a job's name is no pattern
}

func (p *policy) isFunction() bool { return strings.EqualFold(p.Type, "FUNCTION") }

func (p *policy) tracks() bool {
	return p.ResponseTrackingField != "" && (p.IsResponseTrackingEnabled == nil || *p.IsResponseTrackingEnabled)
}

// endpoint is a method and a url, with an identity in the list of blocks.
type endpoint struct {
	Method   string `json:"method"`
	URL      string `json:"url"`
	Identity string `json:"identity"`
}

func (e *endpoint) canonical() {
	e.Method = canonicalMethod(e.Method)
	e.URL = alias.Pattern(strings.TrimSpace(e.URL))
}

func canonicalMethod(method string) string { return strings.ToUpper(strings.TrimSpace(method)) }

// matches reports whether the endpoint names the route; * stands for a whole method or a whole url.
func (e *endpoint) matches(method, url string) bool {
	return (e.Method == "*" || e.Method == method) && (e.URL == "*" || e.URL == url)
}

// endpointSet is a list of endpoints for lookup by route.
type endpointSet map[routeKey]struct{}

func newEndpointSet(list []endpoint) endpointSet {
	set := make(endpointSet, len(list))
	for _, e := range list {
		e.canonical()
		set[routeKey{e.Method, e.URL}] = struct{}{}
	}
	return set
}

// has reports whether the set names the route for any of the methods.
func (set endpointSet) has(methods []string, url string) bool {
	for _, method := range append(methods[:len(methods):len(methods)], "*") {
		for _, u := range [...]string{url, "*"} {
			if _, ok := set[routeKey{method, u}]; ok {
				return true
			}
		}
	}
	return false
}

func newConfiguration(policies []policy, monitored, whitelist, blocks []endpoint, secrets secretNames) *configuration {
	c := &configuration{
		secrets:   secrets,
		maxRules:  maxRules,
		policies:  slices.Clone(policies),
		monitored: newEndpointSet(monitored),
		whitelist: newEndpointSet(whitelist),
		blocks:    slices.Clone(blocks),
	}
	for i := range c.policies {
		p := &c.policies[i]
		p.name = strings.TrimSpace(p.URL)
		p.Method, p.URL = canonicalMethod(p.Method), alias.Pattern(p.name)
	}
	slices.SortStableFunc(c.policies, comparePolicies)
	for i := range c.blocks {
		c.blocks[i].canonical()
	}
	c.rules.Store(&map[routeKey]*rule{})
	return c
}

// comparePolicies orders policies by what they say, so that the service's order changes nothing: those that name a
// route before those with a *, then by location and name of the identity; the body, which has to be read, comes last.
func comparePolicies(a, b policy) int {
	wild := func(p policy) int {
		n := 0
		if p.Method == "*" {
			n++
		}
		if p.URL == "*" {
			n += 2
		}
		return n
	}
	location := func(p policy) string {
		if l := strings.ToLower(p.IdentityFieldLocation); l != "body" {
			return l
		}
		return "~body"
	}
	return cmp.Or(
		cmp.Compare(wild(a), wild(b)),
		strings.Compare(location(a), location(b)),
		strings.Compare(a.IdentityFieldName, b.IdentityFieldName),
		strings.Compare(a.ResponseTrackingField, b.ResponseTrackingField),
		strings.Compare(a.Method, b.Method),
		strings.Compare(a.URL, b.URL),
	)
}

// rule returns what holds for a route. It takes no lock for a route that was seen before.
func (c *configuration) rule(method, route string) *rule {
	key := routeKey{method, route}
	known := *c.rules.Load()
	if r := known[key]; r != nil {
		return r
	}
	r := c.newRule(method, route)
	if len(known) >= c.maxRules {
		return r
	}
	c.rulesM.Lock()
	defer c.rulesM.Unlock()
	known = *c.rules.Load()
	if known[key] != nil || len(known) >= c.maxRules {
		return r
	}
	rules := maps.Clone(known)
	// The strings may be parts of a request, which must not be kept.
	rules[routeKey{strings.Clone(method), strings.Clone(route)}] = r
	c.rules.Store(&rules)
	return r
}

// learnRoutes derives the rules of the routes that old knows, so that no request has to.
func (c *configuration) learnRoutes(old *configuration) {
	rules := make(map[routeKey]*rule)
	for key := range *old.rules.Load() {
		rules[key] = c.newRule(key.method, key.route)
	}
	c.rules.Store(&rules)
}
