package service

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A problem is an answer of the API other than success.
type problem struct {
	status        int
	code, message string
}

func (p *problem) Error() string { return p.message }

// The problems that changes of the configuration can have.
var (
	errNoApplication = &problem{http.StatusNotFound, "not_found", "there is no application of this name"}
	errNoPolicy      = &problem{http.StatusNotFound, "not_found", "the application has no policy with this id"}
	errNoKey         = &problem{http.StatusNotFound, "not_found", "the application has no key with this id"}
	errNotBlocked    = &problem{http.StatusNotFound, "not_found", "this endpoint is not blocked"}
	errBlocked       = &problem{http.StatusConflict, "already_blocked", "this endpoint is blocked already"}
	errNameTaken     = &problem{http.StatusConflict, "already_exists", "there is an application of this name"}
	errTooManyKeys   = &problem{http.StatusConflict, "too_many_keys", "two keys are live: revoke one of them first"}
	errPrecondition  = &problem{http.StatusPreconditionFailed, "precondition_failed", "it has been changed since; read it again"}
	errNotEditable   = &problem{http.StatusNotImplemented, "not_editable", "this service has no store for its configuration: it comes from a file alone"}
)

// maxKeys is how many keys of an application are live at the same time: one, and the one that replaces it.
const maxKeys = 2

// create adds an application with one key.
func (d *document) create(name string, s settings, key Key, now time.Time) error {
	if strings.TrimSpace(name) == "" {
		return invalid("$.name", "the application has no name")
	}
	if err := checkName("$", name); err != nil {
		return err
	}
	if d.find(name) != nil {
		return errNameTaken
	}
	r := &record{Name: name, Source: SourceAPI, CreatedAt: now.UnixMilli(), UpdatedAt: now.UnixMilli(), Version: 1}
	key.CreatedAt = now
	r.Keys = []keyRecord{key.record()}
	if err := r.configure(s); err != nil {
		return err
	}
	d.Applications = append(d.Applications, r)
	return nil
}

// configure replaces the settings by s, checked. Policies keep their ids.
func (r *record) configure(s settings) error {
	seen := map[string]bool{}
	for i, p := range s.Policies {
		switch {
		case p.ID == "":
		case seen[p.ID]:
			return invalid("$", "policies[%d].id: the id %q is used twice", i, p.ID)
		case r.policy(p.ID) < 0:
			return invalid("$", "policies[%d].id: there is no policy with the id %q; leave the id of a new one out", i, p.ID)
		}
		seen[p.ID] = true
	}
	a, err := s.check("$")
	if err != nil {
		return err
	}
	a.identifyPolicies(r.Policies)
	r.settings = settingsOf(a)
	r.edit()
	return nil
}

// policy returns where the policy with the id is, or -1.
func (r *record) policy(id string) int {
	return slices.IndexFunc(r.Policies, func(p policySpec) bool { return p.ID == id })
}

// editable returns the application of that name, for a change through the API, unless it has another version than match asks for.
func (d *document) editable(name, match string, now time.Time) (*record, error) {
	r := d.find(name)
	if r == nil {
		return nil, errNoApplication
	}
	if !matches(match, r.Version) {
		return nil, errPrecondition
	}
	r.touch(now)
	return r, nil
}

func (r *record) touch(now time.Time) {
	r.Version++
	r.UpdatedAt = max(now.UnixMilli(), r.UpdatedAt)
}

// edit notes that a file that is applied anew throws something away.
func (r *record) edit() { r.Edited = r.Source == SourceFile }

// addKey adds a key, where two are not live already.
func (r *record) addKey(key Key, now time.Time) error {
	if len(r.Keys) >= maxKeys {
		return errTooManyKeys
	}
	key.CreatedAt = now
	r.Keys = append(r.Keys, key.record())
	return nil
}

func (r *record) removeKey(id string) error {
	i := slices.IndexFunc(r.Keys, func(k keyRecord) bool { return k.ID == id })
	if i < 0 {
		return errNoKey
	}
	if r.Keys[i].Source == SourceFile {
		r.edit()
		r.Revoked = append(r.Revoked, r.Keys[i].Hash)
	}
	r.Keys = slices.Delete(r.Keys, i, i+1)
	return nil
}

// addPolicy adds a policy and returns it as it is now.
func (r *record) addPolicy(spec policySpec) (policySpec, error) {
	if spec.ID != "" {
		return spec, invalid("$.id", "a new policy gets its id from the service; leave it out")
	}
	p, err := spec.policy("$")
	if err != nil {
		return spec, err
	}
	r.Policies = append(r.Policies, specOf(&p))
	identify(nil, r.Policies)
	r.edit()
	return r.Policies[len(r.Policies)-1], nil
}

func (r *record) replacePolicy(id string, spec policySpec) (policySpec, error) {
	i := r.policy(id)
	if i < 0 {
		return spec, errNoPolicy
	}
	if cmp.Or(spec.ID, id) != id {
		return spec, invalid("$.id", "the id of a policy does not change")
	}
	spec.ID = id
	p, err := spec.policy("$")
	if err != nil {
		return spec, err
	}
	r.Policies[i] = specOf(&p)
	r.edit()
	return r.Policies[i], nil
}

func (r *record) removePolicy(id string) error {
	i := r.policy(id)
	if i < 0 {
		return errNoPolicy
	}
	r.Policies = slices.Delete(r.Policies, i, i+1)
	r.edit()
	return nil
}

func (r *record) block(e BlockedEndpoint) error {
	if err := checkEndpoint("$", e.Method, e.URL); err != nil {
		return err
	}
	if slices.Contains(r.BlockedEndpoints, e) {
		return errBlocked
	}
	r.BlockedEndpoints = append(r.BlockedEndpoints, e)
	r.edit()
	return nil
}

func (r *record) unblock(e BlockedEndpoint) error {
	i := slices.Index(r.BlockedEndpoints, e)
	if i < 0 {
		return errNotBlocked
	}
	r.BlockedEndpoints = slices.Delete(r.BlockedEndpoints, i, i+1)
	r.edit()
	return nil
}
