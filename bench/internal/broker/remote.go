package broker

import (
	"errors"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokerload"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/brokersystem"
	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
)

// The places of the parts where there is something for each.
const (
	Broker = iota
	Provider
	Client
	Parts
)

// A Remote is a system, its parts in a process each. It is not safe for concurrent use.
type Remote struct {
	parts [Parts]*child.Process
}

// Start starts a system.
func Start(cfg brokersystem.Config) (*Remote, error) {
	r := &Remote{}
	arg := startArg{Config: cfg}
	for i, role := range [Parts]string{RoleName, ProviderRoleName, ClientRoleName} {
		var hello any
		if i == Broker {
			hello = &arg.At
		}
		var err error
		if r.parts[i], err = child.Start(role, arg, hello); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	return r, nil
}

// Run sends requests with payloads of size bytes for about d.
func (r *Remote) Run(size int, d time.Duration) (brokerload.Result, error) {
	var result brokerload.Result
	err := r.parts[Client].Do("run", runArg{size, d}, &result)
	return result, err
}

// Upload sends size bytes one way, all of which have arrived when it returns.
func (r *Remote) Upload(size int64) (Upload, error) {
	var result Upload
	err := r.parts[Client].Do("upload", size, &result)
	return result, err
}

// Usage is what each part has used so far.
func (r *Remote) Usage() (each [Parts]Usage, err error) {
	for i, p := range r.parts {
		if err := p.Do("usage", nil, &each[i]); err != nil {
			return each, fmt.Errorf("usage: %w", err)
		}
	}
	return each, nil
}

// Close ends the client first, so that no part misses another.
func (r *Remote) Close() error {
	var errs []error
	for i := Parts - 1; i >= 0; i-- {
		if r.parts[i] != nil {
			errs = append(errs, r.parts[i].Close())
		}
	}
	return errors.Join(errs...)
}
