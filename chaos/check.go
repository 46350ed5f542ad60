//go:build linux

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// settle waits until everything is confirmed.
func (r *run) settle() error {
	return until(r.world.ctx, "everything is settled", func() error {
		s, err := r.world.report(false)
		if err == nil && s.Stats.Pending+s.Stats.Spooled != 0 {
			err = fmt.Errorf("%d are pending and %d spooled", s.Stats.Pending, s.Stats.Spooled)
		}
		return err
	})
}

// rest waits until there is nothing to do, and checks the sums, and what the app holds.
func (r *run) rest() error {
	if err := r.settle(); err != nil {
		return err
	}
	last, err := r.world.report(true)
	if err != nil {
		return err
	}
	s := last.Stats
	if s.Admitted != s.Settled+s.Voided+s.Pending+s.Spooled+s.Dropped {
		r.wrong("the app's counts don't add up: %+v", s)
	}
	dropped := r.dropped + s.Dropped
	ledgers, err := r.world.ledgers()
	if err != nil {
		return err
	}
	r.checkSums(ledgers, int(dropped))
	r.checkRest(last)
	return nil
}

// checkSums compares what the clients were answered with what the service has charged.
func (r *run) checkSums(ledgers map[string]ledger, dropped int) {
	total, missing, recent, unsure := 0, 0, 0, 0
	for _, alias := range slices.Sorted(maps.Keys(r.answered)) {
		charged, answered := int(ledgers[alias].Total), r.answered[alias]
		total += answered
		missing += answered - charged
		recent += r.recent[alias]
		unsure += r.unsure[alias]
		if charged > answered+r.unsure[alias] {
			r.wrong("%s: %d requests were answered, and %d are charged (%d were on their way when the app was killed)", alias, answered, charged, r.unsure[alias])
		}
		if answered-charged > r.recent[alias]+dropped {
			r.wrong("%s: %d requests were answered, and %d are charged (%d had ended in the last moments of an app that was killed; %d dropped)", alias, answered, charged, r.recent[alias], dropped)
		}
		if strings.HasPrefix(alias, "GET "+routeTight) && (answered > tightLimit || charged > tightLimit) {
			r.wrong("%s: the limit is %d, answered were %d, charged %d", alias, tightLimit, answered, charged)
		}
	}
	for alias := range ledgers {
		if _, ok := r.answered[alias]; !ok && r.unsure[alias] == 0 && ledgers[alias].Total > 0 {
			r.wrong("%s is charged, and nobody asked for it", alias)
		}
	}
	lost := missing - dropped
	if lost < -unsure || lost > recent {
		r.wrong("%d requests were answered, %d are not charged, and the app says that it has dropped %d (%d had ended in the last moments of an app that was killed, %d were on their way then)", total, missing, dropped, recent, unsure)
	}
	_, _ = fmt.Fprintf(r.out, "%d requests were answered, %d dropped; beside these, %d are not charged, of %d that had ended in the last %v of an app that was killed, and %d that were on their way then\n", total, dropped, lost, recent, lastMoments, unsure)
}

// checkRest compares what the app holds with what it did at first.
func (r *run) checkRest(last report) {
	r.load.client.CloseIdleConnections()
	for _, c := range []struct {
		what          string
		was, is, more int
	}{
		{"goroutines", r.baseline.Goroutines, last.Goroutines, 6},
		{"descriptors", r.baseline.Descriptors, last.Descriptors, 6},
		{"MiB of memory", int(r.baseline.HeapBytes >> 20), int(last.HeapBytes >> 20), 8},
	} {
		if c.is > c.was+c.more {
			r.wrong("at rest, the app has %d %s; before, it had %d", c.is, c.what, c.was)
		}
	}
}
