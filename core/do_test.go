package core_test

import (
	"context"
	"errors"
	"math"
	"net/http"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func nop(context.Context) error { return nil }

func TestJobs(t *testing.T) {
	fail := errors.New("failed")
	for name, tc := range map[string]struct {
		job      core.Job
		fn       func(context.Context) error
		alias    string
		reserved float64
		amount   float64
		err      error
	}{
		"plain":             {core.Job{Name: "resize"}, nop, "JOB resize", 1, 1, nil},
		"identity":          {core.Job{Name: "resize", Identity: "acme inc"}, nop, "JOB resize acme inc", 1, 1, nil},
		"amount":            {core.Job{Name: "resize", Amount: 2.5}, nop, "JOB resize", 2.5, 2.5, nil},
		"amount of absence": {core.Job{Name: "resize", Amount: math.NaN()}, nop, "JOB resize", 1, 1, nil},
		"amount below zero": {core.Job{Name: "resize", Amount: -4}, nop, "JOB resize", 1, 1, nil},
		"set inside":        {core.Job{Name: "resize", Amount: 9}, func(ctx context.Context) error { core.FromContext(ctx).SetAmount(4); return nil }, "JOB resize", 9, 4, nil},
		"void inside":       {core.Job{Name: "resize"}, func(ctx context.Context) error { core.FromContext(ctx).Void(); return nil }, "JOB resize", 1, 0, nil},
		"an error":          {core.Job{Name: "resize"}, func(context.Context) error { return fail }, "JOB resize", 1, 1, fail},
		"a strange name":    {core.Job{Name: "a b%*{c}\n"}, nop, "JOB a%20b%25*{c}%0A", 1, 1, nil},
		"a path as a name":  {core.Job{Name: "/x/{id}"}, nop, "JOB /x/{id}", 1, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, func(s *sockettest.Server) {
				s.SetConfig(sockettest.Config{MonitoringPaths: []sockettest.Endpoint{{Method: "GET", URL: "/only"}}}) // jobs need no policy
			})
			if err := h.flow.Do(t.Context(), tc.job, tc.fn); err != tc.err {
				t.Errorf("got %v, want %v", err, tc.err)
			}
			u := h.use()
			if u.Alias != tc.alias || u.Amount != tc.amount || u.Metadata["method"] != "JOB" || u.Metadata["responseStatusCode"] != nil {
				t.Errorf("settlement %+v", u)
			}
			if r := h.srv.Messages(socket.TypeRequestForAllocation)[0].Allocation(); r.Alias != tc.alias || r.Amount != tc.reserved {
				t.Errorf("reservation %+v", r)
			}
			h.settled(1)
			check(t, h.srv)
		})
	}
}

// A job whose policy has a limit waits for the decision; a denial is a *DeniedError, and fn does not run.
func TestDeniedJob(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Type: "FUNCTION", Method: "POST", URL: "resize {big}", HasRateLimit: true}, limited(policy("JOB", "mail", "", "")))
		s.SetBlocked(sockettest.Endpoint{Method: "JOB", URL: "blocked"}, sockettest.Endpoint{Method: "JOB", URL: "mail", Identity: "evil"})
		s.Limit("JOB resize%20{big} acme", 2)
		s.Limit("JOB mail", 0)
	})
	ran := 0
	do := func(name, identity string) *core.DeniedError {
		err := h.flow.Do(t.Context(), core.Job{Name: name, Identity: identity}, func(context.Context) error { ran++; return nil })
		var denied *core.DeniedError
		if err != nil && !errors.As(err, &denied) {
			t.Errorf("%s: got %v", name, err)
		}
		return denied
	}
	for i := range 3 {
		if denied := do("resize {big}", "acme"); (denied != nil) != (i == 2) {
			t.Errorf("job %d: %v", i, denied)
		}
	}
	if denied := do("mail", ""); denied == nil || denied.Denial.Status != 429 || denied.Denial.Code != core.CodeRateLimited || denied.Error() == "" {
		t.Errorf("mail: %v", denied)
	}
	for _, identity := range []string{"", "acme"} {
		if denied := do("blocked", identity); denied == nil || denied.Denial.Status != 403 {
			t.Errorf("blocked: %v", denied)
		}
	}
	if denied := do("mail", "evil"); denied == nil || denied.Denial.Status != 403 {
		t.Errorf("a blocked caller: %v", denied)
	}
	if ran != 2 {
		t.Errorf("fn ran %d times", ran)
	}
	if s := h.settled(2); s.Denied != 2 || s.Blocked != 3 {
		t.Errorf("stats %+v", s)
	}
}

