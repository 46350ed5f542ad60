//go:build linux

package main

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// smallDisk is the size of the spool's file system.
const smallDisk = 48 << 20

// mountSmall makes a small file system of a folder, and reports whether it could: that takes privileges.
func mountSmall(dir string) bool {
	return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=48m,mode=0700") == nil
}

func unmount(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }

// fillDisk leaves the spool no room: its file system is full or, where it has none of its own, the app may not write into files any more.
func (w *world) fillDisk() error {
	if !w.tmpfs {
		return unix.Prlimit(w.app.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1, Max: unix.RLIM_INFINITY}, nil)
	}
	f, err := os.Create(filepath.Join(w.spool, "filler"))
	if err != nil {
		return err
	}
	zeros := make([]byte, 64<<10)
	for written := 0; written < smallDisk; {
		n, err := f.Write(zeros)
		written += n
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// freeDisk takes that back.
func (w *world) freeDisk() error {
	if !w.tmpfs {
		return unix.Prlimit(w.app.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil)
	}
	return os.Remove(filepath.Join(w.spool, "filler"))
}
