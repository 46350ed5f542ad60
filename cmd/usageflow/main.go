// Command usageflow is the UsageFlow service in one binary.
//
//	usageflow init     # writes usageflow.yaml, with a key of its own
//	usageflow serve    # runs the service
//	usageflow broker   # runs the broker, the sidecar of a host's workers
//
// usageflow help lists the commands, usageflow COMMAND --help the flags of one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// command is one of the program's commands.
type command struct {
	name, summary string
	run           func(ctx context.Context, args []string, stdout, stderr io.Writer) error
}

func commands() []command {
	return []command{
		{"serve", "run the service: agents' WebSockets, the HTTP API and the page", serve},
		{"broker", "run the broker: requests between processes, and a sidecar for the workers of a host", runBroker},
		{"init", "write a configuration with one application and a key of its own", initialize},
		{"check", "read a configuration and say what is wrong with it", check},
		{"apply", "send a configuration to a running service", apply},
		{"doctor", "say what is wrong between an application and its service", doctor},
		{"backup", "copy the ledger of a running service to a file", backup},
		{"restore", "make a data folder out of such a file", restore},
		{"version", "say which version this is", version},
	}
}

// errUsage is the error of a command line that makes no sense; what is wrong has been printed.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is the program; it returns the exit status: 0, 1 after a failure, 2 after a wrong command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	name := "help"
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	switch name {
	case "help", "-h", "-help", "--help":
		usage(stdout)
		return 0
	}
	for _, c := range commands() {
		if c.name != name {
			continue
		}
		switch err := c.run(ctx, args, stdout, stderr); {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return 0
		case errors.Is(err, errUsage):
			return 2
		default:
			fmt.Fprintf(stderr, "usageflow %s: %v\n", name, err)
			return 1
		}
	}
	fmt.Fprintf(stderr, "usageflow: there is no command %q\n\n", name)
	usage(stderr)
	return 2
}

func usage(w io.Writer) {
	fmt.Fprintf(w, "usageflow meters and limits the use of APIs, on this machine.\n\nUsage: usageflow COMMAND [flags]\n\nCommands:\n")
	for _, c := range commands() {
		fmt.Fprintf(w, "  %-9s%s\n", c.name, c.summary)
	}
	fmt.Fprintf(w, "\nusageflow COMMAND --help lists the flags of a command.\n")
}

func version(_ context.Context, _ []string, stdout, _ io.Writer) error {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return errors.New("this binary does not say how it was built")
	}
	fmt.Fprintln(stdout, "usageflow", info.Main.Version, info.GoVersion)
	return nil
}
