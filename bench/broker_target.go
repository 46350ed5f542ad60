package main

import (
	"fmt"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokersystem"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
)

// A target is what this module's broker is to reach in a case.
type target struct {
	what    string
	got     string
	reached bool
}

func printTargets(targets []target) {
	for _, t := range targets {
		verdict := "reached"
		if !t.reached {
			verdict = "NOT reached"
		}
		fmt.Printf("target: %s: %s, %s\n", t.what, t.got, verdict)
	}
	if len(targets) > 0 {
		fmt.Println()
	}
}

const (
	leastOfRelay     = 0.95 // one
	leastOfNATS      = 1.6  // many
	leastOfNATSConns = 1.15 // conns
	leastOfRelayBulk = 0.6
	leastOfGRPCBulk  = 1.5
	leastOfPlain     = 0.6  // TLS
	mostAllocs       = 6.0  // of a process, for a request
	noAllocs         = 0.05 // a frame: what a lap allocates once, over its frames, is less
)

// echoTargets are those of a case whose both systems were measured.
func echoTargets(name string, rows brokerRows) []target {
	own := rows.of(brokersystem.Socket)
	var targets []target
	rate := func(system string, least float64) {
		targets = append(targets, rateTarget(name, own, brokersystem.Socket, rows.of(system), system, least)...)
	}
	shape := strings.TrimSuffix(name, "1k")
	switch shape {
	case "one":
		rate(brokersystem.Relay, leastOfRelay)
	case "many":
		rate(brokersystem.NATS, leastOfNATS)
		targets = append(targets, latencyTarget(name, own, rows.of(brokersystem.NATS))...)
	case "conns":
		rate(brokersystem.NATS, leastOfNATSConns)
	}
	targets = append(targets, tlsTarget(name, rows)...)
	if shape == "many" && own != nil {
		allocs := eachAllocs(own, 1)
		targets = append(targets, target{
			what:    fmt.Sprintf("%s: socket allocates at most %.0f times per request in each process", name, mostAllocs),
			got:     fmt.Sprintf("broker %.2f, provider %.2f, client %.2f", allocs[broker.Broker], allocs[broker.Provider], allocs[broker.Client]),
			reached: max(allocs[broker.Broker], allocs[broker.Provider], allocs[broker.Client]) <= mostAllocs,
		})
	}
	return targets
}

func bulkTargets(name string, rows brokerRows) []target {
	own := rows.of(brokersystem.Socket)
	targets := rateTarget(name, own, brokersystem.Socket, rows.of(brokersystem.Relay), brokersystem.Relay, leastOfRelayBulk)
	targets = append(targets, rateTarget(name, own, brokersystem.Socket, rows.of(brokersystem.GRPC), brokersystem.GRPC, leastOfGRPCBulk)...)
	targets = append(targets, tlsTarget(name, rows)...)
	if own != nil {
		allocs := eachAllocs(own, brokerload.Block)[broker.Broker]
		targets = append(targets, target{
			what:    name + ": socket's broker allocates nothing per data frame",
			got:     fmt.Sprintf("%.3f per 64 KiB", allocs),
			reached: allocs < noAllocs,
		})
	}
	return targets
}

func tlsTarget(name string, rows brokerRows) []target {
	return rateTarget(name, rows.of(brokersystem.SocketTLS), brokersystem.SocketTLS,
		rows.of(brokersystem.Socket), brokersystem.Socket, leastOfPlain)
}

// rateTarget is nothing if one of the two was not measured.
func rateTarget(name string, own []sample, ownName string, base []sample, baseName string, least float64) []target {
	if own == nil || base == nil {
		return nil
	}
	got := medianRatio(own, base, sample.rate)
	return []target{{
		what:    fmt.Sprintf("%s: %s at least %.2f of %s", name, ownName, least, baseName),
		got:     fmt.Sprintf("%.3f", got),
		reached: got >= least,
	}}
}

func latencyTarget(name string, own, base []sample) []target {
	if own == nil || base == nil {
		return nil
	}
	got, limit := table.Median(column(own, sample.p99Micros)), table.Median(column(base, sample.p99Micros))
	return []target{{
		what:    name + ": socket's p99 below nats'",
		got:     fmt.Sprintf("%.1f µs and %.1f µs", got, limit),
		reached: got < limit,
	}}
}

// eachAllocs is the median of each part's allocations for every n that is counted.
func eachAllocs(own []sample, n int) (each [broker.Parts]float64) {
	for part := range each {
		each[part] = table.Median(column(own, partAllocs(part, n)))
	}
	return each
}
