package service

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// settings are what people write of an application, but for its name and keys: in the file, through the API, and in the
// store. One set of rules holds for all three.
type settings struct {
	Policies           []policySpec      `yaml:"policies" json:"policies"`
	MonitoringPaths    []Endpoint        `yaml:"monitoringPaths" json:"monitoringPaths"`
	WhitelistEndpoints []Endpoint        `yaml:"whitelistEndpoints" json:"whitelistEndpoints"`
	BlockedEndpoints   []BlockedEndpoint `yaml:"blockedEndpoints" json:"blockedEndpoints"`
	PlanCap            *capSpec          `yaml:"planCap" json:"planCap"`
	AccountReachLimit  bool              `yaml:"accountReachLimit" json:"accountReachLimit"`
	DiscoveryDisabled  bool              `yaml:"discoveryDisabled" json:"discoveryDisabled"`
}

// policySpec is a policy as it is written. Limit, Window and Burst are short for one element of Limits.
type policySpec struct {
	ID                        string      `yaml:"-" json:"id"`
	Name                      string      `yaml:"name" json:"name"`
	Method                    string      `yaml:"method" json:"method"`
	URL                       string      `yaml:"url" json:"url"`
	Type                      string      `yaml:"type" json:"type"`
	IdentityFieldName         string      `yaml:"identityFieldName" json:"identityFieldName"`
	IdentityFieldLocation     string      `yaml:"identityFieldLocation" json:"identityFieldLocation"`
	HasRateLimit              bool        `yaml:"hasRateLimit" json:"hasRateLimit"`
	Limits                    []limitSpec `yaml:"limits" json:"limits"`
	Scope                     string      `yaml:"scope" json:"scope"`
	ResponseTrackingField     string      `yaml:"responseTrackingField" json:"responseTrackingField"`
	IsResponseTrackingEnabled *bool       `yaml:"isResponseTrackingEnabled" json:"isResponseTrackingEnabled"`
	FailClosed                *bool       `yaml:"failClosed" json:"failClosed,omitempty"`

	Limit  *float64 `yaml:"limit" json:"limit,omitempty"`
	Window string   `yaml:"window" json:"window,omitempty"`
	Burst  *float64 `yaml:"burst" json:"burst,omitempty"`
}

type limitSpec struct {
	Limit  *float64 `yaml:"limit" json:"limit"`
	Window string   `yaml:"window" json:"window"`
	Burst  float64  `yaml:"burst" json:"burst"`
}

type capSpec struct {
	Limit  *float64 `yaml:"limit" json:"limit"`
	Window string   `yaml:"window" json:"window"`
}

// invalidError is a value that the configuration may not have; path is where it stands.
type invalidError struct {
	path, message string
}

func (e *invalidError) Error() string {
	path := strings.TrimPrefix(strings.TrimPrefix(e.path, "$"), ".")
	if path == "" {
		return e.message
	}
	return path + ": " + e.message
}

func invalid(path, format string, args ...any) error {
	return &invalidError{path, fmt.Sprintf(format, args...)}
}

// check turns s into an application without a name and keys. path is where s stands.
func (s *settings) check(path string) (*Application, error) {
	a := &Application{
		MonitoringPaths: s.MonitoringPaths, WhitelistEndpoints: s.WhitelistEndpoints, BlockedEndpoints: s.BlockedEndpoints,
		AccountReachLimit: s.AccountReachLimit, DiscoveryDisabled: s.DiscoveryDisabled,
	}
	for _, list := range []struct {
		name      string
		endpoints []Endpoint
	}{{"monitoringPaths", s.MonitoringPaths}, {"whitelistEndpoints", s.WhitelistEndpoints}} {
		for i, e := range list.endpoints {
			if err := checkEndpoint(fmt.Sprintf("%s.%s[%d]", path, list.name, i), e.Method, e.URL); err != nil {
				return nil, err
			}
		}
	}
	for i, e := range s.BlockedEndpoints {
		if err := checkEndpoint(fmt.Sprintf("%s.blockedEndpoints[%d]", path, i), e.Method, e.URL); err != nil {
			return nil, err
		}
	}
	for i := range s.Policies {
		p, err := s.Policies[i].policy(fmt.Sprintf("%s.policies[%d]", path, i))
		if err != nil {
			return nil, err
		}
		a.Policies = append(a.Policies, p)
	}
	if s.PlanCap != nil {
		path += ".planCap"
		limit, err := checkLimit(path, s.PlanCap.Limit, s.PlanCap.Window, 0)
		if err != nil {
			return nil, err
		}
		a.PlanCap = &PlanCap{Limit: limit.Limit, Window: limit.Window}
	}
	a.limits = newLimitIndex(a.Policies, a.PlanCap)
	return a, nil
}

