//go:build unix

package socket_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// brokerRoles are what a process of its own can do in a test. A role prints what happens, a line each,
// with say, and returns when done is closed.
var brokerRoles = map[string]func(args []string, say func(...any), done <-chan struct{}) error{
	"broker":   brokerRole,
	"echo":     providerRole(func(func(...any)) socket.Handler { return echoHandler }),
	"hold":     providerRole(holdHandler),
	"stall":    providerRole(stallHandler),
	"fail":     providerRole(failHandler),
	"transfer": transferRole,
}

// TestBrokerChild is the main function of the processes that other tests start. In the tests' own process it
// does nothing.
func TestBrokerChild(t *testing.T) {
	role, ok := brokerRoles[os.Getenv("BROKER_CHILD_ROLE")]
	if !ok {
		return
	}
	done := make(chan struct{})
	ended := make(chan error, 1)
	var mu sync.Mutex
	say := func(words ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(append([]any{"child:"}, words...)...)
	}
	go func() { ended <- role(strings.Fields(os.Getenv("BROKER_CHILD_ARGS")), say, done) }()
	_, _ = io.Copy(io.Discard, os.Stdin) // it ends with the parent, at the latest
	close(done)
	if err := await(t, ended, "the role's end"); err != nil {
		t.Fatal(err)
	}
}

// brokerRole is a server on the port that it is told.
func brokerRole(args []string, say func(...any), done <-chan struct{}) error {
	server := socket.NewServer(args[0], quietBroker())
	if err := server.Start(); err != nil {
		return err
	}
	say("ready", server.Port())
	<-done
	return server.Stop()
}

// providerRole serves a handler on the address and channel that it is told.
func providerRole(handler func(say func(...any)) socket.Handler) func([]string, func(...any), <-chan struct{}) error {
	return func(args []string, say func(...any), done <-chan struct{}) error {
		provider, err := socket.NewProvider(args[0], uuid.MustParse(args[1]), quietBroker())
		if err != nil {
			return err
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = provider.Serve(context.Background(), handler(say))
		}()
		say("ready")
		<-done
		err = provider.Close()
		<-ended
		return err
	}
}

// holdHandler takes requests and does not answer.
func holdHandler(say func(...any)) socket.Handler {
	return func(ctx context.Context, r *socket.Request) (io.Reader, error) {
		say("received")
		return deafHandler(ctx, r)
	}
}

// stallHandler starts an answer of which the end never comes.
func stallHandler(func(...any)) socket.Handler {
	return func(ctx context.Context, _ *socket.Request) (io.Reader, error) {
		return io.MultiReader(stamp(1, partOfAnswer), blocked{ctx.Done()}, errorReader{context.Canceled}), nil
	}
}

// failHandler starts an answer whose reader fails.
func failHandler(say func(...any)) socket.Handler {
	return func(context.Context, *socket.Request) (io.Reader, error) {
		return io.MultiReader(stamp(1, partOfAnswer), sayingReader{say}, errorReader{errors.New("the disk is gone")}), nil
	}
}

const partOfAnswer = 100_000

// sayingReader says that it was read, and ends.
type sayingReader struct{ say func(...any) }

func (r sayingReader) Read([]byte) (int, error) {
	r.say("failing")
	return 0, io.EOF
}

// transferRole sends the number of bytes that it is told, checks that they come back, and says whether the
// answer's first byte came before the last piece of the request was given out.
func transferRole(args []string, say func(...any), done <-chan struct{}) error {
	size, err := strconv.ParseInt(args[2], 10, 64)
	if err != nil {
		return err
	}
	consumer, err := socket.NewConsumer(args[0], uuid.MustParse(args[1]), quietBroker())
	if err != nil {
		return err
	}
	defer consumer.Close()
	say("ready")
	first := &firstByte{came: make(chan struct{})}
	last := &lastPiece{after: first.came}
	source := io.LimitReader(stampSource(1), size) // one source for both parts
	resp, err := consumer.Send(io.MultiReader(io.LimitReader(source, size-1), last, source), 10*time.Minute)
	if err == nil {
		first.r = resp
		err = isStamp(first, 1, size)
	}
	say("transferred", err == nil && last.inTime.Load(), err)
	<-done
	return err
}

// firstByte closes came when something has been read from r.
type firstByte struct {
	r    io.Reader
	came chan struct{}
	once sync.Once
}

func (f *firstByte) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if n > 0 {
		f.once.Do(func() { close(f.came) })
	}
	return n, err
}

// lastPiece is an empty reader that waits for after, for a while.
type lastPiece struct {
	after  <-chan struct{}
	inTime atomic.Bool
}

func (l *lastPiece) Read([]byte) (int, error) {
	select {
	case <-l.after:
		l.inTime.Store(true)
	case <-time.After(30 * time.Second):
	}
	return 0, io.EOF
}

// brokerChild is a process that runs a role.
type brokerChild struct {
	t     testing.TB
	role  string
	cmd   *exec.Cmd
	lines chan []string
	kill  func() // by SIGKILL; it returns when the process has ended
}

func startBrokerChild(t testing.TB, role string, args ...string) *brokerChild {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBrokerChild$", "-test.timeout=15m")
	cmd.Env = append(os.Environ(), "BROKER_CHILD_ROLE="+role, "BROKER_CHILD_ARGS="+strings.Join(args, " "))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &brokerChild{t: t, role: role, cmd: cmd, lines: make(chan []string, 1000)}
	exited := make(chan error, 1)
	go func() {
		var other strings.Builder // the testing package's own lines
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == "child:" {
				c.lines <- words[1:]
			} else {
				fmt.Fprintln(&other, lines.Text())
			}
		}
		if err := cmd.Wait(); err != nil {
			exited <- fmt.Errorf("%w\n%s", err, other.String())
		}
		close(exited)
	}()
	c.kill = func() {
		_ = cmd.Process.Kill()
		await(t, exited, "the end of a "+role+" that was killed")
		c.kill = func() {}
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = stdin.Close()
		select {
		case err := <-exited:
			if err != nil {
				t.Errorf("%s: %v", role, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s does not end", role)
			_ = cmd.Process.Kill()
		}
	})
	return c
}

// await waits for a line of the process and returns what follows the event.
func (c *brokerChild) await(event string) []string {
	c.t.Helper()
	return c.awaitFor(event, 10*time.Second)
}

func (c *brokerChild) awaitFor(event string, patience time.Duration) []string {
	c.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case words := <-c.lines:
			if words[0] == event {
				return words[1:]
			}
		case <-timeout:
			c.t.Fatalf("%s has not said %q within %v", c.role, event, patience)
		}
	}
}

// startBrokerProcess starts a server in a process of its own and returns its address too.
func startBrokerProcess(t testing.TB, port string) (*brokerChild, string) {
	t.Helper()
	c := startBrokerChild(t, "broker", port)
	return c, "127.0.0.1:" + c.await("ready")[0]
}

// startProvider starts a provider's role in a process of its own.
func startProvider(t testing.TB, role, addr string, channel uuid.UUID) *brokerChild {
	t.Helper()
	c := startBrokerChild(t, role, addr, channel.String())
	c.await("ready")
	return c
}

// peakMemory is the most memory that the process has had in use, or 0 where the system does not tell.
func (c *brokerChild) peakMemory() int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}
