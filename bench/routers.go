package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/app"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
)

// adapterTolerance bounds the ratio of an application's CPU time to that of its own bare router, over the same of Gin's.
const adapterTolerance = 1.10

// runRouters measures what each router's adapter costs over its bare router, over real HTTP.
func runRouters(args []string) error {
	flags := flag.NewFlagSet("routers", flag.ContinueOnError)
	r := newRace()
	r.flags(flags)
	conns := flags.Int("conns", 64, "keep-alive connections")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	variants := []app.Variant{app.Bare, app.Whitelisted, app.Metered, app.Limited}
	var contenders []contender
	for _, router := range app.Routers {
		bare := len(contenders)
		for _, v := range variants {
			contenders = append(contenders, contender{
				name: fmt.Sprintf("%s, %s", router, v), against: bare,
				start: func() (runner, error) { return startHTTP(router, v, *conns, false) },
			})
		}
	}
	table.Head(os.Stdout, fmt.Sprintf("The adapters over real HTTP, %d connections; load generator, app and service in three processes", *conns))
	samples, err := r.do(contenders)
	if err != nil {
		return err
	}
	over := func(i int) float64 { return medianRatio(samples[i], samples[contenders[i].against], sample.micros) }
	var rows [][]string
	for i, c := range contenders {
		own, base := samples[i], samples[c.against]
		row := []string{
			c.name,
			median(own, "%.0f", sample.rate),
			ratio(own, base, "%.1f %%", 100, sample.rate),
			median(own, "%.2f", sample.micros),
			fmt.Sprintf("%.2f", over(i)),
			"",
		}
		if gins := i % len(variants); i >= len(variants) && i != c.against {
			verdict := "within"
			if over(i) > adapterTolerance*over(gins) {
				verdict = "over"
			}
			row[5] = fmt.Sprintf("%.2f, %s %.2f", over(i)/over(gins), verdict, adapterTolerance)
		}
		rows = append(rows, row)
	}
	printTable([]string{"", "requests/s", "of bare", "app CPU µs", "x bare", "x gin's"}, rows)
	r.report(os.Stdout, samples)
	return nil
}
