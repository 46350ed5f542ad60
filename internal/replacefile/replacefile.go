// Package replacefile puts a file in the place of another at once.
package replacefile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
)

// Write writes what from has to its end into a file of that name, and returns how many bytes it is. After an error, or a crash, the file is as
// it was before: the new one has its name only when it is whole and on disk.
func Write(name string, from io.Reader) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+"-*.tmp")
	if err != nil {
		return 0, err
	}
	n, err = io.Copy(f, from)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return 0, errors.Join(err, os.Remove(f.Name()))
	}
	return n, nil
}
