//go:build unix

// Package pgtest runs a throwaway PostgreSQL server for tests.
package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// RequireEnv is the environment variable that makes a missing PostgreSQL a failure.
const RequireEnv = "USAGEFLOW_REQUIRE_POSTGRES"

// Cluster is one PostgreSQL server on a loopback port. Its methods end the test when something fails.
type Cluster struct {
	bin, dir string
	port     int
	owner    *syscall.Credential
	dbs      atomic.Int32
	server   *exec.Cmd
	log      bytes.Buffer
}

// Start starts a server that is stopped and removed when the test ends. Where PostgreSQL is not installed, the test is
// skipped.
func Start(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{bin: binaries()}
	if c.bin == "" {
		const hint = "PostgreSQL is not installed: apt-get install postgresql, or put initdb and postgres in PATH"
		if os.Getenv(RequireEnv) != "" {
			t.Fatal(hint)
		}
		t.Skip(hint)
	}
	var err error
	if c.dir, err = os.MkdirTemp("", "usageflow-postgres-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Kill(t)
		if err := os.RemoveAll(c.dir); err != nil {
			t.Error(err)
		}
	})
	if c.owner, err = owner(c.dir); err != nil {
		t.Fatal(err)
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.port = ln.Addr().(*net.TCPAddr).Port
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := c.command("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	c.Run(t)
	return c
}

// binaries finds the folder of initdb and postgres.
func binaries() string {
	if path, err := exec.LookPath("initdb"); err == nil {
		if _, err := exec.LookPath("postgres"); err == nil {
			if target, err := filepath.EvalSymlinks(path); err == nil {
				return filepath.Dir(target)
			}
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return ""
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }))
}

func version(path string) int {
	n, err := strconv.Atoi(strings.Split(path, "/")[4])
	if err != nil {
		return 0
	}
	return n
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), filepath.Join(c.bin, name), args...)
	cmd.Dir = c.dir
	runAs(cmd, c.owner)
	return cmd
}

// Run starts the server and returns when it answers.
func (c *Cluster) Run(t testing.TB) {
	t.Helper()
	c.server = c.command("postgres", "-D", c.data(), "-p", strconv.Itoa(c.port), "-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=", "-c", "max_connections=200", "-c", "log_min_messages=fatal")
	c.server.Stderr = &c.log
	if err := c.server.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for timeout := time.After(30 * time.Second); ; {
		err := c.exec("postgres", `SELECT 1`)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("PostgreSQL does not start: %v\n%s", err, c.log.String())
		}
	}
}

// Kill ends the server at once, as a crash does. It may be run again.
func (c *Cluster) Kill(t testing.TB) {
	t.Helper()
	if c.server == nil {
		return
	}
	// SIGQUIT is PostgreSQL's immediate shutdown: no checkpoint, recovery at the next start; unlike SIGKILL it leaves no orphans.
	if err := c.server.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := c.server.Wait(); err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	c.server = nil
}

// Database makes an empty database and returns its URL.
func (c *Cluster) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test%d", c.dbs.Add(1))
	if err := c.exec("postgres", `CREATE DATABASE `+name); err != nil {
		t.Fatal(err)
	}
	return c.url(name)
}

func (c *Cluster) url(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", c.port, database)
}

func (c *Cluster) exec(database, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url(database))
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}
