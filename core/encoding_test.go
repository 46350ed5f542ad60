package core_test

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// encode writes text through a compressor.
func encode(t *testing.T, encoding, text string) string {
	t.Helper()
	var out bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&out)
	case "zlib":
		w = zlib.NewWriter(&out)
	case "flate":
		fw, err := flate.NewWriter(&out, flate.BestCompression)
		if err != nil {
			t.Fatal(err)
		}
		w = fw
	}
	_, _ = io.WriteString(w, text)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// The amount is found in an encoded response, however it is cut into pieces; or the log says why not, once for a route and
// reason, and a counter counts.
func TestEncodedResponses(t *testing.T) {
	long := `{"text":"` + strings.Repeat("lorem ipsum ", 100_000) + `","n":5}`
	for name, tc := range map[string]struct {
		header string
		body   string
		want   float64
		reason string // "" where the amount is found
	}{
		"gzip":                    {"gzip", encode(t, "gzip", `{"n":5}`), 5, ""},
		"gzip by its old name":    {"X-GZIP", encode(t, "gzip", `{"n":5}`), 5, ""},
		"gzip in two members":     {"gzip", encode(t, "gzip", `{"n":`) + encode(t, "gzip", `5}`), 5, ""},
		"long gzip":               {"gzip", encode(t, "gzip", long), 5, ""},
		"deflate":                 {"deflate", encode(t, "zlib", long), 5, ""},
		"deflate without a frame": {"deflate", encode(t, "flate", long), 5, ""},
		"identity":                {"identity", `{"n":5}`, 5, ""},
		"gzip of something else":  {"gzip", encode(t, "gzip", `{"m":5}`), 1, "does not hold the field"},
		"gzip, cut off":           {"gzip", encode(t, "gzip", long)[:1000], 1, "can't be read to its end"},
		"gzip, damaged":           {"gzip", "\x1f\x8b\x08\x00garbage and more of it", 1, "can't be read to its end"},
		"gzip, then garbage":      {"gzip", encode(t, "gzip", `{"n":5}`) + "garbage", 5, "what it has told before"},
		"brotli that begins so":   {"br", "[\x03\x80\xff{\"n\":5}\x03", 1, "encoded (br)"},
		"no gzip at all":          {"gzip", "binary \x00\x01\x02", 1, "encoded (gzip)"},
		"deflate, damaged":        {"deflate", "\xff\xff\xff\xff\xff\xff\xff\xff", 1, "encoded (deflate)"},
		"brotli":                  {"br", "\x0b\x03\x80{\"n\":5}\x03", 1, "encoded (br)"},
		"brotli later, outside":   {"br", `{"n":5}`, 5, ""},
		"zstd":                    {"zstd", "\x28\xb5\x2f\xfd\x04\x00\x39\x00\x00", 1, "encoded (zstd)"},
		"two encodings":           {"gzip, br", encode(t, "gzip", `{"n":5}`), 1, "encoded (gzip, br)"},
		"less than can be told":   {"gzip", "\x1f", 1, "encoded (gzip)"},
		"a short text":            {"gzip", "{}", 1, "does not hold the field"},
		"nothing":                 {"gzip", "", 1, "does not hold the field"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("n")) }, func(c *core.Config) { c.PoolSize = 1 })
			served := int64(0)
			for _, size := range []int{len(tc.body) + 1, 1, 7} {
				if size < 7 && len(tc.body) > 5_000 {
					continue
				}
				handler := h.route("/x", func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Content-Encoding", tc.header)
					for rest := tc.body; rest != ""; rest = rest[min(size, len(rest)):] {
						_, _ = io.WriteString(w, rest[:min(size, len(rest))])
					}
				})
				if w := h.do(handler, get("/x")); w.Body.String() != tc.body {
					t.Errorf("the body has changed")
				}
				served++
			}
			s := h.settled(served)
			for _, u := range h.uses(int(served)) {
				if u.Amount != tc.want {
					t.Errorf("amount %v, want %v", u.Amount, tc.want)
				}
			}
			unknown, unreadable := int64(0), int64(0)
			if tc.reason != "" {
				if tc.want == 1 {
					unknown = served
				}
				if !strings.Contains(tc.reason, "field") {
					unreadable = served
				}
			}
			if s.UnknownAmounts != unknown || s.Unreadable != unreadable || s.InvalidAmounts != 0 {
				t.Errorf("stats %+v, want %d unknown, %d unreadable", s, unknown, unreadable)
			}
			if tc.reason != "" && (h.logs.Count("did not tell the amount") != 1 || h.logs.Count(tc.reason) != 1) {
				t.Errorf("want one line with %q in the log:\n%s", tc.reason, h.logs)
			}
		})
	}
}

// The stream of an encoder that flushes is read as it comes.
func TestEncodedStreams(t *testing.T) {
	h := newHarness(t, func(s *sockettest.Server) { s.SetPolicies(tracked("usage.total_tokens")) })
	h.do(h.route("/x", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		zw := gzip.NewWriter(w)
		for i := range 500 {
			_, _ = fmt.Fprintf(zw, "data: {\"usage\":{\"total_tokens\":%d}}\n\n", i)
			_ = zw.Flush()
		}
		_ = zw.Close()
	}), get("/x"))
	h.settled(1)
	if u := h.use(); u.Amount != 499 {
		t.Errorf("amount %v", u.Amount)
	}
}