// A panic goes on, and is charged what was set so far, else nothing.
func TestJobPanics(t *testing.T) {
	h := newHarness(t, nil)
	for _, set := range []bool{false, true} {
		func() {
			defer func() {
				if v := recover(); v != "boom" {
					t.Errorf("recovered %v", v)
				}
			}()
			_ = h.flow.Do(t.Context(), core.Job{Name: "j"}, func(ctx context.Context) error {
				if set {
					core.FromContext(ctx).SetAmount(3)
				}
				panic("boom")
			})
		}()
	}
	if s := h.settled(2); s.Voided != 1 || s.Settled != 1 {
		t.Errorf("stats %+v", s)
	}
}

// A job that was done is charged, also where its context has ended meanwhile.
func TestJobOutlivesItsContext(t *testing.T) {
	h := newHarness(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	if err := h.flow.Do(ctx, core.Job{Name: "j"}, func(context.Context) error { cancel(); return nil }); err != nil {
		t.Error(err)
	}
	if u := h.use(); u.Amount != 1 {
		t.Errorf("amount %v", u.Amount)
	}
}

// A request and the jobs that it causes have their usageflowRequestId in common, and are charged each for itself.
func TestJobInsideARequest(t *testing.T) {
	h := newHarness(t, nil)
	h.do(h.route("/x", func(_ http.ResponseWriter, r *http.Request) {
		outer := core.FromContext(r.Context())
		_ = h.flow.Do(r.Context(), core.Job{Name: "j"}, func(ctx context.Context) error {
			core.FromContext(ctx).SetAmount(7)
			return h.flow.Do(ctx, core.Job{Name: "k"}, nop)
		})
		if core.FromContext(r.Context()) != outer || outer.RequestID() == "" {
			t.Error("the request's call has changed")
		}
	}), get("/x"))
	amounts := make(map[string]float64)
	ids := make(map[any]bool)
	for _, u := range h.uses(3) {
		amounts[u.Alias] = u.Amount
		ids[u.Metadata["usageflowRequestId"]] = true
	}
	if len(ids) != 1 || amounts["GET /x"] != 1 || amounts["JOB j"] != 7 || amounts["JOB k"] != 1 {
		t.Errorf("amounts %v, request ids %v", amounts, ids)
	}
}

// A large job that is denied says nothing of a small one, and a job needs a name.
func TestDenialHoldsForItsAmount(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.SetPolicies(sockettest.Policy{Type: "FUNCTION", Method: "*", URL: "render", HasRateLimit: true})
		s.Limit("JOB render", 100)
	})
	run := func(amount float64) error {
		return h.flow.Do(t.Context(), core.Job{Name: "render", Amount: amount}, func(context.Context) error { return nil })
	}
	var denied *core.DeniedError
	if err := run(500); !errors.As(err, &denied) {
		t.Fatalf("500 of 100: %v", err)
	}
	if err := run(600); !errors.As(err, &denied) {
		t.Fatalf("600 of 100: %v", err)
	}
	if n := h.srv.Count(socket.TypeRequestForAllocation); n != 1 {
		t.Errorf("the service was asked %d times, want once", n)
	}
	if err := run(40); err != nil {
		t.Errorf("40 of 100: %v", err)
	}
	if err := h.flow.Do(t.Context(), core.Job{}, nil); err == nil {
		t.Error("a job without a name: no error")
	}
}
