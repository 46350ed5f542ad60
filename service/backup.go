package service

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// serveBackup answers with a copy of the ledger, for as long as it takes. An answer that ends before its end is none.
func (s *Service) serveBackup(w http.ResponseWriter, r *http.Request) {
	ledger, ok := s.ledger.(Backuper)
	if !ok {
		writeError(w, http.StatusNotImplemented, "not_implemented", "this ledger is backed up by its own tools")
		return
	}
	rc := http.NewResponseController(w)
	// When its time to read is over, net/http takes the client for gone.
	if err := errors.Join(rc.SetReadDeadline(time.Time{}), rc.SetWriteDeadline(time.Time{})); err != nil {
		s.serverError(w, r, err)
		return
	}
	out := &backupWriter{w: w}
	if err := ledger.Backup(r.Context(), out); err != nil {
		if !out.begun {
			s.serverError(w, r, err)
			return
		}
		s.log.Error("a backup broke off", "error", err)
		panic(http.ErrAbortHandler) // the client must not take it for whole
	}
	s.log.Info("the ledger was backed up", "bytes", out.n)
}

// backupWriter sets the header before the first byte: until then, an error can be answered.
type backupWriter struct {
	w     http.ResponseWriter
	begun bool
	n     int64
}

var _ io.Writer = (*backupWriter)(nil)

func (b *backupWriter) Write(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.w.Header().Set("Content-Type", "application/vnd.sqlite3")
		b.w.Header().Set("Content-Disposition", `attachment; filename="usageflow-backup.db"`)
		b.w.Header().Set("Cache-Control", "no-store")
	}
	n, err := b.w.Write(p)
	b.n += int64(n)
	return n, err
}
