package main

import (
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokersystem"
)

const (
	smallUpload = 64 << 20
	mostMemory  = 40 << 20 // of a process
	mostGrowth  = 1.1      // of the peak, from a small upload to a large one
)

// peaks is the memory of each part, before an upload and at most in it; the highest of all rounds.
type peaks struct {
	idle, most [broker.Parts]uint64
}

// measurePeaks uploads a little and a lot, in fresh processes each.
func (b *brokerBench) measurePeaks(c chosenCase) error {
	var (
		rows    [][]string
		targets []target
	)
	for _, system := range c.systems {
		if system != brokersystem.Socket && system != brokersystem.SocketTLS {
			continue
		}
		var each [2]peaks
		for i, size := range []int64{smallUpload, b.upload} {
			for range b.race.rounds {
				if err := each[i].measure(b.config(system, c.brokerCase), size); err != nil {
					return fmt.Errorf("%s: peak memory: %w", system, err)
				}
			}
			row := []string{fmt.Sprintf("%s, %d MiB", system, size>>20)}
			for part := range broker.Parts {
				row = append(row, mebibytes(each[i].idle[part]), mebibytes(each[i].most[part]))
			}
			rows = append(rows, row)
		}
		if each[0].most[broker.Broker] > 0 { // the system tells
			targets = append(targets, peakTargets(system, each[0], each[1])...)
		}
	}
	if len(rows) > 0 {
		fmt.Println("Peak memory in MiB (VmHWM, the program's own pages included), the highest of all rounds, fresh processes for each upload")
		printTable([]string{"", "broker: idle", "peak", "provider: idle", "peak", "client: idle", "peak"}, rows)
	}
	printTargets(targets)
	return nil
}

func (p *peaks) measure(cfg brokersystem.Config, size int64) error {
	remote, err := broker.Start(cfg)
	if err != nil {
		return err
	}
	idle, most, err := uploadPeaks(remote, size)
	for part := range broker.Parts {
		p.idle[part] = max(p.idle[part], idle[part].Peak)
		p.most[part] = max(p.most[part], most[part].Peak)
	}
	if closed := remote.Close(); err == nil {
		err = closed
	}
	return err
}

func uploadPeaks(remote *broker.Remote, size int64) (idle, most [broker.Parts]broker.Usage, err error) {
	if idle, err = remote.Usage(); err != nil {
		return idle, most, err
	}
	if _, err = remote.Upload(size); err != nil {
		return idle, most, err
	}
	most, err = remote.Usage()
	return idle, most, err
}

func peakTargets(system string, small, large peaks) []target {
	highest, growth := uint64(0), 0.0
	for part := range broker.Parts {
		highest = max(highest, large.most[part])
		growth = max(growth, float64(large.most[part])/float64(small.most[part]))
	}
	return []target{
		{
			what:    fmt.Sprintf("bulk: the peak of each process of %s below %s MiB", system, mebibytes(mostMemory)),
			got:     mebibytes(highest) + " MiB",
			reached: highest < mostMemory,
		},
		{
			what:    fmt.Sprintf("bulk: %s peaks no higher for the large upload than for %d MiB (at most x %.1f)", system, smallUpload>>20, mostGrowth),
			got:     fmt.Sprintf("x %.2f", growth),
			reached: growth <= mostGrowth,
		},
	}
}
