package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// The program pushes what was settled to a receiver, which is a double here.
func TestExports(t *testing.T) {
	got := make(chan string, 16)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got <- r.URL.Path + " " + r.Header.Get("Authorization") + " " + string(body)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer receiver.Close()
	p := newProgram(t, cloudEventsTokenEnv+"=events-secret", stripeKeyEnv+"=stripe-secret")
	if _, stderr, status := newProgram(t).run("serve", "--export-stripe", "calls"); status != 1 || !strings.Contains(stderr, stripeKeyEnv) {
		t.Errorf("without a key: %d %s", status, stderr)
	}
	if _, stderr, status := p.run("serve", "--export-cloudevents", "elsewhere"); status != 1 || !strings.Contains(stderr, "--export-cloudevents") {
		t.Errorf("no URL: %d %s", status, stderr)
	}
	p.write("usageflow.yaml", "applications: [{name: acme, keys: [uf_key_for_tests]}]")
	s := p.serve("--listen", "127.0.0.1:0", "--export-cloudevents", receiver.URL+"/events", "--export-stripe", "calls", "--stripe-url", receiver.URL+"/stripe")
	m := pool(t, s.agent, "uf_key_for_tests")
	reserve(t, m, "GET /x cus_ann", "exported")
	if resp, err := m.Call(t.Context(), &socket.UsageFlowSocketMessage{
		Type: socket.TypeUseAllocation, Payload: &socket.UseAllocationRequest{Alias: "GET /x cus_ann", Amount: 3, AllocationID: "exported"},
	}); err != nil || resp.Error != "" {
		t.Fatalf("%+v, %v", resp, err)
	}
	seen := ""
	for timeout := time.After(patience); !strings.Contains(seen, "/events") || !strings.Contains(seen, "/stripe"); {
		select {
		case request := <-got:
			seen += request + "\n"
		case <-timeout:
			t.Fatalf("the exports have not come: %s\n%s", seen, s.log)
		}
	}
	for _, want := range []string{`/events Bearer events-secret`, `"id":"acme/exported"`, `/stripe Bearer stripe-secret`, "payload%5Bvalue%5D=3", "payload%5Bstripe_customer_id%5D=cus_ann"} {
		if !strings.Contains(seen, want) {
			t.Errorf("%s is not in %s", want, seen)
		}
	}
	if log := s.log.String(); strings.Contains(log, "secret") {
		t.Errorf("a secret is in the log: %s", log)
	}
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}
