package app

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/usageflow/usageflow-go-middleware/bench/internal/child"
)

// RoleName is the role under which programs of this module run Role.
const RoleName = "app"

// A Remote is an App that serves HTTP in a process of its own.
type Remote struct {
	*child.Process
	Addr string
}

type startArg struct {
	Router  Router
	Variant Variant
	URL     string
}

// StartRemote starts a variant against the service at url, which may be empty where it uses none.
func StartRemote(router Router, v Variant, url string) (*Remote, error) {
	r := &Remote{}
	var err error
	r.Process, err = child.Start(RoleName, startArg{router, v, url}, &r.Addr)
	return r, err
}

// Role is the child's side of a Remote.
func Role(arg json.RawMessage) (child.Handler, any, error) {
	var start startArg
	if err := json.Unmarshal(arg, &start); err != nil {
		return nil, nil, err
	}
	a, err := New(start.Variant, Options{Router: start.Router, URL: start.URL})
	if err != nil {
		return nil, nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	go func() {
		// No timeouts, as in the routers' own ways to run: a timeout costs every request a little.
		if err := http.Serve(l, a.Handler); err != nil {
			fmt.Fprintln(os.Stderr, "app:", err)
		}
	}()
	return func(cmd string, _ json.RawMessage) (any, error) {
		return nil, fmt.Errorf("unknown command %q", cmd)
	}, l.Addr().String(), nil
}
