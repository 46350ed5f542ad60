package core

import (
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/usageflow/usageflow-go-middleware/internal/alias"
)

// jobMethod stands where an HTTP request has its method, in the alias and the policies of a job.
const jobMethod = "JOB"

// rule is what the configuration says of one route. It does not change.
type rule struct {
	alias       string // without identity
	pattern     string
	description []byte // the JSON of a settlement that is the same for all
	metered     bool
	limited     bool  // any of the route's policies has a limit
	closed      *bool // what policies say in place of Config.FailClosed; nil: nothing
	sources     []identitySource
	tracked     *tracked // the response's fields that hold the amount; nil: there are none
	warned      warnings

	params      []parameter // of the path
	blockedAll  bool
	blockedOnly map[string]struct{} // blocked identities
}

// ledger is the alias of an identity's ledger.
func (r *rule) ledger(identity string) string {
	if identity == "" {
		return r.alias
	}
	return r.alias + " " + identity
}

// idle reports whether requests of the route pass untouched.
func (r *rule) idle() bool { return !r.metered && !r.hasBlocks() }

// failClosed reports whether requests are refused where there is no decision; of several policies, one that says so is enough.
func (r *rule) failClosed(otherwise bool) bool {
	if r.closed != nil {
		return *r.closed
	}
	return otherwise
}

func (r *rule) hasBlocks() bool { return r.blockedAll || len(r.blockedOnly) > 0 }

func (r *rule) blocks(identity, rawIdentity string) bool {
	if r.blockedAll {
		return true
	}
	_, ok := r.blockedOnly[identity]
	if !ok && rawIdentity != identity {
		_, ok = r.blockedOnly[rawIdentity]
	}
	return ok
}

// maskPath is a request's path, with its secret parameters masked. Where an encoded slash may have shifted the segments,
// nothing is left from the first secret on.
func (r *rule) maskPath(u *url.URL) string {
	path := u.Path
	var parts []string
	for _, p := range r.params {
		if !p.secret {
			continue
		}
		if parts == nil {
			parts = strings.Split(path, "/")
		}
		if p.segment < len(parts) {
			parts[p.segment] = masked
			if p.catchAll || u.RawPath != "" {
				parts = parts[:p.segment+1]
			}
		}
	}
	if parts == nil {
		return path
	}
	return strings.Join(parts, "/")
}

// catchAll is the router's name for the rest of the path; "" where the route has none.
func (r *rule) catchAll() string {
	for _, p := range r.params {
		if p.catchAll {
			return p.name
		}
	}
	return ""
}

// parameter is a parameter of a route's path.
type parameter struct {
	name     string
	segment  int  // of the path, between slashes
	catchAll bool // it is the rest of the path
	secret   bool // by its name
}

// parameters finds the parameters in a canonical pattern; the name of a catch-all is only in the router's own.
func parameters(pattern, route string, secrets secretNames) []parameter {
	var list []parameter
	for i, segment := range strings.Split(pattern, "/") {
		for _, name := range names(segment) {
			list = append(list, parameter{name: name, segment: i, secret: secrets.has(name)})
		}
		if strings.Contains(segment, "*") {
			name := catchAllName(route)
			list = append(list, parameter{name: name, segment: i, catchAll: true, secret: secrets.has(name)})
		}
	}
	return list
}

// names are those of the parameters in a segment of a canonical pattern: id in :id, y and m in :y-:m, id in :id:undelete.
func names(segment string) (list []string) {
	for at := strings.IndexByte(segment, ':'); at >= 0; {
		name := segment[at+1:]
		end := strings.IndexFunc(name, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if end < 0 {
			return append(list, name)
		}
		list = append(list, name[:end])
		segment = name[end+1:]
		at = strings.IndexByte(segment, ':')
	}
	return list
}

// catchAllName is the name in *name or {name...}, and * where it has none.
func catchAllName(route string) string {
	if before, _, ok := strings.Cut(route, "...}"); ok {
		return before[strings.LastIndexByte(before, '{')+1:]
	}
	if name := route[strings.LastIndexByte(route, '*')+1:]; name != "" && !strings.ContainsAny(name, "/}") {
		return name
	}
	return "*"
}

// newRule derives what holds for a route. The pattern is the router's own; a job's is its name.
func (c *configuration) newRule(method, route string) *rule {
	pattern := route
	if method != jobMethod {
		pattern = alias.Pattern(route)
	}
	r := &rule{alias: alias.Ledger(method, pattern, ""), pattern: strings.Clone(pattern), description: appendDescription(nil, method, pattern)}
	if method != jobMethod {
		r.params = parameters(pattern, route, c.secrets)
	}
	methods := []string{method}
	if method == http.MethodHead {
		methods = append(methods, http.MethodGet)
	}
	if pattern == "" || c.whitelist.has(methods, pattern) {
		return r
	}
	r.metered = !c.paused && (method == jobMethod || len(c.monitored) == 0 || c.monitored.has(methods, pattern))
	var fields []string
	for _, p := range c.policiesFor(method, pattern) {
		if p.HasRateLimit {
			r.limited = true
		}
		if p.FailClosed != nil && (r.closed == nil || *p.FailClosed) {
			r.closed = p.FailClosed
		}
		if source, ok := newIdentitySource(p, c.secrets, c.raw); ok {
			r.sources = append(r.sources, source)
		}
		if p.tracks() {
			fields = append(fields, p.ResponseTrackingField)
		}
	}
	r.tracked = newTracked(fields)
	for _, b := range c.blocks {
		for _, m := range methods {
			if !b.matches(m, pattern) {
				continue
			}
			if b.Identity == "" {
				r.blockedAll = true
				continue
			}
			if r.blockedOnly == nil {
				r.blockedOnly = make(map[string]struct{})
			}
			r.blockedOnly[b.Identity] = struct{}{}
		}
	}
	return r
}

// policiesFor returns every policy that drives the route, in the fixed order. HEAD takes those of GET
// where none names HEAD. A job takes the policies of type FUNCTION with its name too, which no HTTP route does.
func (c *configuration) policiesFor(method, pattern string) []policy {
	named := func(method string) (list []policy, exact bool) {
		for _, p := range c.policies {
			e := endpoint{Method: p.Method, URL: p.URL}
			if p.isFunction() {
				if method == jobMethod && p.name == pattern {
					list = append(list, p)
				}
				continue
			}
			if method == jobMethod {
				e.URL = p.name
			}
			if e.matches(method, pattern) {
				list = append(list, p)
				exact = exact || p.Method == method
			}
		}
		return list, exact
	}
	list, exact := named(method)
	if method == http.MethodHead && !exact {
		list, _ = named(http.MethodGet)
	}
	return list
}
