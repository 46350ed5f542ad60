package core_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A flow, from start to end. A router's adapter does what stands in serve.
func Example() {
	srv, err := sockettest.NewServer() // in production, leave URL out: USAGEFLOW_URL says where the service is
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	flow, err := core.New(core.Config{APIKey: "key", URL: srv.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	mux := http.NewServeMux()
	serve := func(pattern string, handler http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			call, denial := flow.Begin(r.Context(), &core.Request{Request: r, Route: r.Pattern, Param: r.PathValue})
			if denial != nil {
				denial.ServeHTTP(w, r)
				return
			}
			if call == nil {
				handler(w, r)
				return
			}
			writer := call.Writer(w)
			defer func() {
				if v := recover(); v != nil {
					call.Abort()
					panic(v)
				}
				call.End(writer.Status())
			}()
			handler(writer, call.Request(r))
		})
	}
	serve("/tokens", func(w http.ResponseWriter, r *http.Request) {
		core.FromContext(r.Context()).SetAmount(42) // what it has really cost
	})
	mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/tokens", nil))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	fmt.Println(flow.Shutdown(ctx), flow.Stats().Settled)
	use := srv.Messages(socket.TypeUseAllocation)[0].Use()
	fmt.Println(use.Alias, use.Amount)
	// Output:
	// <nil> 1
	// GET /tokens 42
}

// A worker's jobs are metered like requests.
func ExampleFlow_Do() {
	srv, err := sockettest.NewServer()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer srv.Close()
	srv.SetPolicies(sockettest.Policy{Type: "FUNCTION", URL: "transcode", HasRateLimit: true})
	srv.Limit("JOB transcode acme", 90)
	flow, err := core.New(core.Config{APIKey: "key", URL: srv.URL})
	if err != nil {
		fmt.Println(err)
		return
	}
	job := core.Job{Name: "transcode", Identity: "acme", Amount: 60} // seconds of video
	for range 2 {
		err := flow.Do(context.Background(), job, func(ctx context.Context) error {
			core.FromContext(ctx).SetAmount(48.5)
			return nil
		})
		var denied *core.DeniedError
		if errors.As(err, &denied) {
			fmt.Println(denied.Denial.Status, denied.Denial.Header.Get("RateLimit-Policy"))
		}
	}
	fmt.Println(flow.Shutdown(context.Background()))
	fmt.Println(srv.Messages(socket.TypeUseAllocation)[0].Use().Amount)
	// Output:
	// 429 "default";q=90;w=60
	// <nil>
	// 48.5
}

// A customer's name in place of the hash of a secret, no charge for failures, and everything captured but secrets.
func ExampleConfig() {
	customers := map[string]string{"sk_live_1": "acme"}
	cfg := core.Config{
		APIKey: "key",
		Identify: func(r *core.Request) (string, bool) {
			name, ok := customers[r.Header.Get("X-Api-Key")]
			return name, ok
		},
		VoidStatus: func(status int) bool { return status >= 500 },
		Capture:    core.Capture{Headers: true, Query: true},
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("X-Api-Key", "sk_live_1")
	fmt.Println(cfg.Identify(&core.Request{Request: r}))
	// Output: acme true
}

// What a denial answers.
func ExampleDenial() {
	d := &core.Denial{Status: http.StatusTooManyRequests, Code: core.CodeRateLimited, Message: "Too many.", Header: http.Header{"Retry-After": {"7"}}}
	w := httptest.NewRecorder()
	d.ServeHTTP(w, nil)
	fmt.Println(w.Code, w.Header().Get("Retry-After"), w.Body)
	// Output: 429 7 {"error":"rate_limit_exceeded","message":"Too many."}
}
