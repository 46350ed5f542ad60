package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A worker that ends by itself is started again after a pause, which doubles while that goes on.
const (
	minPause = 100 * time.Millisecond
	maxPause = time.Second
)

// workerProcess is this program again, as a worker: what it does costs the API neither its memory nor its life.
type workerProcess struct {
	program string
	args    []string
	stderr  io.Writer
	log     *slog.Logger
	end     context.CancelFunc
	ended   chan struct{}
	err     error // of the last one; static once ended is closed
}

// startWorker starts a worker for the jobs of a broker, and keeps one there until stop.
func startWorker(broker, data string, stderr io.Writer, log *slog.Logger) (*workerProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("the worker: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &workerProcess{
		program: program, args: []string{workerCommand, "-broker", broker, "-data", data}, stderr: stderr, log: log,
		end: cancel, ended: make(chan struct{}),
	}
	go w.keep(ctx)
	return w, nil
}

// stop lets the worker end its jobs, and ends it after drainTimeout in any case.
func (w *workerProcess) stop() error {
	w.end()
	<-w.ended
	return w.err
}

func (w *workerProcess) keep(ctx context.Context) {
	defer close(w.ended)
	pause := minPause
	for {
		start := time.Now()
		err := w.run(ctx)
		if ctx.Err() != nil {
			w.err = err
			return
		}
		if time.Since(start) > 10*maxPause {
			pause = minPause
		}
		w.log.Warn("the worker has ended; another one follows", "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// run runs one worker to its end.
func (w *workerProcess) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, w.program, w.args...)
	cmd.Stderr = w.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = drainTimeout               // then it is killed
	if _, err := cmd.StdinPipe(); err != nil { // it is open for as long as this process lives
		return fmt.Errorf("the worker: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the worker: %w", err)
	}
	w.log.Info("a worker has started", "pid", cmd.Process.Pid)
	err := cmd.Wait()
	if cmd.ProcessState.Success() || ctx.Err() != nil && terminated(cmd.ProcessState) {
		return nil // Wait returns ctx's error
	}
	return fmt.Errorf("the worker: %w", err)
}

// terminated reports whether a process had not yet come to take a SIGTERM for what it is.
func terminated(state *os.ProcessState) bool {
	status, ok := state.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGTERM
}
