package core

import (
	"context"
	"log/slog"
	"runtime"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// answers is a transport that gives every message the same reply, after calling before.
type answers struct{ before func() }

func (a answers) Call(context.Context, *socket.UsageFlowSocketMessage) (*socket.UsageFlowSocketResponse, error) {
	a.before()
	return &socket.UsageFlowSocketResponse{Payload: map[string]any{}}, nil
}
func (answers) Notify(context.Context, *socket.UsageFlowSocketMessage) error { return nil }
func (answers) IsConnected() bool                                            { return true }
func (answers) Close() error                                                 { return nil }

// A request that is past its first look at the flow when Shutdown begins is either waited for or passes unmetered.
func TestAdmissionRacesWithShutdown(t *testing.T) {
	for _, limited := range []bool{false, true} {
		f, err := New(Config{Transport: answers{func() {}}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		c := f.newCall(t.Context(), limitedRule(limited), "", 1)
		f.stopped.Store(true)
		if call, denial := f.admit(t.Context(), c); call != nil || denial != nil {
			t.Errorf("limited %v: got %v, %v", limited, call, denial)
		}
		if s := f.Stats(); s.Admitted != 0 || s.Pending != 0 || f.deciding.Load() != 0 {
			t.Errorf("limited %v: stats %+v", limited, s)
		}
		if err := f.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// Shutdown waits for a decision that is under way, and then for its call.
func TestShutdownWaitsForDecisions(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	deciding := false
	f, err := New(Config{Logger: slog.New(slog.DiscardHandler), Transport: answers{func() {
		if deciding {
			deciding = false
			close(asked)
			<-answer
		}
	}}})
	if err != nil {
		t.Fatal(err)
	}
	f.current(t.Context()) // the configuration has been fetched
	deciding = true
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		call, _ := f.admit(t.Context(), f.newCall(t.Context(), limitedRule(true), "", 1))
		call.End(200)
	}()
	<-asked
	shut := make(chan error)
	go func() { shut <- f.Shutdown(t.Context()) }()
	for !f.stopped.Load() {
		runtime.Gosched() // until Shutdown has begun
	}
	select {
	case err := <-shut:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	close(answer)
	<-ended
	if err := <-shut; err != nil {
		t.Error(err)
	}
	if s := f.Stats(); s.Admitted != 1 || s.Settled != 1 || s.FailedOpen != 0 {
		t.Errorf("stats %+v", s)
	}
}

// limitedRule is the rule of GET /x, metered and, where limited says so, limited.
func limitedRule(limited bool) *rule {
	policies := []policy{{Method: "GET", URL: "/x", HasRateLimit: limited}}
	return newConfiguration(policies, nil, nil, nil, nil).rule("GET", "/x")
}
