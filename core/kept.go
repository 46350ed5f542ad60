package core

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/usageflow/usageflow-go-middleware/internal/replacefile"
)

// keptName is the file in SpoolDir with the last good configuration.
const keptName = "configuration.json"

// kept is what that file holds.
type kept struct {
	Key string `json:"key"` // the SHA-256 of the API key that it was made for
	description
}

func (f *Flow) keyHash() string {
	sum := sha256.Sum256([]byte(f.cfg.APIKey))
	return hex.EncodeToString(sum[:])
}

// keepDescription writes what the service says to SpoolDir, for the next start. Where that fails, the next refresh tries it again.
func (f *Flow) keepDescription(d description, digest [sha256.Size]byte) {
	text := marshal(kept{f.keyHash(), d})
	if _, err := replacefile.Write(filepath.Join(f.cfg.SpoolDir, keptName), bytes.NewReader(text)); err != nil {
		f.keepLog.say(func(int64) {
			f.log.Warn("usageflow: the configuration can't be kept for the next start", "error", err)
		})
		return
	}
	f.keptDigest = digest
}

// useKeptDescription puts the configuration in force that an earlier process has kept.
func (f *Flow) useKeptDescription() {
	text, err := os.ReadFile(filepath.Join(f.cfg.SpoolDir, keptName))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err == nil && k.Key != f.keyHash() {
		if n := f.outbox.spool.queue.Len(); n > 0 {
			f.log.Warn("usageflow: SpoolDir was another key's; the settlements in it are sent under this one", "count", n)
		}
		return // of another application, or of this one before it got another key
	}
	var c *configuration
	if err == nil {
		c, err = f.configure(k.description)
	}
	if err != nil {
		f.log.Warn("usageflow: the configuration that was kept for this start can't be read", "error", err)
		return
	}
	f.use(c)
	f.keptDigest = c.digest
	f.openGate()
}

// Ready waits until the flow has a configuration, from the service or, with SpoolDir, from an earlier process, or until ctx ends: the error says
// then what is missing. It is for readiness probes, to keep a process from traffic that would pass unmetered. Once it was nil, it is nil until
// Shutdown, also while the service is down.
func (f *Flow) Ready(ctx context.Context) error {
	select {
	case <-f.configured:
	default:
		select {
		case <-f.configured:
		case <-f.ctx.Done():
		case <-ctx.Done():
			if last := f.refreshError.Load(); last != nil {
				return fmt.Errorf("core: there is no configuration yet: %w: %w", context.Cause(ctx), *last)
			}
			return fmt.Errorf("core: there is no configuration yet: %w", context.Cause(ctx))
		}
	}
	if f.stopped.Load() {
		return errors.New("core: the flow was shut down")
	}
	return nil
}
