//go:build !unix

package natsmesh_test

// paused ends the process: elsewhere it can't be stopped.
func (c *child) paused() error { return c.killed() }
