package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/service"
)

const applySummary = `apply sends a configuration file to a running service, which creates and updates the applications in it: their policies, blocks and other
lists become those of the file. No application is deleted, and keys that are not in the file stay; --dry-run says what would change. -f - reads standard input. ` + service.AdminTokenEnv + ` in the environment is the service's token.`

// applied is the answer of /api/v1/apply, or its error.
type applied struct {
	Changes []struct {
		Application, Action string
		Details             []string
	}
	Warnings []string
	Message  string
}

// apply is the command.
func apply(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("apply", stderr)
	file := flags.String("f", "", "`file` to send; - is standard input")
	target := flags.String("url", "http://localhost:9000", "`URL` of the service; in the environment, USAGEFLOW_URL, it may be the agents' own")
	dry := flags.Bool("dry-run", false, "say what would change, and change nothing")
	if err := parse(flags, args, applySummary, stdout); err != nil {
		return err
	}
	if *file == "" {
		fmt.Fprintf(stderr, "%s: -f FILE is missing\n", flags.Name())
		return errUsage
	}
	// USAGEFLOW_URL is the agents' setting, whose ws:// leads to the same service.
	if err := fromEnvironment(flags); err != nil {
		return err
	}
	data, err := readFile(*file)
	if err != nil {
		return err
	}
	path := "/api/v1/apply"
	if *dry {
		path += "?dry_run=true"
	}
	answer, err := postConfig(ctx, httpURL(*target)+path, data)
	if err != nil {
		return err
	}
	if answer.Message != "" {
		name := *file
		if name == "-" {
			name = "standard input"
		}
		// The service calls the file usageflow.yaml, whatever its name is here.
		if rest, ok := strings.CutPrefix(answer.Message, defaultConfig); ok && strings.HasPrefix(rest, ":") {
			return errors.New(name + rest)
		}
		return errors.New(answer.Message)
	}
	for _, warning := range answer.Warnings {
		fmt.Fprintf(stderr, "warning: %s\n", warning)
	}
	for _, c := range answer.Changes {
		fmt.Fprintf(stdout, "%s: %s\n", c.Application, c.Action)
		for _, detail := range c.Details {
			fmt.Fprintf(stdout, "  %s\n", detail)
		}
	}
	if *dry {
		fmt.Fprintln(stdout, "This was a dry run: nothing has changed.")
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(os.Stdin)
	}
	return os.ReadFile(name)
}

// httpURL makes the URL of the service out of its own or its agents'.
func httpURL(target string) string {
	target = strings.TrimSuffix(target, "/")
	if rest, ok := strings.CutPrefix(target, "ws"); ok && (strings.HasPrefix(rest, "://") || strings.HasPrefix(rest, "s://")) {
		return strings.TrimSuffix("http"+rest, "/ws")
	}
	return target
}

// tokenError says what to do about a 401.
func tokenError() error {
	if os.Getenv(service.AdminTokenEnv) != "" {
		return fmt.Errorf("the service refuses the token in %s", service.AdminTokenEnv)
	}
	return fmt.Errorf("the service wants its admin token in %s", service.AdminTokenEnv)
}

// postConfig returns the service's answer, also where it refuses the configuration.
func postConfig(ctx context.Context, url string, data []byte) (*applied, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	r.Header.Set("Content-Type", "application/yaml")
	if token := os.Getenv(service.AdminTokenEnv); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return nil, fmt.Errorf("the service can't be reached; --url names it: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return nil, fmt.Errorf("the service's answer broke off: %w", err)
	}
	var answer applied
	err = json.Unmarshal(body, &answer)
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, tokenError()
	case err != nil || resp.StatusCode != http.StatusOK && answer.Message == "":
		return nil, fmt.Errorf("the service answers %s, which is no answer of UsageFlow's; --url names the service", resp.Status)
	}
	return &answer, nil
}