func checkEndpoint(path, method, url string) error {
	if method == "" {
		return invalid(path, "the method is missing")
	}
	if url == "" {
		return invalid(path, "the url is missing")
	}
	if url != "*" && !strings.HasPrefix(url, "/") {
		return invalid(path+".url", "the url %q begins neither with / nor is it *", url)
	}
	return nil
}

// checkLimit reads a limit that is needed at path.
func checkLimit(path string, limit *float64, window string, burst float64) (l PolicyLimit, err error) {
	switch {
	case limit == nil:
		return l, invalid(path, "there is no limit")
	case window == "":
		return l, invalid(path, "there is no window")
	}
	if l.Limit, err = ToMicros(*limit); err != nil {
		return l, invalid(path+".limit", "the limit is no amount: %v", err)
	}
	if l.Window, err = ParseWindow(window); err != nil {
		return l, invalid(path+".window", "%v", err)
	}
	if l.Burst, err = ToMicros(burst); err != nil {
		return l, invalid(path+".burst", "the burst is no amount: %v", err)
	}
	return l, nil
}

// identityLocations are the places where agents can find an identity.
const identityLocations = " headers query query_params path_params body bearer_token bearer jwt cookie "

func (f *policySpec) policy(path string) (Policy, error) {
	p := Policy{
		ID: f.ID, Method: f.Method, URL: f.URL, Type: cmp.Or(strings.ToUpper(f.Type), TypeAPI), Scope: cmp.Or(f.Scope, ScopeAlias),
		IdentityFieldName: f.IdentityFieldName, IdentityFieldLocation: f.IdentityFieldLocation, HasRateLimit: f.HasRateLimit,
		ResponseTrackingField: f.ResponseTrackingField, IsResponseTrackingEnabled: f.ResponseTrackingField != "",
		FailClosed: f.FailClosed,
	}
	if err := f.checkScope(path, &p); err != nil {
		return p, err
	}
	name := p.Method + " " + p.URL
	if p.Scope == ScopeIdentity {
		name = "budget of each " + p.IdentityFieldName
	}
	p.Name = cmp.Or(f.Name, name)
	switch p.Type {
	case TypeAPI:
		if err := checkEndpoint(path, p.Method, p.URL); err != nil {
			return p, err
		}
	case TypeFunction:
	default:
		return p, invalid(path+".type", "type %q is neither API nor FUNCTION", f.Type)
	}
	if f.IdentityFieldLocation != "" && !strings.Contains(identityLocations, " "+f.IdentityFieldLocation+" ") {
		return p, invalid(path+".identityFieldLocation", "location %q is not one of %s", f.IdentityFieldLocation, strings.Join(strings.Fields(identityLocations), ", "))
	}
	if f.FailClosed != nil && !f.HasRateLimit {
		return p, invalid(path+".failClosed", "failClosed is for policies with a limit: others wait for no decision")
	}
	if f.IsResponseTrackingEnabled != nil {
		p.IsResponseTrackingEnabled = *f.IsResponseTrackingEnabled
	}
	return p, f.checkLimits(path, &p)
}

// checkScope reads the scope, which says what method and url are where they are left out.
func (f *policySpec) checkScope(path string, p *Policy) error {
	switch p.Scope {
	case ScopeAlias:
		return nil
	case ScopeIdentity:
	default:
		return invalid(path+".scope", "scope %q is neither alias nor identity", f.Scope)
	}
	p.Method, p.URL = cmp.Or(f.Method, "*"), cmp.Or(f.URL, "*")
	switch {
	case p.Type != TypeAPI:
		return invalid(path+".scope", "a policy of scope identity has type API")
	case p.Method != "*":
		return invalid(path+".method", "scope identity is a budget over all routes: the method is * or left out")
	case p.URL != "*":
		return invalid(path+".url", "scope identity is a budget over all routes: the url is * or left out")
	case f.IdentityFieldName == "" || f.IdentityFieldLocation == "":
		return invalid(path, "scope identity needs identityFieldName and identityFieldLocation")
	case !f.HasRateLimit:
		return invalid(path, "scope identity needs hasRateLimit: true, and a limit")
	}
	return nil
}

