package core_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// The last good configuration is in force at the next start, before the service has said anything.
func TestKeptConfiguration(t *testing.T) {
	dir := t.TempDir()
	h := newHarness(t, func(s *sockettest.Server) {
		limitReports(s)
		s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/blocked"})
	}, func(c *core.Config) { c.SpoolDir = dir })
	h.eventually("the file", func(core.Stats) bool {
		_, err := os.Stat(filepath.Join(dir, "configuration.json"))
		return err == nil
	})
	if err := h.flow.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := h.flow.Ready(t.Context()); err == nil {
		t.Error("ready after its end")
	}
	h.srv.Stop()
	next := joinHarness(t, h.srv, func(c *core.Config) { c.SpoolDir = dir })
	if err := next.flow.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if w := next.do(next.route("/blocked", ok), get("/blocked")); w.Code != 403 {
		t.Errorf("got %d", w.Code)
	}
	next.do(next.route("/x", ok), get("/x"))
	if s := next.flow.Stats(); s.Unmetered != 0 || s.Admitted != 1 {
		t.Errorf("stats %+v", s)
	}
	if err := h.srv.Start(); err != nil {
		t.Fatal(err)
	}
	next.eventually("the settlement", func(s core.Stats) bool { return s.Settled == 1 })
}

// A configuration of another application, or one that can't be read, is not used.
func TestKeptConfigurationOfOthers(t *testing.T) {
	for name, text := range map[string]string{
		"another key": `{"key":"00","policies":{},"routes":{},"blocks":{}}`,
		"no JSON":     `{"key"`,
		"malformed":   `{"key":"2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683","policies":[],"routes":{},"blocks":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "configuration.json"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			srv := sockettest.New(t)
			srv.Stop()
			h := joinHarness(t, srv, func(c *core.Config) { c.SpoolDir = dir })
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := h.flow.Ready(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			if said := h.logs.Count("can't be read"); (said == 1) == (name == "another key") {
				t.Errorf("log:\n%s", h.logs)
			}
		})
	}
}

// Ready waits for the configuration, and says what is missing.
func TestReady(t *testing.T) {
	srv := sockettest.New(t)
	answer := make(chan struct{})
	srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeGetPolicies {
			return sockettest.Default().After(answer)
		}
		return sockettest.Default()
	})
	h := joinHarness(t, srv, func(c *core.Config) { c.Timeout = 20 * time.Millisecond })
	h.eventually("the reason", func(core.Stats) bool { // once a try has failed
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		err := h.flow.Ready(ctx)
		return errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), socket.TypeGetPolicies)
	})
	close(answer)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := h.flow.Ready(ctx); err != nil {
		t.Error(err)
	}
}
