package child

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"
)

// commandTimeout bounds every command; a child that does not answer in time is killed.
const commandTimeout = 2 * time.Minute

// A Process is a running child. It is not safe for concurrent use.
type Process struct {
	role string
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
}

// Start runs this program again as role, with GOMAXPROCS at the number of cores, and waits for its hello.
func Start(role string, arg, hello any) (*Process, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), roleEnv+"="+role, "GOMAXPROCS="+strconv.Itoa(runtime.NumCPU()))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{role: role, cmd: cmd, in: in, enc: json.NewEncoder(in), dec: json.NewDecoder(out)}
	if err := p.Do("start", arg, hello); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// Do sends a command and decodes its result into result, which may be nil.
func (p *Process) Do(cmd string, arg, result any) error {
	b, err := json.Marshal(arg)
	if err != nil {
		return err
	}
	guard := time.AfterFunc(commandTimeout, func() { _ = p.cmd.Process.Kill() })
	defer guard.Stop()
	if err := p.enc.Encode(request{Cmd: cmd, Arg: b}); err != nil {
		return fmt.Errorf("%s: %s: %w", p.role, cmd, err)
	}
	var resp response
	if err := p.dec.Decode(&resp); err != nil {
		return fmt.Errorf("%s: %s: no answer: %w", p.role, cmd, err)
	}
	if resp.Error != "" {
		return fmt.Errorf("%s: %s: %s", p.role, cmd, resp.Error)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(resp.Result, result)
}

// CPU is the user and system time that the child has used so far.
func (p *Process) CPU() (time.Duration, error) {
	var cpu time.Duration
	err := p.Do("cpu", nil, &cpu)
	return cpu, err
}

// Close ends the child and waits for it.
func (p *Process) Close() error {
	guard := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer guard.Stop()
	_ = p.in.Close() // the child's end of input
	return p.cmd.Wait()
}
