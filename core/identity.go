package core

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxIdentityBytes is the longest identity that is used unchanged: the service closes a connection on
// which a message over 1 MiB comes, and a header can be that long.
const maxIdentityBytes = 512

type identityLocation int

const (
	inHeader identityLocation = iota + 1
	inQuery
	inPath
	inBody
	inBearer
	inCookie
)

// identitySource is one place of a request where an identity may stand.
type identitySource struct {
	location identityLocation
	name     string // of the header, parameter, field or cookie
	claim    string // of the JWT that stands there; empty: the value itself is the identity
	hashed   bool   // the place is secret: a hash of the value goes out
}

// newIdentitySource reads a policy's identity fields; false if it has none, or none that is known.
func newIdentitySource(p policy, secrets secretNames, raw bool) (identitySource, bool) {
	s := identitySource{name: strings.TrimSpace(p.IdentityFieldName)}
	switch strings.ToLower(strings.TrimSpace(p.IdentityFieldLocation)) {
	case "headers", "header":
		s.location, s.name = inHeader, http.CanonicalHeaderKey(s.name)
	case "query", "query_params":
		s.location = inQuery
	case "path_params", "path":
		s.location = inPath
	case "body":
		s.location = inBody
	case "bearer_token", "bearer", "jwt":
		s.location, s.claim, s.name = inBearer, s.name, "Authorization"
		if s.claim == "" {
			s.claim = "sub"
		}
	case "cookie", "cookies":
		s.location = inCookie
		s.name, s.claim = cookieSpec(s.name)
	default:
		return s, false
	}
	if s.name == "" {
		return s, false
	}
	s.hashed = s.claim == "" && !raw && (s.location == inCookie || secrets.has(s.name))
	return s, true
}

// cookieSpec reads name, cookie.name, or [technique=jwt]name[pick=claim].
func cookieSpec(spec string) (name, claim string) {
	rest, isJWT := strings.CutPrefix(spec, "[technique=jwt]")
	if isJWT {
		claim = "sub"
		if i := strings.Index(rest, "[pick="); i >= 0 && strings.HasSuffix(rest, "]") {
			rest, claim = rest[:i], rest[i+len("[pick="):len(rest)-1]
		}
	}
	if len(rest) > len("cookie.") && strings.EqualFold(rest[:len("cookie.")], "cookie.") {
		rest = rest[len("cookie."):]
	}
	return rest, claim
}

// identify finds the identity of a request: what Identify says, else the first that the policies find.
// identity is what goes out; raw is what stood in the request.
func (f *Flow) identify(r *Request, rl *rule) (identity, raw string) {
	if f.cfg.Identify != nil {
		if name, ok := f.callIdentify(r); ok {
			return safeIdentity(name), name
		}
	}
	for i := range rl.sources {
		s := &rl.sources[i]
		value := f.valueAt(s, r, rl)
		if value == "" {
			continue
		}
		if s.hashed {
			return shortHash(value), value
		}
		return safeIdentity(value), value
	}
	return "", ""
}

// valueAt reads one place of the request; "" if nothing is there.
func (f *Flow) valueAt(s *identitySource, r *Request, rl *rule) string {
	switch s.location {
	case inHeader:
		if s.name == "Host" {
			return r.Host
		}
		return r.Header.Get(s.name)
	case inQuery:
		return r.URL.Query().Get(s.name)
	case inPath:
		if r.Param == nil {
			return ""
		}
		if s.name == "*" { // the rest of the path, whatever the router calls it
			return strings.TrimPrefix(r.Param(rl.catchAll()), "/")
		}
		return r.Param(s.name)
	case inBody:
		return f.bodyField(r.Request, s.name)
	case inBearer:
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") {
			return ""
		}
		return f.claim(strings.TrimSpace(token), s.claim)
	case inCookie:
		for _, c := range r.Cookies() {
			if !strings.EqualFold(c.Name, s.name) {
				continue
			}
			if s.claim != "" {
				return f.claim(c.Value, s.claim)
			}
			return c.Value
		}
	}
	return ""
}

// scalarText is an identity's text: a string's own, a number as it was written. Anything else is no identity.
func scalarText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return ""
		}
		return strconv.FormatFloat(v, 'f', -1, 64)
	case int:
		return strconv.Itoa(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	}
	return ""
}

// safeIdentity is identity unchanged, but for what a message can't hold: one that is not UTF-8 or that is very long is
// named by its hash. So is one that looks like such a hash: else it could claim the ledger of the one that was hashed.
func safeIdentity(identity string) string {
	if len(identity) > maxIdentityBytes || !utf8.ValidString(identity) || isShortHash(identity) {
		return shortHash(identity)
	}
	return identity
}

const (
	hashPrefix = "sha256-"
	hashBytes  = 12
)

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hashPrefix + hex.EncodeToString(sum[:hashBytes])
}

func isShortHash(s string) bool {
	digits, ok := strings.CutPrefix(s, hashPrefix)
	return ok && len(digits) == 2*hashBytes && strings.Trim(digits, "0123456789abcdef") == ""
}
