package service

import (
	"cmp"
	"fmt"
	"strings"
)

// configFile is the YAML form of a Config.
type configFile struct {
	Server       map[string]string `yaml:"server"`
	Applications []applicationFile `yaml:"applications"`
}

type applicationFile struct {
	Name               string            `yaml:"name"`
	Keys               []string          `yaml:"keys"`
	MonitoringPaths    []Endpoint        `yaml:"monitoringPaths"`
	WhitelistEndpoints []Endpoint        `yaml:"whitelistEndpoints"`
	BlockedEndpoints   []BlockedEndpoint `yaml:"blockedEndpoints"`
	Policies           []policyFile      `yaml:"policies"`
	AccountReachLimit  bool              `yaml:"accountReachLimit"`
	DiscoveryDisabled  bool              `yaml:"discoveryDisabled"`
}

type policyFile struct {
	Name                      string   `yaml:"name"`
	Method                    string   `yaml:"method"`
	URL                       string   `yaml:"url"`
	Type                      string   `yaml:"type"`
	IdentityFieldName         string   `yaml:"identityFieldName"`
	IdentityFieldLocation     string   `yaml:"identityFieldLocation"`
	HasRateLimit              bool     `yaml:"hasRateLimit"`
	Limit                     *float64 `yaml:"limit"`
	Window                    string   `yaml:"window"`
	ResponseTrackingField     string   `yaml:"responseTrackingField"`
	IsResponseTrackingEnabled *bool    `yaml:"isResponseTrackingEnabled"`
}

// invalidError is a value that the file may not have; path is where it stands.
type invalidError struct {
	path, message string
}

func (e *invalidError) Error() string { return strings.TrimPrefix(e.path, "$.") + ": " + e.message }

func invalid(path, format string, args ...any) error {
	return &invalidError{path, fmt.Sprintf(format, args...)}
}

// config checks the file and turns it into what the service uses.
func (f *configFile) config() (*Config, error) {
	if len(f.Applications) == 0 {
		return nil, invalid("$.applications", "there is no application")
	}
	c := &Config{Server: f.Server, byKey: map[keyHash]*Application{}}
	names := map[string]bool{}
	for i := range f.Applications {
		path := fmt.Sprintf("$.applications[%d]", i)
		a, err := f.Applications[i].application(path)
		if err != nil {
			return nil, err
		}
		if names[a.Name] {
			return nil, invalid(path+".name", "the name %q is used twice", a.Name)
		}
		names[a.Name] = true
		for k, key := range f.Applications[i].Keys {
			hash := hashKey(key)
			if key == "" {
				return nil, invalid(fmt.Sprintf("%s.keys[%d]", path, k), "the key is empty")
			}
			if other := c.byKey[hash]; other != nil {
				return nil, invalid(fmt.Sprintf("%s.keys[%d]", path, k), "application %q has this key already", other.Name)
			}
			c.byKey[hash] = a
		}
		c.Applications = append(c.Applications, a)
	}
	return c, nil
}

func (f *applicationFile) application(path string) (*Application, error) {
	if f.Name == "" {
		return nil, invalid(path, "the application has no name")
	}
	if len(f.Keys) == 0 {
		return nil, invalid(path, "application %q has no keys", f.Name)
	}
	a := &Application{
		Name: f.Name, MonitoringPaths: f.MonitoringPaths, WhitelistEndpoints: f.WhitelistEndpoints,
		BlockedEndpoints: f.BlockedEndpoints, AccountReachLimit: f.AccountReachLimit, DiscoveryDisabled: f.DiscoveryDisabled,
	}
	for _, list := range []struct {
		name      string
		endpoints []Endpoint
	}{{"monitoringPaths", f.MonitoringPaths}, {"whitelistEndpoints", f.WhitelistEndpoints}} {
		for i, e := range list.endpoints {
			if err := checkEndpoint(fmt.Sprintf("%s.%s[%d]", path, list.name, i), e.Method, e.URL); err != nil {
				return nil, err
			}
		}
	}
	for i, e := range f.BlockedEndpoints {
		if err := checkEndpoint(fmt.Sprintf("%s.blockedEndpoints[%d]", path, i), e.Method, e.URL); err != nil {
			return nil, err
		}
	}
	for i := range f.Policies {
		p, err := f.Policies[i].policy(fmt.Sprintf("%s.policies[%d]", path, i))
		if err != nil {
			return nil, err
		}
		a.Policies = append(a.Policies, p)
	}
	a.limits = newLimitIndex(a.Policies)
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

// identityLocations are the places where agents can find an identity.
const identityLocations = " headers query query_params path_params body bearer_token bearer jwt cookie "

func (f *policyFile) policy(path string) (Policy, error) {
	p := Policy{
		Method: f.Method, URL: f.URL, Type: cmp.Or(strings.ToUpper(f.Type), TypeAPI),
		IdentityFieldName: f.IdentityFieldName, IdentityFieldLocation: f.IdentityFieldLocation, HasRateLimit: f.HasRateLimit,
		ResponseTrackingField: f.ResponseTrackingField, IsResponseTrackingEnabled: f.ResponseTrackingField != "",
	}
	p.Name = cmp.Or(f.Name, f.Method+" "+f.URL)
	switch p.Type {
	case TypeAPI:
		if err := checkEndpoint(path, f.Method, f.URL); err != nil {
			return p, err
		}
	case TypeFunction:
	default:
		return p, invalid(path+".type", "type %q is neither API nor FUNCTION", f.Type)
	}
	if f.IdentityFieldLocation != "" && !strings.Contains(identityLocations, " "+f.IdentityFieldLocation+" ") {
		return p, invalid(path+".identityFieldLocation", "location %q is not one of %s", f.IdentityFieldLocation, strings.Join(strings.Fields(identityLocations), ", "))
	}
	if f.IsResponseTrackingEnabled != nil {
		p.IsResponseTrackingEnabled = *f.IsResponseTrackingEnabled
	}
	if f.Limit != nil {
		limit, err := ToMicros(*f.Limit)
		if err != nil {
			return p, invalid(path+".limit", "the limit is no amount: %v", err)
		}
		p.Limit = limit
	}
	if f.Window != "" {
		window, err := ParseWindow(f.Window)
		if err != nil {
			return p, invalid(path+".window", "%v", err)
		}
		p.Window = window
	}
	switch {
	case f.HasRateLimit && f.Limit == nil:
		return p, invalid(path, "hasRateLimit is true and there is no limit")
	case f.HasRateLimit && f.Window == "":
		return p, invalid(path, "hasRateLimit is true and there is no window")
	case !f.HasRateLimit && f.Limit != nil:
		return p, invalid(path+".limit", "there is a limit and hasRateLimit is not true")
	}
	return p, nil
}
