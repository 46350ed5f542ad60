package core_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A malformed refresh leaves the last good configuration in force, all of it, and is logged.
func TestMalformedConfiguration(t *testing.T) {
	for name, tc := range map[string]struct{ typ, reply string }{
		"an error":             {socket.TypeGetPolicies, `{"type":"error","replyTo":%s,"error":"internal"}`},
		"an error and lists":   {socket.TypeGetPolicies, `{"replyTo":%s,"error":"internal","payload":{"policies":[],"total":0}}`},
		"type error":           {socket.TypeGetConfig, `{"type":"error","replyTo":%s,"payload":{}}`},
		"a null payload":       {socket.TypeGetPolicies, `{"replyTo":%s,"payload":null}`},
		"no payload":           {socket.TypeGetConfig, `{"replyTo":%s}`},
		"an array":             {socket.TypeGetBlockedEndpoints, `{"replyTo":%s,"payload":[]}`},
		"a string":             {socket.TypeGetPolicies, `{"replyTo":%s,"payload":"{}"}`},
		"a list of one object": {socket.TypeGetPolicies, `{"replyTo":%s,"payload":{"policies":{"url":"/x"}}}`},
		"a list of strings":    {socket.TypeGetBlockedEndpoints, `{"replyTo":%s,"payload":{"endpoints":["/x"]}}`},
		"a list of numbers":    {socket.TypeGetConfig, `{"replyTo":%s,"payload":{"monitoringPaths":[1]}}`},
		"a url of numbers":     {socket.TypeGetPolicies, `{"replyTo":%s,"payload":{"policies":[{"url":7}]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := bubble(t, func(s *sockettest.Server) {
					s.SetPolicies(policy("GET", "/x", "headers", "X-User"))
					s.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/blocked"})
				})
				// The next refresh brings other lists, one of which is malformed.
				h.srv.SetPolicies()
				h.srv.SetBlocked()
				h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
					if m.Type == tc.typ {
						return sockettest.Raw(fmt.Appendf(nil, tc.reply, strconv.Quote(m.ID)))
					}
					return sockettest.Default()
				})
				pass(65 * time.Second)
				if w := h.do(h.route("/blocked", ok), get("/blocked")); w.Code != 403 {
					t.Errorf("got %d", w.Code)
				}
				h.do(h.route("/x", ok), get("/x", "X-User", "acme"))
				synctest.Wait()
				if u := h.use(); u.Alias != "GET /x acme" {
					t.Errorf("alias %q", u.Alias)
				}
				if n := h.logs.Count("the last good one stays in force"); n != 1 {
					t.Errorf("%d log lines:\n%s", n, h.logs)
				}
				h.srv.Handle(nil)
				pass(time.Minute)
				if w := h.do(h.route("/blocked", ok), get("/blocked")); w.Code != 200 || h.logs.Count("configuration is current again") != 1 {
					t.Errorf("after the fault: %d, log:\n%s", w.Code, h.logs)
				}
			})
		})
	}
}

// What a service may leave out, and what it may add.
func TestLenientConfiguration(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) {
		s.Handle(func(m sockettest.Message) sockettest.Reply {
			switch m.Type {
			case socket.TypeGetPolicies:
				return sockettest.OK(map[string]any{"policies": []any{map[string]any{
					"url": " /x ", "method": "get", "type": nil, "identityFieldName": "X-User", "identityFieldLocation": "headers",
					"responseTrackingField": "n", "new": []int{1},
				}}, "total": "one"})
			case socket.TypeGetConfig:
				return sockettest.OK(map[string]any{"monitoringPaths": nil})
			case socket.TypeGetBlockedEndpoints:
				return sockettest.OK(map[string]any{})
			}
			return sockettest.Default()
		})
	})
	h.do(h.route("/x", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"n":3}`)) }), get("/x", "X-User", "acme"))
	if u := h.use(); u.Alias != "GET /x acme" || u.Amount != 3 {
		t.Errorf("settlement %+v", u)
	}
}

