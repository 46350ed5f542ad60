//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// notifyHangup sends SIGHUP, which asks to read the configuration again.
func notifyHangup(hangups chan<- os.Signal) { signal.Notify(hangups, syscall.SIGHUP) }
