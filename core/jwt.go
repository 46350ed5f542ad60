package core

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
)

// maxTokenBytes bounds what is decoded of a token; servers take headers of up to 1 MiB.
const maxTokenBytes = 16 << 10

// claim returns a claim of a JWT as text; "" if there is none, or the token is not valid.
func (f *Flow) claim(token, name string) string {
	if token == "" || len(token) > maxTokenBytes {
		return ""
	}
	claims, err := f.claims(token)
	if err != nil {
		f.counters.invalidTokens.Add(1)
		return ""
	}
	if v, ok := claims[name]; ok {
		return scalarText(v)
	}
	// A dotted name reaches into nested claims, where no claim has the whole name.
	var v any = claims
	for part := range strings.SplitSeq(name, ".") {
		object, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = object[part]
	}
	return scalarText(v)
}

func (f *Flow) claims(token string) (map[string]any, error) {
	if f.cfg.VerifyJWT != nil {
		return f.callVerifyJWT(token)
	}
	return unverifiedClaims(token)
}

// unverifiedClaims decodes the claims of a JWT (RFC 7519) and checks nothing.
func unverifiedClaims(token string) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil, errNotJWT
	}
	text, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return nil, errNotJWT
	}
	// Numbers stay as they are written: a float64 would change a long customer number.
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var claims map[string]any
	if err := dec.Decode(&claims); err != nil {
		return nil, errNotJWT
	}
	return claims, nil
}
