package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// ErrStale is what SaveDocument returns where the version that is to be replaced is not the one in the store.
var ErrStale = errors.New("the configuration has been changed in the meantime")

// A DocumentStore keeps the service's configuration: one document, replaced as a whole. It is safe for concurrent use, also
// by several processes where the store serves several.
type DocumentStore interface {
	// LoadDocument returns the document and its version; version 0 and no data where none was saved.
	LoadDocument(ctx context.Context) (data []byte, version int64, err error)
	// SaveDocument replaces version with data, durably, and returns the new version, which is greater. ErrStale: another has
	// replaced it first. After any other error the outcome is unknown.
	SaveDocument(ctx context.Context, data []byte, version int64) (int64, error)
}

// documentFormat is the form of the document that this program writes and reads.
const documentFormat = 1

// document is the configuration as it is stored.
type document struct {
	Format       int       `json:"format"`
	Applications []*record `json:"applications"`
	// Applied has a fingerprint of each application of the file, as it was when the file was last applied.
	Applied map[string]string `json:"applied,omitempty"`

	version int64 // in the store; 0: it is in none yet
}

// record is a stored application. Times are Unix ms.
type record struct {
	Name      string `json:"name"`
	Source    string `json:"source"`
	CreatedAt int64  `json:"createdAt"`
	UpdatedAt int64  `json:"updatedAt"`
	// Version counts the changes.
	Version int64 `json:"version"`
	// Edited says that it is not what the file says: it was changed through the API since the file was applied.
	Edited bool        `json:"edited,omitempty"`
	Keys   []keyRecord `json:"keys"`
	// Revoked has the hashes of the file's keys that the API has revoked: they stay so, as long as the file has them.
	Revoked []string `json:"revoked,omitempty"`
	settings
}

// keyRecord is a stored key.
type keyRecord struct {
	ID        string `json:"id"`
	Prefix    string `json:"prefix"`
	Label     string `json:"label"`
	CreatedAt int64  `json:"createdAt"`
	Source    string `json:"source"`
	// Hash is the key's SHA-256 in hexadecimal digits.
	Hash string `json:"hash"`
}

// decodeDocument reads what a store has; no data is an empty document.
func decodeDocument(data []byte) (*document, error) {
	d := &document{Format: documentFormat}
	if len(data) == 0 {
		return d, nil
	}
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("the stored configuration can't be read: %w", err)
	}
	if d.Format != documentFormat {
		return nil, fmt.Errorf("the stored configuration has format %d, this program knows format %d", d.Format, documentFormat)
	}
	return d, nil
}

// find returns the application of that name, or nil.
func (d *document) find(name string) *record {
	if i := d.index(name); i >= 0 {
		return d.Applications[i]
	}
	return nil
}

func (d *document) index(name string) int {
	return slices.IndexFunc(d.Applications, func(r *record) bool { return r.Name == name })
}

func (d *document) remove(name string) {
	d.Applications = slices.DeleteFunc(d.Applications, func(r *record) bool { return r.Name == name })
}

// config checks the document by the rules of the file and turns it into what the service uses.
func (d *document) config() (*Config, error) {
	apps := make([]*Application, len(d.Applications))
	for i, r := range d.Applications {
		a, err := r.application(fmt.Sprintf("$.applications[%d]", i))
		if err != nil {
			return nil, err
		}
		apps[i] = a
	}
	return newConfig(apps)
}

func (r *record) application(path string) (*Application, error) {
	a, err := r.check(path)
	if err != nil {
		return nil, err
	}
	a.Name, a.Source, a.Version = r.Name, r.Source, r.Version
	a.CreatedAt, a.UpdatedAt = fromMillis(r.CreatedAt), fromMillis(r.UpdatedAt)
	for i, k := range r.Keys {
		key := Key{ID: k.ID, Prefix: k.Prefix, Label: k.Label, CreatedAt: fromMillis(k.CreatedAt), Source: k.Source}
		if key.hash, err = parseKeyHash(k.Hash); err != nil {
			return nil, invalid(fmt.Sprintf("%s.keys[%d]", path, i), "%v", err)
		}
		a.Keys = append(a.Keys, key)
	}
	return a, nil
}

// recordOf is what is stored of an application.
func recordOf(a *Application) *record {
	r := &record{
		Name: a.Name, Source: a.Source, CreatedAt: toMillis(a.CreatedAt), UpdatedAt: toMillis(a.UpdatedAt), Version: a.Version,
		Keys: []keyRecord{}, settings: settingsOf(a),
	}
	for _, k := range a.Keys {
		r.Keys = append(r.Keys, k.record())
	}
	return r
}
