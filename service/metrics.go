package service

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are what /metrics tells. Their labels are names of the configuration and words of this package: never an identity, an
// alias or anything else that a client makes up, so that there are only so many series.
type metrics struct {
	http.Handler

	reservations *prometheus.CounterVec // by application, policy and outcome
	settlements  *prometheus.CounterVec // by application and state
	charged      *prometheus.CounterVec // by application, in units
	flagged      *prometheus.CounterVec // by application and flag
	latency      prometheus.Histogram   // of reservations, in seconds
}

func newMetrics(s *Service) *metrics {
	registry := prometheus.NewRegistry()
	m := &metrics{
		reservations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usageflow_reservations_total", Help: "Reservations that were decided. The policy is that of the limit, none where there is no limit. Agents remember a denial and answer what comes until the reset by themselves: those requests are not here, but in the agents' Stats.",
		}, []string{"application", "policy", "outcome"}),
		settlements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usageflow_settlements_total", Help: "Settlements that were recorded, repeats left out.",
		}, []string{"application", "state"}),
		charged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usageflow_charged_units_total", Help: "Usage that was charged, in the policies' units.",
		}, []string{"application"}),
		flagged: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "usageflow_flagged_settlements_total", Help: "Settlements that were never reserved (unreserved) or came after the reservation had expired (late).",
		}, []string{"application", "flag"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "usageflow_reservation_seconds", Help: "Time from a reservation's message to its durable decision.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12),
		}),
	}
	gauge := func(name, help string, of func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, of)
	}
	counter := func(name, help string, of func() uint64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(of()) })
	}
	registry.MustRegister(
		m.reservations, m.settlements, m.charged, m.flagged, m.latency,
		gauge("usageflow_connections", "Agents' connections.", func() float64 { return float64(s.connections()) }),
		gauge("usageflow_ledgers", "Ledgers that exist.", func() float64 { return float64(s.ledger.Counters().Ledgers) }),
		gauge("usageflow_held_allocations", "Allocations that are held.", func() float64 { return float64(s.ledger.Counters().Held) }),
		gauge("usageflow_queued_operations", "Operations that wait for the store.", func() float64 { return float64(s.ledger.Counters().Queued) }),
		counter("usageflow_commits_total", "Transactions of the store; each holds many operations.", func() uint64 { return s.ledger.Counters().Commits }),
		counter("usageflow_expired_allocations_total", "Allocations that were held too long.", func() uint64 { return s.ledger.Counters().Expired }),
		counter("usageflow_store_failures_total", "Operations that the store failed.", s.counts.failures.Load),
		counter("usageflow_refused_messages_total", "Messages that were answered with an error other than a denial.", s.counts.refused.Load),
		counter("usageflow_unauthorized_total", "Handshakes without a key that is known.", s.counts.unauthorized.Load),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	m.Handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return m
}

// decided counts a decision. A repeated one was counted before.
func (m *metrics) decided(application string, d *Decision, took time.Duration) {
	if d.Repeated {
		return
	}
	policy, outcome := "none", "allowed"
	if d.Limited {
		policy = d.Policy
	}
	if !d.Allowed {
		outcome = "denied"
	}
	m.reservations.WithLabelValues(application, policy, outcome).Inc()
	m.latency.Observe(took.Seconds())
}

func (m *metrics) settled(application string, r *Receipt) {
	if r.Repeated {
		return
	}
	m.settlements.WithLabelValues(application, r.State.String()).Inc()
	m.charged.WithLabelValues(application).Add(r.Amount.Units())
	for _, flag := range r.Flags.Names() {
		m.flagged.WithLabelValues(application, flag).Inc()
	}
}
