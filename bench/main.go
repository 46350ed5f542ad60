// Command bench measures what this module costs, beside what it is measured against, in one run. See
// README.md for the benchmarks and what their figures mean.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/app"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/fake"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/load"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/poolclient"
)

const usage = `usage: go run . <benchmark> [flags]

  pool    SendAsync over a pool of connections, beside raw pipelined frames
  http    a Gin API over real HTTP: bare, metered, rate limited, and a peer
  routers what the adapters for gin, chi and echo cost over their bare routers
  broker  requests and uploads through the TCP broker, beside a relay, nats and grpc
  reliability  the spool beside the disk, the breaker, and leases
  workers jobs over a sidecar beside a pool, the mesh beside one broker, and a sidecar's memory
  service durable reservations of usageflow serve, beside what the disk and PostgreSQL can do

go run . <benchmark> -h lists the flags. The cost of a handler: go test -run - -bench . ./...
`

func main() {
	child.Main(map[string]child.Role{
		app.RoleName:            app.Role,
		broker.RoleName:         broker.Role,
		broker.ProviderRoleName: broker.ProviderRole,
		broker.ClientRoleName:   broker.ClientRole,
		fake.RoleName:           fake.Role,
		load.RoleName:           load.Role,
		poolclient.RoleName:     poolclient.Role,
	})
	if err := run(os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

func run(args []string) error {
	benchmarks := map[string]func([]string) error{"pool": runPool, "http": runHTTP, "routers": runRouters, "broker": runBroker, "service": runService, "reliability": runReliability, "workers": runWorkers}
	if len(args) > 0 {
		if benchmark, ok := benchmarks[args[0]]; ok {
			return benchmark(args[1:])
		}
	}
	fmt.Fprint(os.Stderr, usage)
	return flag.ErrHelp
}
