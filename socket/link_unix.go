//go:build unix

package socket

import (
	"net"
	"syscall"
)

// tryWriter returns a function that writes what the system takes without waiting, 0 bytes where it takes
// none; nil for a connection that has no such thing. One goroutine calls it at a time.
func tryWriter(conn net.Conn) func([]byte) (int, error) {
	var raw syscall.RawConn
	var err error
	switch c := conn.(type) { // a type that embeds one of these may do more than they in Write
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	}
	if raw == nil || err != nil {
		return nil
	}
	var b []byte
	var n int
	var failed error
	write := func(fd uintptr) bool {
		for {
			n, failed = syscall.Write(int(fd), b)
			if failed != syscall.EINTR {
				return true
			}
		}
	}
	return func(data []byte) (int, error) {
		b = data
		err := raw.Write(write)
		b = nil
		switch {
		case err != nil:
			return 0, err
		case failed == syscall.EAGAIN:
			return 0, nil
		case failed != nil:
			return 0, failed
		}
		return n, nil
	}
}
