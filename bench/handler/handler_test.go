package handler

import (
	"context"
	"net/http"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/app"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/fake"
)

func TestMain(m *testing.M) {
	child.Main(map[string]child.Role{fake.RoleName: fake.Role})
	os.Exit(m.Run())
}

// nowhere is a response writer that keeps its header and forgets the rest.
type nowhere struct{ header http.Header }

func (w *nowhere) Header() http.Header         { return w.header }
func (w *nowhere) WriteHeader(int)             {}
func (w *nowhere) Write(b []byte) (int, error) { return len(b), nil }

// subject is one variant, ready to serve on the goroutine that made it.
type subject struct {
	*app.App
	variant app.Variant
	discard *app.Discard
	w       nowhere
	r       *http.Request
}

func newSubject(b *testing.B, v app.Variant, opts app.Options) *subject {
	b.Helper()
	s := &subject{variant: v, w: nowhere{make(http.Header)}}
	if opts.URL == "" && v.UsesService() {
		s.discard = app.NewDiscard(v.Service())
		opts.Transport = s.discard
	}
	var err error
	if s.App, err = app.New(v, opts); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	if s.r, err = http.NewRequest(http.MethodGet, "/api/users/42", nil); err != nil {
		b.Fatal(err)
	}
	s.r.RemoteAddr = "127.0.0.1:40000"
	s.r.Header.Set("User-Agent", "bench")
	s.r.Header.Set("Accept", "application/json")
	s.r.Header.Set("X-User", "acme")
	s.ready(b)
	s.serve(1000)
	s.drain(b)
	return s
}

// ready checks that the configuration is in force: by a request on a route that is metered in any case.
func (s *subject) ready(b *testing.B) {
	b.Helper()
	r := s.r.Clone(b.Context())
	r.URL.Path = app.ReadyPath
	s.Handler.ServeHTTP(&s.w, r) // waits for the configuration
	if s.Flow != nil && s.Flow.Stats().Admitted != 1 {
		b.Fatalf("%s is not metering: %+v", s.variant, s.Flow.Stats())
	}
}

func (s *subject) serve(n int) {
	for range n {
		s.Handler.ServeHTTP(&s.w, s.r)
	}
}

// drain waits until nothing is left to settle, and checks that nothing was lost.
func (s *subject) drain(b *testing.B) {
	b.Helper()
	if s.Flow == nil {
		return
	}
	tick := time.NewTicker(50 * time.Microsecond) // leaves the cores to what is waited for
	defer tick.Stop()
	deadline := time.Now().Add(time.Minute)
	for s.Flow.Stats().Pending > 0 {
		if time.Now().After(deadline) {
			b.Fatalf("not drained: %+v", s.Flow.Stats())
		}
		<-tick.C
	}
	stats := s.Flow.Stats()
	if stats.Dropped > 0 || s.variant.Charges() != (stats.Admitted > 1) {
		b.Fatalf("%s: %+v", s.variant, stats)
	}
}

var variants = []app.Variant{app.Whitelisted, app.Unmonitored, app.Metered, app.OTel}

// BenchmarkOverBare measures what a variant adds on the request's own goroutine. Bursts of bare Gin and of
// the variant alternate; what the variant leaves to other goroutines is held back during its bursts, and
// done between them.
//
// The times are medians over the bursts, the allocations means over all requests.
func BenchmarkOverBare(b *testing.B) {
	for _, v := range variants {
		b.Run(string(v), func(b *testing.B) {
			bare, own := newSubject(b, app.Bare, app.Options{}), newSubject(b, v, app.Options{})
			var base, with tally
			for range b.N {
				base.burst(bare)
				with.burst(own)
				own.drain(b)
			}
			b.ReportMetric(0, "ns/op") // of a pair of bursts: of no interest
			b.ReportMetric(base.nanos(), "bare-ns/req")
			b.ReportMetric(with.nanos()-base.nanos(), "over-ns/req")
			b.ReportMetric(with.allocs()-base.allocs(), "over-allocs/req")
			b.ReportMetric(with.bytes()-base.bytes(), "over-B/req")
		})
	}
}

// burstSize is how many requests are timed together.
const burstSize = 500

// tally collects what bursts of requests have cost.
type tally struct {
	times          []time.Duration
	mallocs, total uint64
}

func (t *tally) burst(s *subject) {
	release := func() {}
	if s.discard != nil {
		release = s.discard.Hold()
	}
	defer release()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	s.serve(burstSize)
	t.times = append(t.times, time.Since(start))
	runtime.ReadMemStats(&after)
	t.mallocs += after.Mallocs - before.Mallocs
	t.total += after.TotalAlloc - before.TotalAlloc
}

func (t *tally) nanos() float64 {
	slices.Sort(t.times)
	return float64(t.times[len(t.times)/2].Nanoseconds()) / burstSize
}

func (t *tally) allocs() float64 { return float64(t.mallocs) / float64(len(t.times)*burstSize) }
func (t *tally) bytes() float64  { return float64(t.total) / float64(len(t.times)*burstSize) }

// BenchmarkHandler measures whole requests, one after another, with all that is done for them on other
// goroutines, and stops when that is done too.
func BenchmarkHandler(b *testing.B) {
	for _, v := range append([]app.Variant{app.Bare, app.Limited}, variants...) {
		b.Run(string(v), func(b *testing.B) { benchmarkRequests(b, newSubject(b, v, app.Options{})) })
	}
}

// BenchmarkService is BenchmarkHandler with a service in another process.
func BenchmarkService(b *testing.B) {
	for _, v := range []app.Variant{app.Whitelisted, app.Unmonitored, app.Metered, app.Limited} {
		b.Run(string(v), func(b *testing.B) {
			service, err := fake.StartRemote(v.Service())
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				if err := service.Close(); err != nil {
					b.Error(err)
				}
			})
			s := newSubject(b, v, app.Options{URL: service.URL}) // closed before its service
			if err := service.Reset(); err != nil {
				b.Fatal(err)
			}
			benchmarkRequests(b, s)
			want := 0
			if v.Charges() {
				want = b.N
			}
			if err := service.Verify(want); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// maxPending bounds what a benchmark may leave to other goroutines. The flow has bounds too, of its memory and of
// a connection's queue; past them it drops and resends, which is not what is measured here.
const maxPending = 2000

// benchmarkRequests counts to b.N itself, because the timer of b.Loop stops before there is a chance to drain.
func benchmarkRequests(b *testing.B, s *subject) {
	b.ReportAllocs()
	b.ResetTimer()
	for done := 0; done < b.N; {
		n := min(200, b.N-done)
		s.serve(n)
		done += n
		if s.Flow != nil && s.Flow.Stats().Pending > maxPending {
			s.drain(b)
		}
	}
	s.drain(b)
	b.StopTimer()
}
