package main

import (
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// handler answers /healthz, /readyz and /metrics. Nothing in them is a secret or a client's own word: labels are words of this program.
func (b *broker) handler() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(brokerCollector{b}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if reason := b.unready(); reason != "" {
			answer(w, http.StatusServiceUnavailable, reason)
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return mux
}

func answer(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	fmt.Fprintln(w, text)
}

// unready says why clients should not be sent here, "" where they should.
func (b *broker) unready() string {
	switch {
	case b.draining.Load():
		return "the broker drains"
	case b.pool == nil:
		return ""
	case !b.pool.IsConnected():
		return "the service is not connected"
	case !sidecarConnected(b.server.Stats()):
		return "the sidecar is not connected to its broker"
	}
	return ""
}

// sidecarConnected says whether the sidecar's channel has its provider.
func sidecarConnected(stats socket.ServerStats) bool {
	for _, channel := range stats.Channels {
		if channel.ID == socket.SidecarChannel {
			return channel.Providers > 0
		}
	}
	return false
}

// What /metrics tells of a broker.
var (
	brokerConnections = brokerMetric("connections", "Clients' connections; role none is of those in their handshake.", "role")
	brokerChannels    = brokerMetric("channels", "Channels with a client.")
	brokerLinks       = brokerMetric("mesh_links", "Connections to and from other brokers.")
	brokerStreams     = brokerMetric("streams", "Requests that run.")
	brokerRequests    = brokerMetric("requests_total", "Requests that are over, by how they ended.", "outcome")
	brokerRefused     = brokerMetric("refused_clients_total", "Clients that were not let in, or were sent away.", "reason")
	brokerBytes       = brokerMetric("bytes_total", "Bytes of clients' connections, frame headers included.", "direction")
	brokerDiscarded   = brokerMetric("discarded_bytes_total", "Bytes that came when nobody waited for them any more.")
	brokerReserved    = brokerMetric("reserved_bytes", "Bytes of the budget (--max-memory) that requests have reserved.")
	brokerBudget      = brokerMetric("reserved_bytes_limit", "The budget.")
	brokerSidecar     = brokerMetric("sidecar_connected", "1 where workers reach the service: the pool is connected, and the sidecar answers. Without a key there is no sidecar.")
)

func brokerMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("usageflow_broker_"+name, help, labels, nil)
}

// brokerCollector makes all metrics out of one look at the server, which costs something.
type brokerCollector struct{ broker *broker }

func (c brokerCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c brokerCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.broker.server.Stats()
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	counter := func(desc *prometheus.Desc, value uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(value), labels...)
	}
	gauge(brokerConnections, float64(s.Consumers), "consumer")
	gauge(brokerConnections, float64(s.Providers), "provider")
	gauge(brokerConnections, float64(s.Handshakes), "none")
	gauge(brokerChannels, float64(len(s.Channels)))
	gauge(brokerLinks, float64(s.Links))
	gauge(brokerStreams, float64(s.Streams))
	for outcome, n := range map[string]uint64{
		"completed": s.Requests.Completed, "failed": s.Requests.Failed, "no_provider": s.Requests.NoProvider, "busy": s.Requests.Busy,
		"draining": s.Requests.Draining, "provider_lost": s.Requests.ProviderLost, "expired": s.Requests.Expired, "cancelled": s.Requests.Cancelled,
	} {
		counter(brokerRequests, n, outcome)
	}
	for reason, n := range map[string]uint64{
		"unauthorized": s.Refused.Unauthorized, "full": s.Refused.Full, "evicted": s.Refused.Evicted, "violation": s.Refused.Violations,
	} {
		counter(brokerRefused, n, reason)
	}
	counter(brokerBytes, s.BytesIn, "in")
	counter(brokerBytes, s.BytesOut, "out")
	counter(brokerDiscarded, s.Discarded)
	gauge(brokerReserved, float64(s.Reserved))
	gauge(brokerBudget, float64(c.broker.options.memory))
	if c.broker.pool == nil {
		return
	}
	connected := 0.0
	if c.broker.pool.IsConnected() && sidecarConnected(s) {
		connected = 1
	}
	gauge(brokerSidecar, connected)
}
