package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/fake"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/poolclient"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
)

// runPool measures SendAsync from 64 and 256 goroutines, beside prepared frames: as many at once as the
// connections take, and as many in flight as SendAsync has.
func runPool(args []string) error {
	flags := flag.NewFlagSet("pool", flag.ContinueOnError)
	r := newRace()
	r.flags(flags)
	conns := flags.Int("conns", 10, "connections")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	row := func(name string, client poolclient.Client) contender {
		client.Conns = *conns
		return contender{name: name, start: func() (runner, error) { return startPool(client) }}
	}
	contenders := []contender{
		row("raw pipelined frames", poolclient.Client{Raw: true}),
		row("raw, 64 in flight", poolclient.Client{Raw: true, InFlight: 64}),
		row("SendAsync, 64 goroutines", poolclient.Client{InFlight: 64}),
		row("raw, 256 in flight", poolclient.Client{Raw: true, InFlight: 256}),
		row("SendAsync, 256 goroutines", poolclient.Client{InFlight: 256}),
	}
	table.Head(os.Stdout, fmt.Sprintf("SendAsync over a pool of %d connections, the service in another process", *conns))
	samples, err := r.do(contenders)
	if err != nil {
		return err
	}
	var rows [][]string
	for i, c := range contenders {
		own := samples[i]
		rows = append(rows, []string{
			c.name,
			median(own, "%.0f", sample.rate),
			table.Spread("%.0f", column(own, sample.rate)),
			ratio(own, samples[c.against], "%.1f %%", 100, sample.rate),
			median(own, "%.2f", sample.micros),
			median(own, "%.1f", sample.allocsEach),
			median(own, "%.0f", sample.bytesEach),
			median(own, "%.2f", sample.serviceMicros),
		})
	}
	printTable([]string{"", "messages/s", "lowest-highest", "of raw", "client CPU µs", "allocs", "bytes", "service CPU µs"}, rows)
	r.report(os.Stdout, samples)
	fmt.Println("A message counts when its reply has been read.")
	return nil
}

// poolRunner is a client and the service that only it talks to.
type poolRunner struct {
	service *fake.Remote
	client  *child.Process
}

func startPool(client poolclient.Client) (runner, error) {
	service, err := fake.StartRemote(fake.Config{})
	if err != nil {
		return nil, err
	}
	client.URL = service.URL
	p := &poolRunner{service: service}
	if p.client, err = child.Start(poolclient.RoleName, client, nil); err != nil {
		return nil, errors.Join(err, service.Close())
	}
	return p, nil
}

func (p *poolRunner) run(d time.Duration) (sample, error) {
	if err := p.service.Reset(); err != nil {
		return sample{}, err
	}
	clock := cpuClock{p.client, p.service.Process}
	before, err := clock.read()
	if err != nil {
		return sample{}, err
	}
	var r poolclient.Result
	if err := p.client.Do("run", d, &r); err != nil {
		return sample{}, err
	}
	used, all, err := clock.since(before)
	if err != nil {
		return sample{}, err
	}
	counts, err := p.service.Counts()
	if err == nil && (counts.Reserved != r.Messages || counts.Broken > 0) {
		err = fmt.Errorf("%d messages were answered, but the service has seen %+v", r.Messages, counts)
	}
	return sample{
		count: r.Messages, elapsed: r.Elapsed, cpu: r.CPU, serviceCPU: used[1], allCPU: all,
		mallocs: r.Mallocs, bytes: r.Bytes,
	}, err
}

func (p *poolRunner) close() error { return closeAll(p.client, p.service.Process) }
