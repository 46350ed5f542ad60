package service

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"time"
)

//go:embed page
var pageFiles embed.FS

// pagePolicy lets the console load what the service itself serves, and nothing else.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// pageTypes is said whatever the machine's own table of types has: a browser runs no module that is
// not called a script.
var pageTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// page serves the files of the console. They hold no data: the console asks /api/v1 for it.
func page() http.Handler {
	type file struct {
		content       []byte
		kind, version string
	}
	entries, err := pageFiles.ReadDir("page")
	if err != nil {
		panic(err) // the name is the one in the go:embed line above
	}
	files := make(map[string]file, len(entries))
	for _, entry := range entries {
		content, err := pageFiles.ReadFile("page/" + entry.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(content)
		files["/"+entry.Name()] = file{content, pageTypes[path.Ext(entry.Name())], `"` + hex.EncodeToString(sum[:8]) + `"`}
	}
	files["/"] = files["/index.html"]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", pagePolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		found, ok := files[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h.Set("Content-Type", found.kind)
		h.Set("Cache-Control", "no-cache") // asks each time, and is told by the ETag that nothing is new
		h.Set("ETag", found.version)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(found.content))
	})
}
