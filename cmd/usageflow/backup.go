package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/usageflow/usageflow-go-middleware/internal/replacefile"
	"github.com/usageflow/usageflow-go-middleware/service"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

const backupSummary = `backup copies the ledger of a running service to FILE, while agents go on. What was acknowledged before it began is in the copy.
` + service.AdminTokenEnv + ` in the environment is the service's token. usageflow restore makes a data folder out of the file.`

// backup asks a running service for a copy of its ledger. A file of that name is replaced when the copy is whole, and not before.
func backup(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("backup", stderr)
	target := flags.String("url", "http://localhost:9000", "`URL` of the service; in the environment, USAGEFLOW_URL, it may be the agents' own")
	files, err := parseFiles(flags, args, backupSummary, stdout, "FILE")
	if err != nil {
		return err
	}
	if err := fromEnvironment(flags); err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, httpURL(*target)+"/api/v1/backup", nil)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	if token := os.Getenv(service.AdminTokenEnv); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("the service can't be reached; --url names it: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusUnauthorized {
		return tokenError()
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // it explains the status, if it can
		return fmt.Errorf("the service answers %s %s", resp.Status, strings.TrimSpace(string(text)))
	}
	n, err := replacefile.Write(files[0], resp.Body)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s holds the ledger, %d bytes.\n", files[0], n)
	return nil
}

const restoreSummary = `restore makes the data folder of usageflow serve out of FILE, which usageflow backup has written. It touches no folder that is not
empty: stop the service, put its folder aside, and restore.`

// restore makes a data folder out of a backup.
func restore(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := newFlags("restore", stderr)
	data := flags.String("data", defaultData, "`folder` to make")
	files, err := parseFiles(flags, args, restoreSummary, stdout, "FILE")
	if err != nil {
		return err
	}
	if err := fromEnvironment(flags); err != nil {
		return err
	}
	if err := sqlite.Restore(ctx, files[0], *data); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s holds the ledger of %s.\nNext: usageflow serve --data %s\n", *data, files[0], *data)
	return nil
}
