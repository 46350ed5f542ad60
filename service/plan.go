package service

import (
	"context"
	"time"
)

// planTimeout bounds the look at what an application has used.
const planTimeout = time.Second

// capped says whether agents are to stop metering: because the configuration says so, or because the plan's cap is
// reached. Where the ledger does not answer they go on.
func (s *Service) capped(a *Application) bool {
	if a.AccountReachLimit || a.PlanCap == nil {
		return a.AccountReachLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), planTimeout)
	defer cancel()
	l, ok, err := s.ledger.Find(ctx, a.Name, planLedger)
	if err != nil {
		s.log.Warn("whether the plan's cap is reached is not known", "application", a.Name, "error", err)
	}
	if !ok {
		return false
	}
	for i := range l.Limits {
		if plan := &l.Limits[i]; plan.Soft && plan.Used >= a.PlanCap.Limit {
			return true
		}
	}
	return false
}
