package natsmesh_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/natsmesh"
)

// childEnv makes the test's program one of the processes of a test, of the kind that it names: see childMain.
const childEnv = "NATSMESH_CHILD"

func TestMain(m *testing.M) {
	if kind := os.Getenv(childEnv); kind != "" {
		if err := childMain(kind, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, kind+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// childMain is a child: it says what the parent wants to know in lines, and ends when its input does.
func childMain(kind string, args []string) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	switch kind {
	case "nats": // its address
		s, err := natsserver.NewServer(&natsserver.Options{Host: args[0], Port: 4222, NoLog: true, NoSigs: true})
		if err != nil {
			return err
		}
		s.Start()
		if !s.ReadyForConnections(limit) {
			return errors.New("it does not start")
		}
		fmt.Println("ready")
		<-ended
		s.Shutdown()
	case "broker": // the URL of NATS
		m, err := natsmesh.New(natsmesh.Config{URL: args[0], Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return err
		}
		s := socket.NewServer("0", quiet, socket.WithMesh(m))
		if err := s.Start(); err != nil {
			return err
		}
		fmt.Println(s.Port())
		<-ended
		return s.Stop()
	case "provider": // the broker's port and a channel; streams without an end
		p, err := socket.NewProvider("127.0.0.1:"+args[0], uuid.MustParse(args[1]), quiet)
		if err != nil {
			return err
		}
		go func() {
			_ = p.Serve(context.Background(), func(ctx context.Context, _ *socket.Request) (io.Reader, error) { return endlessReader{ctx}, nil })
		}()
		fmt.Println("ready")
		<-ended
		return p.Close()
	case "consumer": // the broker's port and a channel; says what becomes of its streams
		return childConsumer(args[0], uuid.MustParse(args[1]), ended)
	}
	return nil
}

func childConsumer(port string, channel uuid.UUID, ended chan struct{}) error {
	c, err := socket.NewConsumer("127.0.0.1:"+port, channel, quiet)
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		select {
		case <-ended:
			return nil
		case <-time.After(20 * time.Millisecond):
		}
		answer, err := c.Send(strings.NewReader("x"), time.Hour)
		if err != nil {
			fmt.Println("refused", err)
			continue
		}
		if _, err = io.CopyN(io.Discard, answer, 1<<20); err == nil {
			fmt.Println("streams")
			_, err = io.Copy(io.Discard, answer)
		}
		fmt.Println("lost", errors.Is(err, socket.ErrProviderLost), err)
	}
}

// child is a process of this test's program.
type child struct {
	t     testing.TB
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan string
}

// startChild starts a child, by the command that comes before it, if any, and returns it when it has said its first line.
func startChild(t testing.TB, before []string, kind string, args ...string) (*child, string) {
	t.Helper()
	argv := append(append(append([]string{}, before...), os.Args[0]), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+kind)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, stdin: stdin, lines: make(chan string, 10_000)}
	go func() {
		defer close(c.lines)
		for scan := bufio.NewScanner(stdout); scan.Scan(); {
			c.lines <- scan.Text()
		}
	}()
	t.Cleanup(c.end)
	return c, c.line()
}

// line returns the next line that the child says.
func (c *child) line() string {
	c.t.Helper()
	select {
	case line, ok := <-c.lines:
		if !ok {
			c.t.Fatalf("%v has ended", c.cmd.Args)
		}
		return line
	case <-time.After(limit):
		c.t.Fatalf("%v says nothing", c.cmd.Args)
	}
	return ""
}

// until reads lines up to one that begins so, and returns it.
func (c *child) until(prefix string) string {
	c.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if line := c.line(); strings.HasPrefix(line, prefix) {
			return line
		}
	}
	c.t.Fatalf("%v does not say %q", c.cmd.Args, prefix)
	return ""
}

// end lets the child end by itself, and kills it where it does not.
func (c *child) end() {
	_ = c.stdin.Close()
	timer := time.AfterFunc(5*time.Second, c.kill)
	_ = c.cmd.Wait() // it was killed, or not
	timer.Stop()
}

func (c *child) kill() { _ = c.cmd.Process.Kill() }
