//go:build !unix

package main

import "os"

// notifyHangup does nothing: there is no such signal on this system.
func notifyHangup(chan<- os.Signal) {}
