//go:build linux

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	appMain()
	if err := command(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			os.Exit(1)
		}
	}
}

func command(args []string) (err error) {
	opts := options{rounds: 1, timeout: time.Second, out: os.Stderr}
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	minutes := flags.Float64("minutes", 0, "go on for that long; all faults are made once in any case")
	flags.Uint64Var(&opts.seed, "seed", rand.Uint64(), "of the faults' order and times, and of the requests")
	flags.DurationVar(&opts.lasts, "fault", 3*time.Second, "how long a fault lasts, about")
	flags.StringVar(&opts.only, "only", "", "make only the faults with that `text` in their names")
	log := flags.String("log", "", "write the logs of app and service to that `file`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 || opts.lasts <= 0 || *minutes < 0 {
		return errors.New("there are no arguments but flags, and no times below nothing; -help lists them")
	}
	if len(schedule(rand.New(rand.NewPCG(0, 0)), opts.only)) == 0 {
		return fmt.Errorf("there is no fault with %q in its name", opts.only)
	}
	opts.least = time.Duration(*minutes * float64(time.Minute))
	opts.log = io.Discard
	if *log != "" {
		f, err := os.Create(*log)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		opts.log = f
	}
	fmt.Fprintf(os.Stderr, "seed %d\n", opts.seed)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := execute(ctx, opts)
	r.table(os.Stdout)
	if err != nil {
		return fmt.Errorf("seed %d: %w", opts.seed, err)
	}
	if len(r.faulty) > 0 {
		return fmt.Errorf("seed %d: %d things are wrong", opts.seed, len(r.faulty))
	}
	return nil
}

// table writes what was seen, as a table in Markdown.
func (r *run) table(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	line := func(cells ...any) {
		for _, c := range cells {
			_, _ = fmt.Fprintf(w, "| %v\t", c)
		}
		_, _ = fmt.Fprintln(w, "|")
	}
	line("fault", "times", "requests", "p99 added, metered", "p99 added, limited", "longest", "without a decision", "denied", "decisions after")
	line("---", "---", "---", "---", "---", "---", "---", "---", "---")
	slices.Sort(r.order)
	for _, name := range r.order {
		row := r.rows[name]
		line(name, row.times, row.requests, median(row.metered), median(row.limited), milliseconds(row.longest), row.undecided, row.denied, median(row.recovered))
	}
	_ = w.Flush()
}

// median is that of durations, in words.
func median(list []time.Duration) string {
	if len(list) == 0 {
		return "-"
	}
	list = slices.Sorted(slices.Values(list))
	return milliseconds(max(list[len(list)/2], 0))
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
