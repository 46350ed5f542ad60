// Package child runs parts of a benchmark in processes of their own: the program starts itself again
// under a role, and talks to the copy over its standard input and output, one JSON value a line.
//
// A child ends when its standard input does, so none outlives the program, however that ends.
package child

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// roleEnv names the role in a child's environment.
const roleEnv = "USAGEFLOW_BENCH_ROLE"

// A Handler answers one command of the parent. Commands come one at a time.
type Handler func(cmd string, arg json.RawMessage) (any, error)

// A Role starts what the child is for. hello is what Start hands to the parent.
type Role func(arg json.RawMessage) (h Handler, hello any, err error)

type request struct {
	Cmd string          `json:"cmd"`
	Arg json.RawMessage `json:"arg"`
}

type response struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Main becomes the child, and does not return, if this process was started as one. A program calls it first.
func Main(roles map[string]Role) {
	name := os.Getenv(roleEnv)
	if name == "" {
		return
	}
	role, ok := roles[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "no role %q\n", name)
		os.Exit(2)
	}
	if err := serve(role); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve reads in a goroutine of its own, so that the end of standard input ends a command that is running.
func serve(role Role) error {
	requests := make(chan request)
	go func() {
		in := json.NewDecoder(os.Stdin)
		for {
			var req request
			if err := in.Decode(&req); err != nil {
				if !errors.Is(err, io.EOF) {
					fmt.Fprintln(os.Stderr, "benchmark child:", err)
				}
				os.Exit(0)
			}
			requests <- req
		}
	}()
	out := json.NewEncoder(os.Stdout)
	handler, hello, err := role((<-requests).Arg)
	if err := out.Encode(answer(hello, err)); err != nil {
		return err
	}
	for req := range requests {
		if req.Cmd == "cpu" { // every role can say what it has used
			cpu, err := CPU()
			err = out.Encode(answer(cpu, err))
			if err != nil {
				return err
			}
			continue
		}
		if err := out.Encode(answer(handler(req.Cmd, req.Arg))); err != nil {
			return err
		}
	}
	return nil
}

func answer(v any, err error) response {
	if err != nil {
		return response{Error: err.Error()}
	}
	b, err := json.Marshal(v)
	if err != nil {
		return response{Error: err.Error()}
	}
	return response{Result: b}
}

// CPU is the user and system time that this process has used so far.
func CPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
