package replacefile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/usageflow/usageflow-go-middleware/internal/replacefile"
)

// A file is replaced as a whole; one that breaks off leaves what was there, and nothing beside it.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	broken := errors.New("broken")
	for _, tc := range []struct {
		from io.Reader
		want string
		err  error
	}{
		{strings.NewReader("old"), "old", nil},
		{io.MultiReader(strings.NewReader("ne"), iotest.ErrReader(broken)), "old", broken},
		{strings.NewReader("new"), "new", nil},
	} {
		n, err := replacefile.Write(name, tc.from)
		text, readErr := os.ReadFile(name)
		if !errors.Is(err, tc.err) || readErr != nil || string(text) != tc.want || (err == nil && n != int64(len(text))) {
			t.Errorf("%d, %v; the file is %q, %v", n, err, text, readErr)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	if _, err := replacefile.Write(filepath.Join(dir, "none", "file"), strings.NewReader("")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
