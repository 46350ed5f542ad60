package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
)

// fakeSides is a process's counts and a service's API that say what they are told to.
func fakeSides(t *testing.T, stats func(n int64) core.Stats, charged func(n int64) float64) (statsURL, api string) {
	var sn, cn atomic.Int64
	a := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(stats(sn.Add(1)))
	}))
	b := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/applications") {
			_, _ = w.Write([]byte(`{"applications":[{"name":"acme"}]}`))
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"usage": []any{map[string]any{"application": "acme", "amount": charged(cn.Add(1))}}})
	}))
	t.Cleanup(a.Close)
	t.Cleanup(b.Close)
	return a.URL, b.URL
}

// A process that was restarted between the two samples, or one large amount on its way, is no other process with the key.
func TestDoctorDoesNotGuess(t *testing.T) {
	for name, tc := range map[string]struct {
		stats   func(n int64) core.Stats
		charged func(n int64) float64
	}{
		"restart": {
			func(n int64) core.Stats {
				if n <= 3 { // look, and the first sample
					return core.Stats{Admitted: 100, Settled: 100, Amount: 100}
				}
				return core.Stats{Admitted: 2, Settled: 2, Amount: 2}
			},
			func(n int64) float64 { return map[bool]float64{true: 1000, false: 1002}[n == 1] },
		},
		"a large amount": { // of 5000, which is charged in between, and not confirmed here yet
			func(int64) core.Stats { return core.Stats{Admitted: 101, Settled: 100, Pending: 1, Amount: 100} },
			func(n int64) float64 { return map[bool]float64{true: 100, false: 5100}[n <= 20] }, // the tries of the first sample
		},
	} {
		t.Run(name, func(t *testing.T) {
			stats, api := fakeSides(t, tc.stats, tc.charged)
			out, _, _ := newProgram(t, "USAGEFLOW_API_KEY=uf_key").run("doctor", "--url", "ws://127.0.0.1:1/ws", "--admin-url", api, "--stats", stats, "--for", "50ms")
			if strings.Contains(out, "another process has this application's key") || !strings.Contains(out, "try again") {
				t.Errorf("wrong verdict:\n%s", out)
			}
		})
	}
}

// Passwords in URLs, and the key, are not printed.
func TestDoctorPrintsNoSecrets(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_API_KEY=uf_key_secret", "USAGEFLOW_ADMIN_TOKEN=token_secret")
	p.write("usageflow.yaml", config)
	stats, api := fakeSides(t, func(int64) core.Stats { return core.Stats{Dropped: 1, Admitted: 1} }, func(int64) float64 { return 0 })
	withPassword := strings.Replace(stats, "http://", "http://ops:hunter2@", 1)
	for _, args := range [][]string{
		{"doctor", "--for", "50ms", "--url", "ws://127.0.0.1:1/ws", "--admin-url", api, "--stats", withPassword},
		{"doctor", "--for", "50ms", "--url", "http://ops:hunter2@127.0.0.1:1/ws"},
		{"doctor", "--for", "50ms", "--url", "ws://ops:hunter2@127.0.0.1:1/ws", "--stats", "http://ops:hunter2@127.0.0.1:1/"},
		{"doctor", "--for", "50ms", "--url", "ws://127.0.0.1:1/ws", "--admin-url", "http://ops:hunter2@127.0.0.1:1", "--stats", stats},
	} {
		out, errs, _ := p.run(args...)
		for _, secret := range []string{"hunter2", "uf_key_secret", "token_secret"} {
			if strings.Contains(out+errs, secret) {
				t.Errorf("%v: %s is in\n%s%s", args[3:], secret, out, errs)
			}
		}
	}
}
