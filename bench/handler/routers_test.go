package handler

import (
	"testing"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/app"
)

// BenchmarkRouters measures what each router's adapter adds to its bare router on the request's own goroutine, as
// BenchmarkOverBare does for Gin: bursts of all routers, bare and with the adapter, alternate. x-gin is what the adapter adds,
// as a multiple of what Gin's adds.
func BenchmarkRouters(b *testing.B) {
	for _, v := range []app.Variant{app.Whitelisted, app.Metered} {
		b.Run(string(v), func(b *testing.B) {
			subjects := make(map[app.Router][2]*subject)
			tallies := make(map[app.Router]*[2]tally)
			for _, router := range app.Routers {
				subjects[router] = [2]*subject{newSubject(b, app.Bare, app.Options{Router: router}), newSubject(b, v, app.Options{Router: router})}
				tallies[router] = &[2]tally{}
			}
			for range b.N {
				for _, router := range app.Routers {
					for i, s := range subjects[router] {
						tallies[router][i].burst(s)
						s.drain(b)
					}
				}
			}
			over := func(router app.Router) float64 { return tallies[router][1].nanos() - tallies[router][0].nanos() }
			b.ReportMetric(0, "ns/op") // of a round of bursts: of no interest
			for _, router := range app.Routers {
				t := tallies[router]
				b.ReportMetric(t[0].nanos(), string(router)+"-bare-ns")
				b.ReportMetric(over(router), string(router)+"-over-ns")
				b.ReportMetric(t[1].allocs()-t[0].allocs(), string(router)+"-over-allocs")
				b.ReportMetric(over(router)/over(app.Gin), string(router)+"-x-gin")
			}
		})
	}
}
