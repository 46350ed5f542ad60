package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/gofrs/flock"
)

// Files is a folder of a log.
type Files interface {
	Names() ([]string, error)
	Read(name string) ([]byte, error)
	Open(name string, create bool) (File, error)
	Rename(from, to string) error
	Remove(name string) error
	// Sync makes durable which files there are.
	Sync() error
}

// File is a file that is written.
type File interface {
	WriteAt(data []byte, offset int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

// Dir is a folder of the file system.
type Dir string

// Names implements Files.
func (d Dir) Names() (names []string, err error) {
	entries, err := os.ReadDir(string(d))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// Read implements Files.
func (d Dir) Read(name string) ([]byte, error) { return os.ReadFile(filepath.Join(string(d), name)) }

// Open implements Files.
func (d Dir) Open(name string, create bool) (File, error) {
	flags := os.O_WRONLY
	if create {
		flags |= os.O_CREATE | os.O_TRUNC
	}
	return os.OpenFile(filepath.Join(string(d), name), flags, 0o600)
}

// Rename implements Files.
func (d Dir) Rename(from, to string) error {
	return os.Rename(filepath.Join(string(d), from), filepath.Join(string(d), to))
}

// Remove implements Files.
func (d Dir) Remove(name string) error { return os.Remove(filepath.Join(string(d), name)) }

// Sync implements Files.
func (d Dir) Sync() error {
	if runtime.GOOS == "windows" {
		return nil // a folder can't be synced there, and need not be
	}
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// ErrInUse is returned by Lock where another process has the folder.
var ErrInUse = errors.New("the folder is in use by another process")

// Lock keeps other processes, and other callers in this one, from locking dir until unlock is called. The operating system
// unlocks it when the process ends, however it does.
func Lock(dir string) (unlock func() error, err error) {
	lock := flock.New(filepath.Join(dir, "lock"), flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if !locked {
		return nil, fmt.Errorf("%s: %w", dir, ErrInUse)
	}
	return lock.Close, nil
}
