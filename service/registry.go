package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

const (
	// pollInterval is how long a change that another replica has made stays unseen.
	pollInterval = time.Second
	// documentTimeout bounds one change of the document, and one look at it.
	documentTimeout = 10 * time.Second
	// maxTries is how often a change is made anew because others were faster.
	maxTries = 20
)

// registry changes the configuration: it is the only one to write the document, and puts what it has written or found in force.
type registry struct {
	// Static after New.
	store   DocumentStore
	log     *slog.Logger
	install func(*Config)

	failing bool // owned by poll

	mu sync.Mutex
	// version is that of the document in force; -1 before the first.
	version int64
}

// change applies f to the document, saves it and puts it in force. When others have changed it meanwhile, f is called again with
// their document. A change that f has begun is carried out though ctx ends. Where f changes nothing, nothing is saved.
func (r *registry) change(ctx context.Context, f func(*document) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), documentTimeout)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	for range maxTries {
		before, version, err := r.store.LoadDocument(ctx)
		if err != nil {
			return err
		}
		d, err := decodeDocument(before)
		if err != nil {
			return err
		}
		d.version = version
		if err := f(d); err != nil {
			return err
		}
		config, err := d.config()
		if err != nil {
			return err
		}
		after, err := json.Marshal(d)
		if err != nil {
			return fmt.Errorf("encode the configuration: %w", err)
		}
		if !bytes.Equal(before, after) {
			version, err = r.store.SaveDocument(ctx, after, version)
		}
		if errors.Is(err, ErrStale) {
			continue
		}
		if err != nil {
			return err
		}
		r.force(config, version)
		return nil
	}
	return ErrStale
}

// look applies f to a copy of the document that is thrown away.
func (r *registry) look(ctx context.Context, f func(*document) error) error {
	data, version, err := r.store.LoadDocument(ctx)
	if err != nil {
		return err
	}
	d, err := decodeDocument(data)
	if err != nil {
		return err
	}
	d.version = version
	if err := f(d); err != nil {
		return err
	}
	_, err = d.config()
	return err
}

// force puts config in force, with mu held.
func (r *registry) force(config *Config, version int64) {
	if version == r.version {
		return
	}
	r.version, config.version = version, version
	r.install(config)
}

// refresh puts in force what others have saved. Where nobody has, it only looks at the version.
func (r *registry) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, documentTimeout)
	defer cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	data, version, err := r.store.LoadDocument(ctx)
	if err != nil || version == r.version {
		return err
	}
	d, err := decodeDocument(data)
	if err != nil {
		return err
	}
	config, err := d.config()
	if err != nil {
		return fmt.Errorf("the stored configuration: %w", err)
	}
	r.force(config, version)
	return nil
}

// poll refreshes until ctx ends. A failure is logged when it begins, and its end too.
func (r *registry) poll(ctx context.Context) {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := r.refresh(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && !r.failing:
			r.log.Error("the stored configuration can't be read; the last one stays in force", "error", err)
		case err == nil && r.failing:
			r.log.Info("the stored configuration is read again")
		}
		r.failing = err != nil
	}
}

// applyFile brings the store to what a configuration file says: the applications that the file says otherwise of than when it was
// last applied, and no others. What was changed through the API stays until then.
func (r *registry) applyFile(ctx context.Context, file *Config) error {
	var notes []func()
	err := r.change(ctx, func(d *document) error {
		notes = d.applyFile(file, time.Now(), r.log)
		return nil
	})
	if err != nil {
		return err
	}
	for _, note := range notes {
		note()
	}
	return nil
}

// applyFile returns what is to be logged once the change is saved.
func (d *document) applyFile(file *Config, now time.Time, log *slog.Logger) (notes []func()) {
	inFile := map[string]bool{}
	applied := map[string]string{}
	for _, a := range file.Applications {
		inFile[a.Name], applied[a.Name] = true, a.fingerprint
		if d.Applied[a.Name] == a.fingerprint {
			continue
		}
		old := d.find(a.Name)
		next := recordOf(a)
		for i := range next.Policies {
			next.Policies[i].ID = ""
		}
		next.CreatedAt, next.UpdatedAt = now.UnixMilli(), now.UnixMilli()
		if old == nil {
			identify(nil, next.Policies)
			next.stampKeys(nil, now)
			d.Applications = append(d.Applications, next)
			continue
		}
		if old.Edited || old.Source == SourceAPI {
			notes = append(notes, func() {
				log.Warn("the configuration file has changed, and replaces what was changed through the API", "application", a.Name)
			})
		}
		identify(old.Policies, next.Policies)
		next.CreatedAt, next.Version = old.CreatedAt, old.Version+1
		for _, k := range next.keepRevoked(old.Revoked) {
			notes = append(notes, func() {
				log.Warn("a key in the configuration file was revoked through the API, and stays so; take it out of the file", "application", a.Name, "key", k.Prefix)
			})
		}
		next.stampKeys(old.Keys, now)
		for _, k := range old.Keys {
			if k.Source == SourceAPI && !next.hasKey(k.Hash) {
				next.Keys = append(next.Keys, k)
			}
		}
		*old = *next
	}
	for _, r := range append([]*record(nil), d.Applications...) {
		if r.Source == SourceFile && !inFile[r.Name] {
			d.remove(r.Name)
			notes = append(notes, func() {
				log.Warn("an application is not in the configuration file any more, and is removed; its ledgers stay", "application", r.Name)
			})
		}
	}
	d.Applied = applied
	return notes
}

// keepRevoked takes out the keys that were revoked, and returns them.
func (r *record) keepRevoked(hashes []string) (revoked []keyRecord) {
	r.Keys = slices.DeleteFunc(r.Keys, func(k keyRecord) bool {
		if !slices.Contains(hashes, k.Hash) {
			return false
		}
		revoked = append(revoked, k)
		r.Revoked = append(r.Revoked, k.Hash)
		return true
	})
	return revoked
}

// stampKeys says since when there are the keys: those that are among old, since then.
func (r *record) stampKeys(old []keyRecord, now time.Time) {
	for i := range r.Keys {
		k := &r.Keys[i]
		k.CreatedAt = now.UnixMilli()
		for _, o := range old {
			if o.Hash == k.Hash {
				k.CreatedAt, k.ID, k.Label = o.CreatedAt, o.ID, o.Label
			}
		}
	}
}

func (r *record) hasKey(hash string) bool {
	for _, k := range r.Keys {
		if k.Hash == hash {
			return true
		}
	}
	return false
}
