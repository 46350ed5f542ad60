package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/app"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/fake"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/load"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/table"
)

const (
	drainTimeout = 30 * time.Second
	bodySize     = 10 << 10
)

// runHTTP measures a Gin API over real HTTP, in variants.
func runHTTP(args []string) error {
	flags := flag.NewFlagSet("http", flag.ContinueOnError)
	r := newRace()
	r.flags(flags)
	conns := flags.Int("conns", 64, "keep-alive connections")
	only := flags.String("only", "", "measure this variant and bare gin: whitelisted, unmonitored, metered, limited, otelgin")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := r.check(); err != nil {
		return err
	}
	contenders := httpContenders(*conns, app.Variant(*only))
	table.Head(os.Stdout, fmt.Sprintf("A Gin API over real HTTP, %d connections; load generator, app and service in three processes", *conns))
	samples, err := r.do(contenders)
	if err != nil {
		return err
	}
	var rows [][]string
	for i, c := range contenders {
		own, base := samples[i], samples[c.against]
		rows = append(rows, []string{
			c.name,
			median(own, "%.0f", sample.rate),
			table.Spread("%.0f", column(own, sample.rate)),
			ratio(own, base, "%.1f %%", 100, sample.rate),
			median(own, "%.2f", sample.micros),
			ratio(own, base, "%.2f", 1, sample.micros),
			median(own, "%.2f", sample.serviceMicros),
			median(own, "%.1f", sample.drainMillis),
		})
	}
	printTable([]string{"", "requests/s", "lowest-highest", "of bare", "app CPU µs", "x bare", "service CPU µs", "drain ms"}, rows)
	r.report(os.Stdout, samples)
	fmt.Println("The clock stops when the service has received one complete reservation and one settlement of every\n" +
		"request; each was checked to have come exactly once, and none where nothing is metered.")
	return nil
}

// httpContenders are the rows of the table: all, or those of one variant.
func httpContenders(conns int, only app.Variant) []contender {
	var contenders []contender
	add := func(name string, v app.Variant, body bool) {
		switch {
		case v == app.Bare:
			contenders = append(contenders, contender{against: len(contenders)})
		case only == "" || v == only:
			// Against the last bare one.
			contenders = append(contenders, contender{against: contenders[len(contenders)-1].against})
		default:
			return
		}
		c := &contenders[len(contenders)-1]
		c.name, c.start = name, func() (runner, error) { return startHTTP(app.Gin, v, conns, body) }
	}
	add("bare gin", app.Bare, false)
	add("gin + whitelisted route", app.Whitelisted, false)
	add("gin + unmonitored route", app.Unmonitored, false)
	add("gin + metered route", app.Metered, false)
	add("gin + rate-limited route", app.Limited, false)
	add("gin + otelgin", app.OTel, false)
	add("bare gin, 10 KB body", app.Bare, true)
	add("gin + metered route, 10 KB body", app.Metered, true)
	return contenders
}

// httpRunner is an app with a load generator and a service of its own.
type httpRunner struct {
	variant   app.Variant
	service   *fake.Remote
	api       *app.Remote
	generator *child.Process
}

func startHTTP(router app.Router, v app.Variant, conns int, body bool) (_ runner, err error) {
	h := &httpRunner{variant: v}
	defer func() {
		if err != nil {
			err = errors.Join(err, h.close())
		}
	}()
	if h.service, err = fake.StartRemote(v.Service()); err != nil {
		return nil, err
	}
	if h.api, err = app.StartRemote(router, v, h.service.URL); err != nil {
		return nil, err
	}
	if err := h.ready(); err != nil {
		return nil, err
	}
	client := load.Client{Addr: h.api.Addr, Conns: conns, Requests: requests(h.api.Addr, body)}
	if h.generator, err = child.Start(load.RoleName, client, nil); err != nil {
		return nil, err
	}
	return h, nil
}

// ready checks that the app has its configuration: by a request on a route that is metered in any case.
func (h *httpRunner) ready() error {
	resp, err := http.Get("http://" + h.api.Addr + app.ReadyPath)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil || !h.variant.UsesService() {
		return err
	}
	counts, err := h.service.Await(1, drainTimeout)
	if err == nil && counts.Used != 1 {
		err = fmt.Errorf("the app is not metering: the service has seen %+v", counts)
	}
	return err
}

// run sends requests for d, waits until all their messages have arrived, and checks them.
func (h *httpRunner) run(d time.Duration) (s sample, err error) {
	if err := h.service.Reset(); err != nil {
		return s, err
	}
	clock := cpuClock{h.api.Process, h.service.Process, h.generator}
	before, err := clock.read()
	if err != nil {
		return s, err
	}
	var r load.Result
	if err := h.generator.Do("run", d, &r); err != nil {
		return s, err
	}
	s.count, s.elapsed = r.Requests, r.Elapsed
	want := 0
	if h.variant.Charges() {
		want = r.Requests
		counts, err := h.service.Await(want, drainTimeout)
		if err != nil {
			return s, err
		}
		if counts.Reserved < want || counts.Used < want {
			return s, fmt.Errorf("%d requests, but after %v the service has seen %+v", want, drainTimeout, counts)
		}
		s.drain = max(0, counts.Last.Sub(r.End))
		s.elapsed += s.drain
	}
	used, all, err := clock.since(before)
	if err != nil {
		return s, err
	}
	s.cpu, s.serviceCPU, s.allCPU = used[0], used[1], all
	return s, h.service.Verify(want)
}

func (h *httpRunner) close() error {
	var processes []*child.Process
	if h.generator != nil {
		processes = append(processes, h.generator)
	}
	if h.api != nil {
		processes = append(processes, h.api.Process)
	}
	if h.service != nil {
		processes = append(processes, h.service.Process)
	}
	return closeAll(processes...)
}

// requests are the bytes of what the connections send, by 16 customers.
func requests(addr string, body bool) [][]byte {
	all := make([][]byte, 16)
	for i := range all {
		common := fmt.Sprintf("HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: application/json\r\nX-User: customer-%d\r\n", addr, i)
		if body {
			text, err := json.Marshal(map[string]any{"customer": "acme", "note": string(bytes.Repeat([]byte("x"), bodySize))})
			if err != nil {
				panic(err) // a map of strings
			}
			all[i] = fmt.Appendf(nil, "POST /api/orders %sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", common, len(text), text)
			continue
		}
		all[i] = fmt.Appendf(nil, "GET /api/users/%d %s\r\n", i, common)
	}
	return all
}