// Policies, routes and blocks are fetched every 30 s.
func TestRefreshInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, nil)
		status := func() int { return h.do(h.route("/x", ok), get("/x")).Code }
		if got := status(); got != 200 {
			t.Errorf("got %d", got)
		}
		h.srv.SetBlocked(sockettest.Endpoint{Method: "GET", URL: "/x"})
		pass(29 * time.Second)
		if got := status(); got != 200 || h.srv.Count(socket.TypeGetPolicies) != 1 {
			t.Errorf("before the refresh: %d", got)
		}
		pass(2 * time.Second)
		if got := status(); got != 403 {
			t.Errorf("after the refresh: %d", got)
		}
		h.srv.SetBlocked()
		pass(30 * time.Second)
		if got := status(); got != 200 {
			t.Errorf("after the next: %d", got)
		}
		pass(9 * time.Minute)
		for _, typ := range []string{socket.TypeGetPolicies, socket.TypeGetConfig, socket.TypeGetBlockedEndpoints} {
			if n := h.srv.Count(typ); n != 21 {
				t.Errorf("%d of %s in ten minutes", n, typ)
			}
		}
	})
}

// Policies, routes and blocks of one refresh take effect together: never a request that sees a part of them.
func TestRefreshTakesEffectAsOne(t *testing.T) {
	var version atomic.Int64
	h := newHarness(t, func(s *sockettest.Server) {
		s.Handle(func(m sockettest.Message) sockettest.Reply {
			// In odd versions /a is blocked and /b is free; in even ones the other way round.
			odd := version.Load()%2 == 1
			switch m.Type {
			case socket.TypeGetPolicies:
				odd = version.Add(1)%2 == 1
				return sockettest.OK(map[string]any{"policies": []any{map[string]any{"method": "GET", "url": "/x", "identityFieldLocation": "headers", "identityFieldName": map[bool]string{true: "X-Odd", false: "X-Even"}[odd]}}})
			case socket.TypeGetConfig:
				return sockettest.OK(map[string]any{"whitelistEndpoints": []any{}})
			case socket.TypeGetBlockedEndpoints:
				return sockettest.OK(map[string]any{"endpoints": []any{map[string]any{"method": "GET", "url": "/x", "identity": map[bool]string{true: "odd", false: "even"}[odd]}}})
			}
			return sockettest.Default()
		})
	}, func(c *core.Config) { c.RefreshInterval = time.Microsecond })
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 500 {
				// Whichever version is in force, this caller is blocked.
				if w := h.do(h.route("/x", ok), get("/x", "X-Odd", "odd", "X-Even", "even")); w.Code != 403 {
					t.Errorf("got %d", w.Code)
				}
			}
		})
	}
	all.Wait()
	h.wait("many versions", func(core.Stats) bool { return h.count(core.EventConfigured) > 10 })
}

// Metering pauses while the account has reached its limit, and goes on afterwards.
func TestAccountReachLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, func(s *sockettest.Server) {
			limitReports(s)
			s.Limit("GET /reports", 0)
			s.SetConfig(sockettest.Config{AccountReachLimit: true})
		})
		if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != 200 || h.flow.Applies("GET", "/reports") {
			t.Errorf("got %d", w.Code)
		}
		if err := h.flow.Do(t.Context(), core.Job{Name: "j"}, nop); err != nil || h.flow.Stats().Admitted != 0 {
			t.Errorf("job: %v", err)
		}
		if h.logs.Count("the account has reached its limit") != 1 {
			t.Errorf("log:\n%s", h.logs)
		}
		h.srv.SetConfig(sockettest.Config{})
		pass(31 * time.Second)
		if w := h.do(h.route("/reports", ok), get("/reports")); w.Code != 429 {
			t.Errorf("got %d", w.Code)
		}
	})
}

// An answer that cannot be used is logged also where it comes after an outage.
func TestEachKindOfFailureIsLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := sockettest.New(t, sockettest.WithInMemory())
		srv.Handle(func(sockettest.Message) sockettest.Reply { return sockettest.Error("internal", "no") })
		srv.Stop()
		pool, err := socket.NewManager(socket.ManagerConfig{APIKey: "key", URL: "ws://service/ws", Dial: srv.Dial})
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		h := joinHarness(t, srv, func(c *core.Config) { c.Transport = pool })
		pass(time.Minute)
		if err := srv.Start(); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Minute)
		if n := h.logs.Count("usageflow has no configuration yet"); n != 2 || !strings.Contains(h.logs.String(), "the service refused: internal no") {
			t.Errorf("%d lines:\n%s", n, h.logs)
		}
	})
}
