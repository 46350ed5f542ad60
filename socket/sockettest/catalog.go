package sockettest

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// A Policy is what the service says of a route.
type Policy struct {
	URL    string `json:"url"` // a route pattern, or *
	Method string `json:"method"`
	// Type is API or FUNCTION; empty goes out as API.
	Type                      string `json:"type"`
	IdentityFieldName         string `json:"identityFieldName"`
	IdentityFieldLocation     string `json:"identityFieldLocation"`
	HasRateLimit              bool   `json:"hasRateLimit"`
	ResponseTrackingField     string `json:"responseTrackingField"`
	IsResponseTrackingEnabled bool   `json:"isResponseTrackingEnabled"`
	FailClosed                *bool  `json:"failClosed,omitempty"`
}

// An Endpoint is a method and a route pattern, either of them * for all. Identity is for blocks only.
type Endpoint struct {
	Method   string `json:"method"`
	URL      string `json:"url"`
	Identity string `json:"identity,omitempty"`
}

// A Config is the answer to get_application_config. The zero value monitors everything.
type Config struct {
	MonitoringPaths    []Endpoint `json:"monitoringPaths"`
	WhitelistEndpoints []Endpoint `json:"whitelistEndpoints"`
	// AccountReachLimit goes out with the policies too.
	AccountReachLimit bool `json:"accountReachLimit"`
	DiscoveryDisabled bool `json:"discoveryDisabled"`
}

// catalog is what the server answers to the three get_ messages.
type catalog struct {
	policies []Policy
	config   Config
	blocked  []Endpoint
}

// SetPolicies replaces the policies that the server answers with; it starts with none.
func (s *Server) SetPolicies(policies ...Policy) {
	policies = slices.Clone(policies)
	for i := range policies {
		if policies[i].Type == "" {
			policies[i].Type = "API"
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catalog.policies = policies
}

// SetConfig replaces the configuration that the server answers with.
func (s *Server) SetConfig(cfg Config) {
	cfg.MonitoringPaths = slices.Clone(cfg.MonitoringPaths)
	cfg.WhitelistEndpoints = slices.Clone(cfg.WhitelistEndpoints)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catalog.config = cfg
}

// SetBlocked replaces the blocked endpoints that the server answers with; it starts with none.
func (s *Server) SetBlocked(endpoints ...Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catalog.blocked = slices.Clone(endpoints)
}

// limit is the fixed window of one alias.
type limit struct {
	n        float64
	window   time.Duration
	resetAt  time.Time
	reserved float64
	admitted map[string]bool // allocation ids, so that a resent reservation counts once
}

// Limit allows n units to be reserved on alias in the next minute and denies what goes beyond, with
// limit, remaining, resetAt and windowSeconds in the payload. It starts a new window.
func (s *Server) Limit(alias string, n float64) { s.LimitWindow(alias, n, time.Minute) }

// LimitWindow is Limit with a window of its own. Another window follows when it has passed. What is
// settled does not change what was reserved.
func (s *Server) LimitWindow(alias string, n float64, window time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits[alias] = &limit{
		n: n, window: window, resetAt: time.Now().Add(window), admitted: make(map[string]bool),
	}
}

// reserve takes amount if the window has room for it, and says what is left in the payload's fields.
func (l *limit) reserve(id string, amount float64, now time.Time) (fields map[string]any, ok bool) {
	if !now.Before(l.resetAt) {
		l.resetAt = now.Add(l.window)
		l.reserved = 0
		clear(l.admitted)
	}
	switch {
	case id != "" && l.admitted[id]:
		ok = true
	case l.reserved+amount <= l.n:
		ok = true
		l.reserved += amount
		if id != "" {
			l.admitted[id] = true
		}
	}
	return map[string]any{
		"limit":         l.n,
		"remaining":     l.n - l.reserved,
		"resetAt":       l.resetAt.UnixMilli(),
		"now":           now.UnixMilli(),
		"windowSeconds": l.window.Seconds(),
	}, ok
}

// defaultReply allows every reservation that no Limit denies, and confirms every settlement.
func (s *Server) defaultReply(m Message) Reply {
	switch m.Type {
	case socket.TypeRequestForAllocation:
		return s.reserve(m)
	case socket.TypeUseAllocation:
		return OK(map[string]any{"allocationId": m.Use().AllocationID})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch m.Type {
	case socket.TypeGetPolicies:
		return OK(map[string]any{
			"policies":          list(s.catalog.policies),
			"total":             len(s.catalog.policies),
			"accountReachLimit": s.catalog.config.AccountReachLimit,
		})
	case socket.TypeGetConfig:
		cfg := s.catalog.config
		cfg.MonitoringPaths = list(cfg.MonitoringPaths)
		cfg.WhitelistEndpoints = list(cfg.WhitelistEndpoints)
		return OK(cfg)
	case socket.TypeGetBlockedEndpoints:
		return OK(map[string]any{"endpoints": list(s.catalog.blocked), "total": len(s.catalog.blocked)})
	default:
		return Error("unknown_type", fmt.Sprintf("no message type %q", m.Type))
	}
}

func (s *Server) reserve(m Message) Reply {
	p := m.Allocation()
	payload := map[string]any{"allocationId": p.AllocationID}
	if p.AllocationID == "" {
		payload["allocationId"] = fmt.Sprintf("00000000-0000-4000-8000-%012x", m.Seq) // a UUID in form
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.limits[p.Alias]; l != nil {
		fields, ok := l.reserve(p.AllocationID, p.Amount, m.Received)
		if !ok {
			return Deny("rate limit exceeded", fields)
		}
		maps.Copy(payload, fields)
	}
	return OK(payload)
}

// list makes a nil slice an empty one, which JSON shows as [] and not as null.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
