package core

import (
	"log/slog"
	"net/http"
	"net/url"
	"testing"
)

// A secret in the path is masked by the name that the router's own pattern gives it, a catch-all's too.
func TestMaskPath(t *testing.T) {
	c := newConfiguration(nil, nil, nil, nil, newSecretNames(nil))
	for _, tc := range []struct{ route, path, raw, want string }{
		{"/users/:id", "/users/7", "", "/users/7"},
		{"/reset/:token/done", "/reset/MARKER/done", "", "/reset/****/done"},
		{"/reset/{token:[a-z/]+}/done", "/reset/MARKER/done", "", "/reset/****/done"},
		{"/verify/*token", "/verify/MARKER/more", "", "/verify/****"},
		{"/verify/{token...}", "/verify/MARKER/more", "", "/verify/****"},
		{"/reset/{token}/done", "/reset/MARKER/MARKER/done", "/reset/MARKER%2FMARKER/done", "/reset/****"},
		{"/a/:x/:token", "/a/p/q/MARKER", "/a/p%2Fq/MARKER", "/a/p/****"},
		{"/a/:x/:token", "/a/p/MARKER", "/a/p%2FMARKER", "/a/p/****"},
		{"/x/:y-:token/z", "/x/MARKER-MARKER/z", "", "/x/****/z"},
		{"/files/*path", "/files/a/b", "", "/files/a/b"},
		{"/files/*", "/files/a/b", "", "/files/a/b"},
	} {
		if got := c.rule("GET", tc.route).maskPath(&url.URL{Path: tc.path, RawPath: tc.raw}); got != tc.want {
			t.Errorf("%s: path %s becomes %s, want %s", tc.route, tc.path, got, tc.want)
		}
	}
}

func TestMaskHeader(t *testing.T) {
	f := &Flow{secrets: newSecretNames(nil), log: slog.New(slog.DiscardHandler)}
	got := f.maskHeader(http.Header{
		"Referer": {"https://shop.example/buy?token=MARKER&page=2"},
		"X-Url":   {"/a?%zz=MARKER"},
		"Accept":  {"text/html"},
	})
	for name, want := range map[string]string{
		"Referer": "https://shop.example/buy?page=2&token=%2A%2A%2A%2A", "X-Url": "/a?****", "Accept": "text/html",
	} {
		if got[name] != want {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
}

// What ends while the sender does not run is bounded, and what is too much is counted.
func TestBacklogIsBounded(t *testing.T) {
	f := &Flow{log: slog.New(slog.DiscardHandler)}
	f.ctx, f.cancel = t.Context(), func() {}
	f.outbox = newOutbox(f)
	f.sender = newSender(f, nil)
	f.sender.maxBacklog = 3
	for range 5 {
		c := f.newCall(t.Context(), &rule{alias: "GET /x"}, "", 1)
		f.counters.admitted.Add(1)
		f.sender.begin(c)
		c.End(200)
	}
	if s := f.outbox.stats(); s.Dropped != 2 || s.Pending != 3 {
		t.Errorf("stats %+v", s)
	}
	nodes := 0
	for n := f.sender.inbox.take(); n != nil; n = n.next {
		nodes++
	}
	if nodes != 6 {
		t.Errorf("%d nodes in the inbox, want the beginnings and ends of 3 calls", nodes)
	}
}
