// Package broker runs the parts of a system that carries requests from clients to a provider in a process each: the
// broker, the provider and the client.
package broker

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokersystem"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
)

// The names of the roles under which programs of this module run Role, ProviderRole and ClientRole.
const (
	RoleName         = "broker"
	ProviderRoleName = "broker's provider"
	ClientRoleName   = "broker's client"
)

type startArg struct {
	Config brokersystem.Config
	At     brokersystem.Endpoint
}

type runArg struct {
	Size int
	Time time.Duration
}

// Upload is what came of an upload.
type Upload struct {
	Elapsed time.Duration
}

// Role is the broker's side of a Remote.
func Role(arg json.RawMessage) (child.Handler, any, error) {
	start, parts, err := load(arg)
	if err != nil {
		return nil, nil, err
	}
	at, err := parts.Broker(start.Config)
	return func(cmd string, _ json.RawMessage) (any, error) { return answer(cmd) }, at, err
}

// ProviderRole is the provider's side of a Remote.
func ProviderRole(arg json.RawMessage) (child.Handler, any, error) {
	start, parts, err := load(arg)
	if err != nil {
		return nil, nil, err
	}
	err = parts.Provider(start.Config, start.At)
	return func(cmd string, _ json.RawMessage) (any, error) { return answer(cmd) }, nil, err
}

// ClientRole is the client's side of a Remote.
func ClientRole(arg json.RawMessage) (child.Handler, any, error) {
	start, parts, err := load(arg)
	if err != nil {
		return nil, nil, err
	}
	client, err := parts.Client(start.Config, start.At)
	return func(cmd string, arg json.RawMessage) (any, error) {
		switch cmd {
		case "run":
			var run runArg
			if err := json.Unmarshal(arg, &run); err != nil {
				return nil, err
			}
			return brokerload.Run(client, run.Size, run.Time)
		case "upload":
			var size int64
			if err := json.Unmarshal(arg, &size); err != nil {
				return nil, err
			}
			return upload(client, size)
		default:
			return answer(cmd)
		}
	}, nil, err
}

func load(arg json.RawMessage) (startArg, brokersystem.Parts, error) {
	var start startArg
	if err := json.Unmarshal(arg, &start); err != nil {
		return start, brokersystem.Parts{}, err
	}
	parts, err := brokersystem.New(start.Config.System)
	return start, parts, err
}

// answer answers what every part can say.
func answer(cmd string) (any, error) {
	if cmd == "usage" {
		return readUsage()
	}
	return nil, fmt.Errorf("unknown command %q", cmd)
}

// upload fails unless the provider has seen all of it.
func upload(c brokerload.Client, size int64) (Upload, error) {
	start := time.Now()
	n, err := c.Upload(size)
	if err == nil && n != size {
		err = fmt.Errorf("%d of %d bytes have arrived", n, size)
	}
	return Upload{Elapsed: time.Since(start)}, err
}
