package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// template is the configuration that init writes; %s is the key.
const template = `# What the UsageFlow service knows of your API. usageflow check reads it; after a change, send the service SIGHUP.
applications:
  - name: default
    keys: [%s] # the agents' USAGEFLOW_API_KEY; the service keeps its hash only
    monitoringPaths: [{method: "*", url: "*"}]
    whitelistEndpoints: [{method: GET, url: /health}]
    # blockedEndpoints: [{method: GET, url: /api/legacy}]
    policies:
      # Counted for each customer, who is named by a header.
      - {method: "*", url: "*", identityFieldName: X-User, identityFieldLocation: headers}
      # Limited: the hundred and first report of a customer in a minute is a 429.
      - {method: GET, url: /api/reports, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 100, window: minute}
      # Limited by what the response says that it cost.
      - {method: POST, url: /api/completions, identityFieldName: X-User, identityFieldLocation: headers, hasRateLimit: true, limit: 10000, window: day, responseTrackingField: usage.total_tokens}
`

// initialize writes a configuration. It never overwrites one.
func initialize(_ context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("init", stderr)
	path := flags.String("config", defaultConfig, "`file` to write")
	if err := parse(flags, args, "init writes a configuration with one application and a key of its own.", stdout); err != nil {
		return err
	}
	random := make([]byte, 20)
	_, _ = rand.Read(random) // it never fails
	key := "uf_" + hex.EncodeToString(random)
	f, err := os.OpenFile(*path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and is left as it is", *path)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, template, key)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s is written. Its key, for the agents:\n\n  export USAGEFLOW_API_KEY=%s\n\nNext: usageflow serve\n", *path, key)
	return nil
}

// check reads a configuration.
func check(_ context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("check", stderr)
	path := flags.String("config", defaultConfig, "`file` to read")
	if err := parse(flags, args, "check reads a configuration and says what is wrong with it.", stdout); err != nil {
		return err
	}
	if err := fromEnvironment(flags); err != nil {
		return err
	}
	config, err := loadConfig(*path)
	if err != nil {
		return err
	}
	if err := fromConfig(serveFlags(&serveOptions{}, stderr), *path, config); err != nil {
		return err
	}
	var broker brokerOptions
	if err := fromSection(*path, "broker", config.Broker, brokerFlags(&broker, stderr), broker.secretFlags()); err != nil {
		return err
	}
	for _, warning := range config.Warnings() {
		fmt.Fprintf(stderr, "warning: %s\n", warning)
	}
	for _, a := range config.Applications {
		fmt.Fprintf(stdout, "%s: %d policies, %d blocked endpoints\n", a.Name, len(a.Policies), len(a.BlockedEndpoints))
	}
	fmt.Fprintf(stdout, "%s can be used.\n", *path)
	return nil
}
