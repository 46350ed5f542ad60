package sqlite_test

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

// asNobody runs f on a thread for whose files root's rights count no more.
func asNobody(f func()) {
	const nobody = 65534
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()                                           // and never unlocked: the thread ends with the goroutine
		_, _, _ = syscall.RawSyscall(syscall.SYS_SETFSUID, nobody, 0, 0) // it returns no error; one who is not root needs none
		f()
	}()
	<-done
}

// A folder that can't be written is refused, and the error says why.
func TestReadOnlyFolder(t *testing.T) {
	dir, err := os.MkdirTemp("", "usageflow") // beneath a folder that everyone may enter
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := open(t, sqlite.Options{Dir: dir}).Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	asNobody(func() {
		if f, err := os.Create(dir + "/x"); err == nil {
			t.Error("the folder can be written", f.Close())
		}
		for range 2 {
			_, err = sqlite.Open(sqlite.Options{Dir: dir})
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v", err)
			}
		}
	})
	if err := open(t, sqlite.Options{Dir: dir}).Close(); err != nil {
		t.Errorf("with write permission again: %v", err)
	}
}
