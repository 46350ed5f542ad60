package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokersystem"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
)

// A brokerCase is what all systems do in one table.
type brokerCase struct {
	name, what            string
	conns, inFlight, size int
	bulk                  bool
}

func brokerCases() []brokerCase {
	return []brokerCase{
		{name: "one", what: "64-byte echo, one in flight", conns: 1, inFlight: 1, size: 64},
		{name: "many", what: "64-byte echo, 64 in flight on one connection", conns: 1, inFlight: 64, size: 64},
		{name: "conns", what: "64-byte echo, 100 connections with one in flight each", conns: 100, inFlight: 1, size: 64},
		{name: "one1k", what: "1 KiB echo, one in flight", conns: 1, inFlight: 1, size: 1 << 10},
		{name: "many1k", what: "1 KiB echo, 64 in flight on one connection", conns: 1, inFlight: 64, size: 1 << 10},
		{name: "conns1k", what: "1 KiB echo, 100 connections with one in flight each", conns: 100, inFlight: 1, size: 1 << 10},
		{name: "bulk", what: "one upload on one connection", conns: 1, inFlight: 1, bulk: true},
	}
}

// systems are the rows of the case's table.
func (c brokerCase) systems() []string {
	all := []string{
		brokersystem.Relay, brokersystem.IDs, brokersystem.NATS, brokersystem.GRPC, brokersystem.Socket, brokersystem.SocketTLS,
	}
	if c.bulk { // nats carries no message over 1 MiB
		return slices.DeleteFunc(all, func(system string) bool { return system == brokersystem.NATS })
	}
	return all
}

// runBroker measures requests, and bytes, through brokers.
func runBroker(args []string) error {
	flags := flag.NewFlagSet("broker", flag.ContinueOnError)
	r := newRace()
	r.laps, r.warmup, r.lap = 1, 500*time.Millisecond, time.Second
	r.flags(flags)
	names := flags.String("case", "", "measure only these, separated by commas: one, many, conns, one1k, many1k, conns1k, bulk")
	only := flags.String("system", "", "measure only these, separated by commas: relay, ids, nats, grpc, socket, socket+tls")
	size := flags.Int64("bytes", 1<<30, "size of the upload in bulk")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	if *size < 1<<20 || *size >= 1<<32 {
		return errors.New("bytes must be 1 MiB or more, and less than 4 GiB")
	}
	cases, err := chooseCases(*names, *only)
	if err != nil {
		return err
	}
	certificate, err := brokersystem.NewCertificate()
	if err != nil {
		return err
	}
	table.Head(os.Stdout, "Requests through a broker; client, broker and provider in three processes")
	b := &brokerBench{race: &r, upload: *size, certificate: certificate}
	for _, c := range cases {
		if err := b.run(c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	r.report(os.Stdout, b.all)
	fmt.Println("Every answer was compared with what was sent.")
	return nil
}

// chosenCase is a case with the systems that it is measured for.
type chosenCase struct {
	brokerCase
	systems []string
}

func chooseCases(names, systems string) ([]chosenCase, error) {
	var chosen []chosenCase
	for _, c := range brokerCases() {
		if !listed(names, c.name) {
			continue
		}
		rows := slices.DeleteFunc(c.systems(), func(system string) bool { return !listed(systems, system) })
		if len(rows) > 0 {
			chosen = append(chosen, chosenCase{c, rows})
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("nothing to measure in -case %q -system %q", names, systems)
	}
	return chosen, nil
}

// listed reports whether name is in a list that is separated by commas; an empty list has all.
func listed(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ","), name)
}

// brokerBench is one run of the benchmark.
type brokerBench struct {
	race        *race
	upload      int64
	certificate *brokersystem.Certificate
	all         [][]sample
}

func (b *brokerBench) run(c chosenCase) error {
	contenders := make([]contender, len(c.systems))
	for i, system := range c.systems {
		contenders[i] = contender{name: system, start: func() (runner, error) {
			return startBroker(b.config(system, c.brokerCase), c.size, b.upload)
		}}
	}
	samples, err := b.race.do(contenders)
	if err != nil {
		return err
	}
	b.all = append(b.all, samples...)
	rows := brokerRows{systems: c.systems, samples: samples}
	fmt.Printf("%s: %s\n", c.name, c.what)
	if !c.bulk {
		rows.printEcho()
		printTargets(echoTargets(c.name, rows))
		return nil
	}
	rows.printBulk()
	printTargets(bulkTargets(c.name, rows))
	return b.measurePeaks(c)
}

func (b *brokerBench) config(system string, c brokerCase) brokersystem.Config {
	cfg := brokersystem.Config{System: system, Conns: c.conns, InFlight: c.inFlight, Bulk: c.bulk}
	if system == brokersystem.SocketTLS {
		cfg.Certificate = b.certificate
	}
	return cfg
}

// brokerRunner is a system's three processes.
type brokerRunner struct {
	remote *broker.Remote
	size   int
	upload int64 // 0: requests
	warm   bool
}

func startBroker(cfg brokersystem.Config, size int, upload int64) (runner, error) {
	remote, err := broker.Start(cfg)
	if err != nil {
		return nil, err
	}
	if !cfg.Bulk {
		upload = 0
	}
	return &brokerRunner{remote: remote, size: size, upload: upload}, nil
}

// run takes d for requests; an upload takes as long as it takes, and the first one, the warm-up, is a small one.
func (b *brokerRunner) run(d time.Duration) (sample, error) {
	before, err := b.remote.Usage()
	if err != nil {
		return sample{}, err
	}
	var s sample
	if b.upload > 0 {
		s, err = b.send()
	} else {
		s, err = b.echo(d)
	}
	if err != nil {
		return sample{}, err
	}
	after, err := b.remote.Usage()
	for i := range after {
		s.parts[i] = after[i].Since(before[i])
		s.allCPU += s.parts[i].CPU
	}
	return s, err
}

func (b *brokerRunner) echo(d time.Duration) (sample, error) {
	r, err := b.remote.Run(b.size, d)
	return sample{count: r.Requests, elapsed: r.Elapsed, p50: r.P50, p99: r.P99}, err
}

func (b *brokerRunner) send() (sample, error) {
	size := b.upload
	if !b.warm {
		b.warm, size = true, b.upload/16
	}
	u, err := b.remote.Upload(size)
	return sample{count: int(size), elapsed: u.Elapsed}, err
}

func (b *brokerRunner) close() error { return b.remote.Close() }
