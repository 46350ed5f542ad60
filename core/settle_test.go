package core_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A settlement is sent again, under the same id, until it is confirmed: after errors, silence, lost replies.
func TestSettlementsAreSentUntilConfirmed(t *testing.T) {
	for name, reply := range map[string]sockettest.Reply{
		"refused": sockettest.Error("internal", "no"), "silence": sockettest.Silence(),
		"reply lost": sockettest.Drop(), "closed": sockettest.CloseWith(1012, "restart"), "not JSON": sockettest.Raw([]byte("what?")),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := bubble(t, nil)
				h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
					if m.Type == socket.TypeUseAllocation && h.srv.Count(socket.TypeUseAllocation) <= 4 {
						return reply
					}
					return sockettest.Default()
				})
				h.do(h.route("/x", ok), get("/x"))
				synctest.Wait()
				if s := h.flow.Stats(); s.Pending != 1 {
					t.Errorf("stats %+v", s)
				}
				pass(5 * time.Minute)
				if s := h.flow.Stats(); s.Settled != 1 || s.Pending != 0 || s.Admitted != 1 {
					t.Errorf("stats %+v", s)
				}
				for _, u := range h.uses(5) {
					if u.AllocationID != h.uses(5)[0].AllocationID || u.Amount != 1 {
						t.Errorf("settlement %+v", u)
					}
				}
				check(t, h.srv)
				if n := h.logs.Count("refused a settlement"); (n == 1) != (name == "refused") {
					t.Errorf("log:\n%s", h.logs)
				}
			})
		})
	}
}

// A reply that comes late, after the settlement went out again and was confirmed, changes nothing.
func TestSettlementConfirmedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, nil)
		late := make(chan struct{})
		h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if m.Type == socket.TypeUseAllocation && h.srv.Count(socket.TypeUseAllocation) == 1 {
				return sockettest.Default().After(late)
			}
			return sockettest.Default()
		})
		h.do(h.route("/x", ok), get("/x"))
		pass(time.Minute)
		if s := h.flow.Stats(); s.Settled != 1 {
			t.Errorf("stats %+v", s)
		}
		close(late)
		synctest.Wait()
		if s := h.flow.Stats(); s.Settled != 1 || s.Pending != 0 || h.count(core.EventSettled) != 1 {
			t.Errorf("stats %+v", s)
		}
	})
}

// One settlement that the service never answers holds up no other.
func TestOneSettlementHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := bubble(t, nil)
		h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
			if strings.Contains(m.Use().Alias+m.Allocation().Alias, "/poison") {
				return sockettest.Silence()
			}
			return sockettest.Default()
		})
		for range 5 {
			h.do(h.route("/poison", ok), get("/poison"))
		}
		pass(3 * time.Minute)
		h.srv.DropAll()
		h.do(h.route("/x", ok), get("/x"))
		pass(3 * time.Minute)
		if s := h.flow.Stats(); s.Settled != 1 || s.Pending != 5 {
			t.Errorf("stats %+v", s)
		}
	})
}

// A metered reservation that is denied afterwards is settled all the same, counted and logged.
func TestLateDenial(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.Limit("GET /x", 1) })
	for range 3 {
		if w := h.do(h.route("/x", ok), get("/x")); w.Code != 200 {
			t.Errorf("got %d", w.Code)
		}
	}
	h.settled(3)
	h.wait("late denials", func(s core.Stats) bool { return s.LateDenials == 2 })
	if h.count(core.EventLateDenial) != 2 || h.logs.Count("denied a metered reservation") != 1 {
		t.Errorf("log:\n%s", h.logs)
	}
}

// What does not fit in memory is dropped, counted and logged.
func TestTooManySettlements(t *testing.T) {
	h := newHarness(t, nil, func(c *core.Config) { c.MaxPendingBytes, c.Timeout = 4_000, 100*time.Millisecond })
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeUseAllocation {
			return sockettest.Silence()
		}
		return sockettest.Default()
	})
	for range 20 {
		h.do(h.route("/x", ok), get("/x"))
	}
	h.wait("drops", func(s core.Stats) bool {
		return s.Dropped > 0 && h.count(core.EventDropped) == int(s.Dropped) && s.Dropped+s.Pending == 20
	})
	h.wait("all drops", func(s core.Stats) bool { return s.Dropped >= 14 })
	if s := h.flow.Stats(); s.Admitted != 20 || s.Pending < 1 || s.Pending > 6 {
		t.Errorf("stats %+v", s)
	}
	if n := h.logs.Count("settlements lost"); n != 1 || h.logs.Count("too many settlements are unconfirmed") != 1 {
		t.Errorf("log:\n%s", h.logs)
	}
}

// A service that takes reservations and answers none does not make the flow remember them all.
func TestUnansweredReservationsAreBounded(t *testing.T) {
	h := newHarness(t, nil, func(c *core.Config) { c.MaxMemoryBytes, c.PoolSize = 16<<20, 1 })
	h.srv.Handle(func(m sockettest.Message) sockettest.Reply {
		if m.Type == socket.TypeRequestForAllocation {
			return sockettest.Silence()
		}
		return sockettest.Default()
	})
	const n = 3_000
	handler := h.route("/x", ok)
	for range n {
		h.do(handler, get("/x"))
	}
	h.settled(n)
	asked := 0
	for _, m := range h.srv.Messages(socket.TypeRequestForAllocation) {
		if m.ID != "" {
			asked++
		}
	}
	if asked != 512 || h.srv.Count(socket.TypeRequestForAllocation) != n {
		t.Errorf("%d of %d reservations asked for an answer", asked, h.srv.Count(socket.TypeRequestForAllocation))
	}
	check(t, h.srv)
}
