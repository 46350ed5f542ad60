package main

import (
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokersystem"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
)

// brokerRows are the samples of one case, a row for each system.
type brokerRows struct {
	systems []string
	samples [][]sample
}

// of returns a system's samples, nil if it was not measured.
func (r brokerRows) of(system string) []sample {
	for i, name := range r.systems {
		if name == system {
			return r.samples[i]
		}
	}
	return nil
}

// against is the ratio of rates to another row's, as text.
func (r brokerRows) against(own []sample, system, format string, scale float64) string {
	base := r.of(system)
	if base == nil {
		return "-"
	}
	return ratio(own, base, format, scale, sample.rate)
}

func (r brokerRows) printEcho() {
	head := []string{"", "requests/s", "lowest-highest", "of relay", "x nats", "p50 µs", "p99 µs", "CPU µs: broker", "provider", "client",
		"allocs: broker", "provider", "client"}
	var rows [][]string
	for i, system := range r.systems {
		own := r.samples[i]
		row := []string{
			system,
			median(own, "%.0f", sample.rate),
			table.Spread("%.0f", column(own, sample.rate)),
			r.against(own, brokersystem.Relay, "%.1f %%", 100),
			r.against(own, brokersystem.NATS, "%.2f", 1),
			median(own, "%.1f", sample.p50Micros),
			median(own, "%.1f", sample.p99Micros),
		}
		for part := range broker.Parts {
			row = append(row, median(own, "%.2f", partMicros(part)))
		}
		for part := range broker.Parts {
			row = append(row, median(own, "%.2f", partAllocs(part, 1)))
		}
		rows = append(rows, row)
	}
	printTable(head, rows)
}

func (r brokerRows) printBulk() {
	head := []string{"", "GB/s", "lowest-highest", "of relay", "x grpc", "CPU ms/GB: broker", "provider", "client",
		"allocs per 64 KiB: broker", "provider", "client"}
	var rows [][]string
	for i, system := range r.systems {
		own := r.samples[i]
		row := []string{
			system,
			median(own, "%.2f", gigabytes),
			table.Spread("%.2f", column(own, gigabytes)),
			r.against(own, brokersystem.Relay, "%.1f %%", 100),
			r.against(own, brokersystem.GRPC, "%.2f", 1),
		}
		for part := range broker.Parts {
			micros := partMicros(part)
			row = append(row, median(own, "%.0f", func(s sample) float64 { return 1e6 * micros(s) }))
		}
		for part := range broker.Parts {
			row = append(row, median(own, "%.2f", partAllocs(part, brokerload.Block)))
		}
		rows = append(rows, row)
	}
	printTable(head, rows)
}

func (s sample) p50Micros() float64 { return float64(s.p50.Nanoseconds()) / 1e3 }
func (s sample) p99Micros() float64 { return float64(s.p99.Nanoseconds()) / 1e3 }

func gigabytes(s sample) float64 { return s.rate() / 1e9 }

// partMicros is the CPU time of a part for each that s counts.
func partMicros(part int) func(sample) float64 {
	return func(s sample) float64 { return float64(s.parts[part].CPU.Nanoseconds()) / 1e3 / float64(s.count) }
}

// partAllocs is the number of allocations of a part for every n that s counts.
func partAllocs(part, n int) func(sample) float64 {
	return func(s sample) float64 { return float64(n) * float64(s.parts[part].Mallocs) / float64(s.count) }
}

// mebibytes is a size as text, "-" where it is not known.
func mebibytes(bytes uint64) string {
	if bytes == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(bytes)/(1<<20))
}
