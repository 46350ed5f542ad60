package service

import (
	"fmt"
	"time"
)

// applicationChange says what applying a file does to an application.
type applicationChange struct {
	Application string   `json:"application"`
	Action      string   `json:"action"` // created, updated or unchanged
	Details     []string `json:"details"`
}

// apply creates and updates the applications of a file through the API. It deletes none, and no keys.
func (d *document) apply(file *Config, now time.Time) []applicationChange {
	changes := []applicationChange{}
	for _, a := range file.Applications {
		next := recordOf(a)
		for i := range next.Policies {
			next.Policies[i].ID = ""
		}
		for i := range next.Keys {
			next.Keys[i].Source = SourceAPI
		}
		next.stampKeys(nil, now)
		change := applicationChange{Application: a.Name, Action: "created", Details: []string{}}
		if old := d.find(a.Name); old != nil {
			change.Action, change.Details = "unchanged", old.merge(next)
			if len(change.Details) > 0 {
				change.Action = "updated"
				old.touch(now)
			}
		} else {
			empty := &record{Source: SourceAPI, settings: settingsOf(&Application{})}
			change.Details = empty.merge(next)
			empty.Name, empty.Version, empty.CreatedAt, empty.UpdatedAt = a.Name, 1, now.UnixMilli(), now.UnixMilli()
			d.Applications = append(d.Applications, empty)
		}
		changes = append(changes, change)
	}
	return changes
}

// words is the policy's name and limits, to tell it from others.
func (f *policySpec) words() string {
	text := f.Name
	for i, l := range f.Limits {
		separator := ", "
		if i == 0 {
			separator = " ("
		}
		text += fmt.Sprintf("%s%g/%s", separator, *l.Limit, l.Window)
	}
	if len(f.Limits) > 0 {
		text += ")"
	}
	return text
}

// merge makes r what next says, keeps the keys that it has, and says what changes.
func (r *record) merge(next *record) []string {
	details := []string{}
	note := func(format string, args ...any) { details = append(details, fmt.Sprintf(format, args...)) }
	if r.Source != SourceAPI {
		note("it is the file's no more, but the API's")
	}
	r.Source, r.Edited = SourceAPI, false
	for _, k := range next.Keys {
		if !r.hasKey(k.Hash) {
			note("key %s… added", k.Prefix)
			r.Keys = append(r.Keys, k)
		}
	}
	identify(r.Policies, next.Policies)
	for _, p := range next.Policies {
		switch i := r.policy(p.ID); {
		case i < 0:
			note("policy %s added", p.words())
		case !r.Policies[i].same(p):
			note("policy %s changed to %s", r.Policies[i].words(), p.words())
		}
	}
	for _, p := range r.Policies {
		if next.policy(p.ID) < 0 {
			note("policy %s removed", p.words())
		}
	}
	for _, part := range []struct {
		name      string
		old, next any
	}{
		{"monitoringPaths", r.MonitoringPaths, next.MonitoringPaths},
		{"whitelistEndpoints", r.WhitelistEndpoints, next.WhitelistEndpoints},
		{"blockedEndpoints", r.BlockedEndpoints, next.BlockedEndpoints},
		{"planCap", r.PlanCap, next.PlanCap},
		{"accountReachLimit", r.AccountReachLimit, next.AccountReachLimit},
		{"discoveryDisabled", r.DiscoveryDisabled, next.DiscoveryDisabled},
	} {
		if fingerprint(part.old) != fingerprint(part.next) {
			note("%s changed", part.name)
		}
	}
	if len(details) > 0 { // the order of a list says nothing
		r.settings = next.settings
	}
	return details
}
