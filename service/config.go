package service

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Config is what the service knows of its applications. It is read-only once it is loaded. Keys are
// kept as SHA-256 hashes only.
type Config struct {
	Applications []*Application
	// Server holds settings of the program that runs the service, by name. The service itself does not look at them.
	Server map[string]string
	// Broker holds those of usageflow broker, likewise.
	Broker map[string]string

	byKey map[keyHash]*Application
	// version is that of the document that this is, 0 where it comes from no store.
	version int64
}

// newConfig puts applications together, which have checked settings.
func newConfig(apps []*Application) (*Config, error) {
	c := &Config{Applications: apps, byKey: map[keyHash]*Application{}}
	names := map[string]bool{}
	for i, a := range apps {
		path := fmt.Sprintf("$.applications[%d]", i)
		if names[a.Name] {
			return nil, invalid(path+".name", "the name %q is used twice", a.Name)
		}
		names[a.Name] = true
		for k := range a.Keys {
			hash := a.Keys[k].hash
			if other := c.byKey[hash]; other != nil {
				return nil, invalid(fmt.Sprintf("%s.keys[%d]", path, k), "application %q has this key already", other.Name)
			}
			c.byKey[hash] = a
		}
	}
	return c, nil
}

// Application is one tenant: its ledgers are apart from those of every other application.
type Application struct {
	// Name names the application in the store; renaming it starts new ledgers.
	Name string
	// Source is SourceFile or SourceAPI: who has said last what the application is.
	Source string
	// CreatedAt and UpdatedAt are zero where they are not known.
	CreatedAt, UpdatedAt time.Time
	// Version counts the changes.
	Version            int64
	Keys               []Key
	MonitoringPaths    []Endpoint
	WhitelistEndpoints []Endpoint
	BlockedEndpoints   []BlockedEndpoint
	Policies           []Policy
	// AccountReachLimit tells agents to stop metering; DiscoveryDisabled is passed on to them.
	AccountReachLimit bool
	DiscoveryDisabled bool
	// PlanCap bounds all of the application's usage; nil where nothing does.
	PlanCap *PlanCap

	limits      limitIndex
	fingerprint string // of what the file says, where it comes from one
}

// PlanCap is what an application may use in all, over all routes and identities.
type PlanCap struct {
	Limit  Micros
	Window Window
}

// Endpoint is a method and a url (a route pattern); "*" stands for all of them.
type Endpoint struct {
	Method string `yaml:"method" json:"method"`
	URL    string `yaml:"url" json:"url"`
}

// BlockedEndpoint is an endpoint that agents answer with 403, for one identity or for all.
type BlockedEndpoint struct {
	Method   string `yaml:"method" json:"method"`
	URL      string `yaml:"url" json:"url"`
	Identity string `yaml:"identity" json:"identity"`
}

// Policy says how a route is metered. The fields with a JSON name are those that agents are sent.
type Policy struct {
	// ID names the policy in the API; it stays when the policy is changed.
	ID                        string `json:"-"`
	Name                      string `json:"-"`
	Method                    string `json:"method"`
	URL                       string `json:"url"`
	Type                      string `json:"type"`
	IdentityFieldName         string `json:"identityFieldName"`
	IdentityFieldLocation     string `json:"identityFieldLocation"`
	HasRateLimit              bool   `json:"hasRateLimit"`
	ResponseTrackingField     string `json:"responseTrackingField"`
	IsResponseTrackingEnabled bool   `json:"isResponseTrackingEnabled"`
	// FailClosed says whether agents refuse requests while they can't get a decision. Where it is nil, they go by their own setting.
	FailClosed *bool `json:"failClosed,omitempty"`
	// Limits are what is allowed, all of them at once, where HasRateLimit is true: one at least, and one for a window at most.
	Limits []PolicyLimit `json:"-"`
	// Scope says what the limits count over: ScopeAlias or ScopeIdentity.
	Scope string `json:"-"`
}

// PolicyLimit is what is allowed per Window, and Burst beyond it in reserve.
type PolicyLimit struct {
	Limit  Micros
	Window Window
	// Burst is 0 where there is none.
	Burst Micros
}

// The scopes of a policy's limits: each ledger alias on its own, or all routes of an identity together.
const (
	ScopeAlias    = "alias"
	ScopeIdentity = "identity"
)

// The types a policy can have. Policies of TypeFunction never limit HTTP routes.
const (
	TypeAPI      = "API"
	TypeFunction = "FUNCTION"
)

// Application returns the application that key belongs to, or nil.
func (c *Config) Application(key string) *Application {
	return c.byKey[hashKey(key)]
}

// Warnings are what is allowed and probably not meant, a line each; where says which policy.
func (c *Config) Warnings() (list []string) {
	for _, a := range c.Applications {
		for i, p := range a.Policies {
			warn := func(format string, args ...any) {
				list = append(list, fmt.Sprintf("application %s, policy %d (%s): ", a.Name, i+1, p.Name)+fmt.Sprintf(format, args...))
			}
			if p.Type == TypeAPI && !slices.Contains(methods, strings.ToUpper(strings.TrimSpace(p.Method))) {
				warn("%s is no method of HTTP's", p.Method)
			}
			if (p.IdentityFieldName == "") != (p.IdentityFieldLocation == "") {
				warn("identityFieldName and identityFieldLocation go together; all callers count as one")
			}
			if strings.HasSuffix(strings.TrimSpace(p.ResponseTrackingField), "+") || strings.HasPrefix(strings.TrimSpace(p.ResponseTrackingField), "+") {
				warn("responseTrackingField %q has an empty part", p.ResponseTrackingField)
			}
			for _, other := range a.Policies[:i] {
				if p.HasRateLimit && other.HasRateLimit && p.Type == other.Type && p.Method == other.Method && p.URL == other.URL && p.Scope == ScopeAlias && other.Scope == ScopeAlias {
					warn("another policy limits the same route; the stricter one counts")
				}
			}
		}
	}
	return list
}

// methods are those that policies may well name.
var methods = []string{"*", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE", "JOB"}
