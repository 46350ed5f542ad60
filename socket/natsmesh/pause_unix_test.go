//go:build unix

package natsmesh_test

import "syscall"

// paused stops the process where it is; its connections stay open.
func (c *child) paused() error { return c.cmd.Process.Signal(syscall.SIGSTOP) }
