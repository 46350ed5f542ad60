package main

import (
	"slices"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokersystem"
)

func TestChooseCases(t *testing.T) {
	for _, tt := range []struct {
		names, systems string
		want           int // rows in all; 0: an error
	}{
		{"", "", 6*6 + 5},
		{"one,bulk", "", 6 + 5},
		{"many", "socket,nats", 2},
		{"bulk", "nats", 0},
		{"none", "", 0},
	} {
		chosen, err := chooseCases(tt.names, tt.systems)
		got := 0
		for _, c := range chosen {
			got += len(c.systems)
		}
		if got != tt.want || (err != nil) != (tt.want == 0) {
			t.Errorf("chooseCases(%q, %q) has %d rows, %v; want %d", tt.names, tt.systems, got, err, tt.want)
		}
	}
}

func TestEchoTargets(t *testing.T) {
	lap := func(requests int, p99 time.Duration, allocs float64) []sample {
		s := sample{count: requests, elapsed: time.Second, p99: p99}
		s.parts[broker.Provider].Mallocs = uint64(allocs * float64(requests))
		return []sample{s}
	}
	rows := brokerRows{
		systems: []string{brokersystem.Relay, brokersystem.NATS, brokersystem.Socket, brokersystem.SocketTLS},
		samples: [][]sample{
			lap(2000, 1*time.Millisecond, 0), lap(1000, 3*time.Millisecond, 9), lap(1900, 2*time.Millisecond, 6), lap(1000, time.Second, 0),
		},
	}
	for _, tt := range []struct {
		name string
		want []bool
	}{
		{"one", []bool{true, false}}, // the rate, TLS
		{"many", []bool{true, true, false, true}},
		{"conns1k", []bool{true, false}},
	} {
		var got []bool
		for _, target := range echoTargets(tt.name, rows) {
			got = append(got, target.reached)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: targets reached %v, want %v", tt.name, got, tt.want)
		}
	}
	alone := brokerRows{systems: rows.systems[2:3], samples: rows.samples[2:3]}
	if got := echoTargets("one", alone); got != nil {
		t.Errorf("targets without a peer: %+v", got)
	}
}
