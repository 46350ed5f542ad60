package sqlite_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/service/documenttest"
	"github.com/usageflow/usageflow-go-middleware/service/sqlite"
)

func openDocuments(t *testing.T, dir string) documenttest.Store {
	t.Helper()
	store, err := sqlite.Open(sqlite.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func TestDocument(t *testing.T) {
	documenttest.Run(t, func(t *testing.T) func() documenttest.Store {
		dir := t.TempDir()
		return func() documenttest.Store { return openDocuments(t, dir) }
	})
}

// A backup has the configuration too.
func TestBackupHasDocument(t *testing.T) {
	store, err := sqlite.Open(sqlite.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.SaveDocument(t.Context(), []byte("configuration"), 0); err != nil {
		t.Fatal(err)
	}
	var copied bytes.Buffer
	if err := store.Backup(t.Context(), &copied); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	file, dir := filepath.Join(t.TempDir(), "backup"), filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(file, copied.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sqlite.Restore(t.Context(), file, dir); err != nil {
		t.Fatal(err)
	}
	restored := openDocuments(t, dir)
	defer restored.Close()
	if data, version, err := restored.LoadDocument(t.Context()); err != nil || version != 1 || string(data) != "configuration" {
		t.Errorf("restored: %q, %d, %v", data, version, err)
	}
}
