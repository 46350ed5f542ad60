package fake

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
)

// RoleName is the role under which programs of this module run Role.
const RoleName = "fakeservice"

// A Remote is a Service in a process of its own.
type Remote struct {
	*child.Process
	URL string
}

// StartRemote starts one.
func StartRemote(cfg Config) (*Remote, error) {
	r := &Remote{}
	var err error
	r.Process, err = child.Start(RoleName, cfg, &r.URL)
	return r, err
}

// Await is Service.Await.
func (r *Remote) Await(n int, timeout time.Duration) (Counts, error) {
	var c Counts
	err := r.Do("await", awaitArg{n, timeout}, &c)
	return c, err
}

// Counts is Service.Counts.
func (r *Remote) Counts() (Counts, error) {
	var c Counts
	err := r.Do("counts", nil, &c)
	return c, err
}

// Reset is Service.Reset.
func (r *Remote) Reset() error { return r.Do("reset", nil, nil) }

// Verify is Service.Verify.
func (r *Remote) Verify(n int) error { return r.Do("verify", n, nil) }

type awaitArg struct {
	N       int
	Timeout time.Duration
}

// Role is the child's side of a Remote.
func Role(arg json.RawMessage) (child.Handler, any, error) {
	var cfg Config
	if err := json.Unmarshal(arg, &cfg); err != nil {
		return nil, nil, err
	}
	s, err := Start(cfg)
	if err != nil {
		return nil, nil, err
	}
	return func(cmd string, arg json.RawMessage) (any, error) {
		switch cmd {
		case "counts":
			return s.Counts(), nil
		case "reset":
			s.Reset()
			return nil, nil
		case "await":
			var a awaitArg
			if err := json.Unmarshal(arg, &a); err != nil {
				return nil, err
			}
			return s.Await(a.N, a.Timeout), nil
		case "verify":
			var n int
			if err := json.Unmarshal(arg, &n); err != nil {
				return nil, err
			}
			return nil, s.Verify(n)
		default:
			return nil, fmt.Errorf("unknown command %q", cmd)
		}
	}, s.URL(), nil
}