// checkLimits reads the limits, in either form.
func (f *policySpec) checkLimits(path string, p *Policy) error {
	limits := f.Limits
	short := f.Limit != nil || f.Window != "" || f.Burst != nil
	switch {
	case short && len(limits) > 0:
		return invalid(path+".limits", "there are limits, and limit, window or burst beside them")
	case f.HasRateLimit && !short && len(limits) == 0:
		return invalid(path, "hasRateLimit is true and there is no limit")
	case f.HasRateLimit && short && f.Limit == nil:
		return invalid(path, "hasRateLimit is true and there is no limit")
	case f.HasRateLimit && short && f.Window == "":
		return invalid(path, "hasRateLimit is true and there is no window")
	case !f.HasRateLimit && f.Limit != nil:
		return invalid(path+".limit", "there is a limit and hasRateLimit is not true")
	case !f.HasRateLimit && f.Burst != nil:
		return invalid(path+".burst", "there is a burst and hasRateLimit is not true")
	case !f.HasRateLimit && len(limits) > 0:
		return invalid(path+".limits", "there are limits and hasRateLimit is not true")
	case !f.HasRateLimit && f.Window != "":
		if _, err := ParseWindow(f.Window); err != nil {
			return invalid(path+".window", "%v", err)
		}
		return nil // a window alone says nothing
	case short:
		one, err := checkLimit(path, f.Limit, f.Window, *cmp.Or(f.Burst, new(float64)))
		p.Limits = []PolicyLimit{one}
		return err
	}
	for i, l := range limits {
		at := fmt.Sprintf("%s.limits[%d]", path, i)
		limit, err := checkLimit(at, l.Limit, l.Window, l.Burst)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(p.Limits, func(other PolicyLimit) bool { return other.Window == limit.Window }) {
			return invalid(at+".window", "there is another limit for each %s", limit.Window)
		}
		p.Limits = append(p.Limits, limit)
	}
	return nil
}

// settingsOf is the one form in which the settings of an application are stored and shown.
func settingsOf(a *Application) settings {
	s := settings{
		Policies: []policySpec{}, MonitoringPaths: list(a.MonitoringPaths), WhitelistEndpoints: list(a.WhitelistEndpoints),
		BlockedEndpoints: list(a.BlockedEndpoints), AccountReachLimit: a.AccountReachLimit, DiscoveryDisabled: a.DiscoveryDisabled,
	}
	for i := range a.Policies {
		s.Policies = append(s.Policies, specOf(&a.Policies[i]))
	}
	if a.PlanCap != nil {
		limit := a.PlanCap.Limit.Units()
		s.PlanCap = &capSpec{Limit: &limit, Window: a.PlanCap.Window.String()}
	}
	return s
}

func specOf(p *Policy) policySpec {
	tracking := p.IsResponseTrackingEnabled
	spec := policySpec{
		ID: p.ID, Name: p.Name, Method: p.Method, URL: p.URL, Type: p.Type, IdentityFieldName: p.IdentityFieldName,
		IdentityFieldLocation: p.IdentityFieldLocation, HasRateLimit: p.HasRateLimit, Limits: []limitSpec{}, Scope: p.Scope,
		ResponseTrackingField: p.ResponseTrackingField, IsResponseTrackingEnabled: &tracking, FailClosed: p.FailClosed,
	}
	for _, l := range p.Limits {
		limit := l.Limit.Units()
		spec.Limits = append(spec.Limits, limitSpec{Limit: &limit, Window: l.Window.String(), Burst: l.Burst.Units()})
	}
	return spec
}

// same reports whether two policies say the same, whatever their ids.
func (f policySpec) same(other policySpec) bool {
	f.ID, other.ID = "", ""
	return fingerprint(f) == fingerprint(other)
}

// identify gives ids to the policies that have none: that of the policy of the same name and route among old, or a new one.
func identify(old, policies []policySpec) {
	taken := map[string]bool{}
	for i := range policies {
		taken[policies[i].ID] = true
	}
	for i := range policies {
		p := &policies[i]
		if p.ID != "" {
			continue
		}
		for _, o := range old {
			if !taken[o.ID] && o.Name == p.Name && o.Type == p.Type && o.Method == p.Method && o.URL == p.URL {
				p.ID = o.ID
				break
			}
		}
		for n := 0; p.ID == ""; n++ {
			if id := "p_" + fingerprint([]any{p.Name, p.Type, p.Method, p.URL, n})[:10]; !taken[id] {
				p.ID = id
			}
		}
		taken[p.ID] = true
	}
}

// fingerprint is equal for what is equal.
func fingerprint(value any) string {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // values of this package, with finite numbers
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
