package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/machine"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
)

// A machine that others use is faster at one time than at another, so what is compared takes turns: in each
// round the processes of all contenders are started and warmed up; then come laps, in each of which every
// contender runs for a short time. Ratios are taken within a lap.

// A contender is a row of a table.
type contender struct {
	name    string
	start   func() (runner, error)
	against int // the contender that it is compared with
}

// A runner is a contender's processes.
type runner interface {
	// run measures for about d.
	run(d time.Duration) (sample, error)
	close() error
}

// A sample is what one contender did in one lap.
type sample struct {
	count      int           // requests or messages, all of them answered; bytes, where they are what counts
	elapsed    time.Duration // until the last was done
	drain      time.Duration // the part of elapsed after the last response
	cpu        time.Duration // of the process that is measured
	serviceCPU time.Duration
	allCPU     time.Duration // of all the contender's processes
	mallocs    uint64        // of the process that is measured
	bytes      uint64
	others     float64 // the part of the machine that other processes used meanwhile

	p50, p99 time.Duration              // of the time to an answer
	parts    [broker.Parts]broker.Usage // of a broker's processes
}

func (s sample) rate() float64   { return float64(s.count) / s.elapsed.Seconds() }
func (s sample) micros() float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / float64(s.count) }
func (s sample) serviceMicros() float64 {
	return float64(s.serviceCPU.Nanoseconds()) / 1e3 / float64(s.count)
}
func (s sample) drainMillis() float64 { return float64(s.drain.Microseconds()) / 1e3 }
func (s sample) allocsEach() float64  { return float64(s.mallocs) / float64(s.count) }
func (s sample) bytesEach() float64   { return float64(s.bytes) / float64(s.count) }

// A race says how long and how often to measure.
type race struct {
	rounds, laps int
	warmup, lap  time.Duration
	quiet        int           // percent
	patience     time.Duration // what is left of it
	repeated     int
}

func newRace() race {
	return race{
		rounds: 5, laps: 8, warmup: time.Second, lap: 500 * time.Millisecond, quiet: 10, patience: 3 * time.Minute,
	}
}

// flags has what r is as the defaults.
func (r *race) flags(f *flag.FlagSet) {
	f.IntVar(&r.rounds, "rounds", r.rounds, "how often all processes are started")
	f.IntVar(&r.laps, "laps", r.laps, "how often everything is measured in a round; the table shows medians over all laps")
	f.DurationVar(&r.warmup, "warmup", r.warmup, "time of each contender before a round's laps")
	f.DurationVar(&r.lap, "lap", r.lap, "time of each contender in a lap")
	f.IntVar(&r.quiet, "others", r.quiet, "measure again if other processes have used more than this percentage of the machine meanwhile (Linux)")
	f.DurationVar(&r.patience, "patience", r.patience, "how long to wait in all for the machine to be quiet; after that, the least disturbed samples are taken")
}

func (r *race) check() error {
	if r.rounds < 1 || r.laps < 1 || r.warmup <= 0 || r.lap <= 0 {
		return errors.New("rounds, laps, warmup and lap must be more than nothing")
	}
	return nil
}

// do runs the race. The result has a row for each contender and a column for each lap.
func (r *race) do(contenders []contender) ([][]sample, error) {
	samples := make([][]sample, len(contenders))
	for round := range r.rounds {
		if err := r.round(contenders, round, samples); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

func (r *race) round(contenders []contender, round int, samples [][]sample) (err error) {
	runners := make([]runner, len(contenders))
	defer func() {
		for _, runner := range runners {
			if runner != nil {
				err = errors.Join(err, runner.close())
			}
		}
	}()
	for i, c := range contenders {
		if runners[i], err = c.start(); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		if _, err := runners[i].run(r.warmup); err != nil {
			return fmt.Errorf("%s: warm-up: %w", c.name, err)
		}
	}
	for lap := range r.laps {
		for i := range contenders {
			i = (i + round + lap) % len(contenders) // none always comes first
			s, err := r.measure(runners[i])
			if err != nil {
				return fmt.Errorf("%s: %w", contenders[i].name, err)
			}
			samples[i] = append(samples[i], s)
		}
	}
	return nil
}

// measure repeats a measurement that other processes have disturbed.
func (r *race) measure(runner runner) (best sample, err error) {
	for try := 0; ; try++ {
		var s sample
		others, err := watch(func() (time.Duration, error) {
			s, err = runner.run(r.lap)
			return s.allCPU, err
		})
		if err != nil {
			return s, err
		}
		if s.count == 0 {
			return s, errors.New("nothing was answered")
		}
		s.others = others
		if try == 0 || s.others < best.others {
			best = s
		}
		if !r.disturbed(best.others) || r.patience <= 0 {
			r.repeated += try
			return best, nil
		}
		if err := r.awaitQuiet(); err != nil {
			return best, err
		}
	}
}

// awaitQuiet returns when other processes leave the machine alone, or when patience is at its end.
func (r *race) awaitQuiet() error {
	const look = 100 * time.Millisecond
	r.patience -= r.lap
	for r.patience > 0 {
		r.patience -= look
		others, err := watch(func() (time.Duration, error) {
			time.Sleep(look)
			return 0, nil
		})
		if err != nil || !r.disturbed(others) {
			return err
		}
	}
	return nil
}

func (r *race) disturbed(others float64) bool { return 100*others > float64(r.quiet) }

// watch runs fn, which says how much CPU time of other processes it accounts for. It returns the part of
// the machine that is not accounted for, 0 where the system doesn't tell.
func watch(fn func() (time.Duration, error)) (float64, error) {
	start := time.Now()
	busy, known := machine.Busy()
	own, err := child.CPU()
	if err != nil {
		return 0, err
	}
	accounted, err := fn()
	if err != nil {
		return 0, err
	}
	ownAfter, err := child.CPU()
	if err != nil {
		return 0, err
	}
	after, knownAfter := machine.Busy()
	if !known || !knownAfter {
		return 0, nil
	}
	others := (after - busy) - (ownAfter - own) - accounted
	return max(0, others.Seconds()/(time.Since(start).Seconds()*float64(runtime.NumCPU()))), nil
}

// report prints how it was measured.
func (r *race) report(w io.Writer, all [][]sample) {
	var others []float64
	for _, samples := range all {
		others = append(others, column(samples, func(s sample) float64 { return 100 * s.others })...)
	}
	fmt.Fprintf(w, "Medians of %d laps of %v in %d rounds after %v of warm-up; ratios are medians of the laps' own.\n"+
		"Other processes used %.0f %% of the machine meanwhile (%s %%); %d disturbed measurements were repeated.\n",
		r.laps*r.rounds, r.lap, r.rounds, r.warmup, table.Median(others), table.Spread("%.0f", others), r.repeated)
}

func column(samples []sample, of func(sample) float64) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = of(s)
	}
	return values
}

func median(samples []sample, format string, of func(sample) float64) string {
	return fmt.Sprintf(format, table.Median(column(samples, of)))
}

// ratio is the median of the laps' ratios of two contenders, as text.
func ratio(own, base []sample, format string, scale float64, of func(sample) float64) string {
	return fmt.Sprintf(format, scale*medianRatio(own, base, of))
}

func medianRatio(own, base []sample, of func(sample) float64) float64 {
	ratios := make([]float64, len(own))
	for lap := range own {
		ratios[lap] = of(own[lap]) / of(base[lap])
	}
	return table.Median(ratios)
}

// cpuClock reads the CPU time of several processes.
type cpuClock []*child.Process

func (c cpuClock) read() ([]time.Duration, error) {
	times := make([]time.Duration, len(c))
	var err error
	for i, p := range c {
		if times[i], err = p.CPU(); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// since says what each has used since before, and all together.
func (c cpuClock) since(before []time.Duration) (each []time.Duration, all time.Duration, err error) {
	if each, err = c.read(); err != nil {
		return nil, 0, err
	}
	for i := range each {
		each[i] -= before[i]
		all += each[i]
	}
	return each, all, nil
}

// closeAll ends processes, in the order given.
func closeAll(processes ...*child.Process) error {
	var errs []error
	for _, p := range processes {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

func printTable(head []string, rows [][]string) {
	table.Print(os.Stdout, append([][]string{head}, rows...))
}
