package jwtverify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/usageflow/usageflow-go-middleware/core/jwtverify"
)

// signer is a key pair with its id.
type signer struct {
	method  jwt.SigningMethod
	private any
	public  any
	id      string
}

func newRSA(t *testing.T, id string) signer {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return signer{jwt.SigningMethodRS256, k, &k.PublicKey, id}
}

func newEC(t *testing.T, id string) signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{jwt.SigningMethodES256, k, &k.PublicKey, id}
}

func newEd(t *testing.T, id string) signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{jwt.SigningMethodEdDSA, private, public, id}
}

func newSecret(id string) signer {
	secret := []byte("0123456789abcdef0123456789abcdef")
	return signer{jwt.SigningMethodHS256, secret, secret, id}
}

// valid are the claims of a token that is valid for an hour.
func valid(more ...any) jwt.MapClaims {
	claims := jwt.MapClaims{"sub": "acme", "exp": time.Now().Add(time.Hour).Unix()}
	for i := 0; i+1 < len(more); i += 2 {
		claims[more[i].(string)] = more[i+1]
	}
	return claims
}

// critical is a token with an extension that must be understood.
func critical(t *testing.T, s signer, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, claims)
	token.Header["kid"], token.Header["crit"], token.Header["b65"] = s.id, []string{"b65"}, true
	text, err := token.SignedString(s.private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (s signer) sign(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(s.method, claims)
	if s.id != "" {
		token.Header["kid"] = s.id
	}
	text, err := token.SignedString(s.private)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// jwk is the signer's public key in a JSON Web Key Set.
func (s signer) jwk() map[string]string {
	b64 := base64.RawURLEncoding.EncodeToString
	m := map[string]string{"kid": s.id, "alg": s.method.Alg(), "use": "sig"}
	switch k := s.public.(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, then x and y
		if err != nil {
			panic(err)
		}
		m["kty"], m["crv"], m["x"], m["y"] = "EC", "P-256", b64(point[1:33]), b64(point[33:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(k)
	case []byte:
		m["kty"], m["k"] = "oct", b64(k)
	}
	return m
}

func keySet(t *testing.T, signers ...signer) []byte {
	t.Helper()
	keys := []map[string]string{}
	for _, s := range signers {
		keys = append(keys, s.jwk())
	}
	text, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func newVerifier(t *testing.T, cfg jwtverify.Config) *jwtverify.Verifier {
	t.Helper()
	v, err := jwtverify.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// A token that a key has signed is valid, of every kind of key, with an id and without; its claims come as they are written.
func TestKeys(t *testing.T) {
	for name, s := range map[string]signer{"RSA": newRSA(t, "k"), "EC": newEC(t, "k"), "Ed25519": newEd(t, "k"), "a secret": newSecret("k")} {
		v := newVerifier(t, jwtverify.Config{Keys: map[string]any{"k": s.public}})
		claims, err := v.Verify(s.sign(t, valid("customer", json.Number("12345678901234567890"), "plan", map[string]any{"id": 7})))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if claims["sub"] != "acme" || claims["customer"] != json.Number("12345678901234567890") || claims["plan"].(map[string]any)["id"] != json.Number("7") {
			t.Errorf("%s: claims %v", name, claims)
		}
		other := s
		other.id = "other"
		if _, err := v.Verify(other.sign(t, valid())); err == nil {
			t.Errorf("%s: a token with another key's id is valid", name)
		}
		for _, id := range []string{"", "unknown"} {
			s.id = id
			if _, err := newVerifier(t, jwtverify.Config{Keys: map[string]any{"": s.public}}).Verify(s.sign(t, valid())); err != nil {
				t.Errorf("%s, id %q: %v", name, id, err)
			}
		}
	}
}

// What is wrong with a token makes it invalid.
func TestInvalidTokens(t *testing.T) {
	key, stranger := newRSA(t, "k"), newRSA(t, "k")
	v := newVerifier(t, jwtverify.Config{Keys: map[string]any{"k": key.public}, Issuer: "https://issuer.example", Audience: "api"})
	good := func(more ...any) jwt.MapClaims {
		return valid(append([]any{"iss", "https://issuer.example", "aud", []string{"web", "api"}}, more...)...)
	}
	token := key.sign(t, good())
	if _, err := v.Verify(token); err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.public)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	noExpiry := good()
	delete(noExpiry, "exp")
	for name, bad := range map[string]string{
		"nothing":                  "",
		"no token":                 "a.b.c",
		"two parts":                parts[0] + "." + parts[1],
		"a stranger's":             stranger.sign(t, good()),
		"another signature":        parts[0] + "." + parts[1] + "." + strings.Split(stranger.sign(t, good()), ".")[2],
		"other claims":             parts[0] + "." + header(`{"sub":"evil","exp":9999999999}`) + "." + parts[2],
		"alg none":                 header(`{"alg":"none","kid":"k"}`) + "." + parts[1] + ".",
		"alg None":                 header(`{"alg":"None","kid":"k"}`) + "." + parts[1] + ".",
		"the public key as secret": signer{jwt.SigningMethodHS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil, "k"}.sign(t, good()),
		"its bytes as secret":      signer{jwt.SigningMethodHS256, der, nil, "k"}.sign(t, good()),
		"another kind of key":      newEC(t, "k").sign(t, good()),
		"expired":                  key.sign(t, good("exp", time.Now().Add(-time.Minute).Unix())),
		"not yet valid":            key.sign(t, good("nbf", time.Now().Add(time.Hour).Unix())),
		"without expiry":           key.sign(t, noExpiry),
		"another issuer":           key.sign(t, good("iss", "https://evil.example")),
		"another audience":         key.sign(t, good("aud", "web")),
		"no audience":              key.sign(t, valid("iss", "https://issuer.example")),
		"an expiry in words":       key.sign(t, good("exp", "tomorrow")),
		"a critical extension":     critical(t, key, good()),
		"a key id that is no text": header(`{"alg":"RS256","kid":7}`) + "." + parts[1] + "." + parts[2],
	} {
		if claims, err := v.Verify(bad); err == nil || claims != nil {
			t.Errorf("%s: claims %v, %v", name, claims, err)
		}
	}
	lenient := newVerifier(t, jwtverify.Config{Keys: map[string]any{"k": key.public}, Leeway: 2 * time.Minute, AllowNoExpiry: true})
	for _, claims := range []jwt.MapClaims{noExpiry, good("exp", time.Now().Add(-time.Minute).Unix())} {
		if _, err := lenient.Verify(key.sign(t, claims)); err != nil {
			t.Error(err)
		}
	}
	only := newVerifier(t, jwtverify.Config{Keys: map[string]any{"k": key.public}, Algorithms: []string{"RS512"}})
	if _, err := only.Verify(token); err == nil {
		t.Error("an algorithm that is not accepted is")
	}
}

func TestBadConfigurations(t *testing.T) {
	weak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]jwtverify.Config{
		"nothing":              {},
		"two sets":             {JWKSURL: "https://issuer.example", JWKSFile: "jwks.json"},
		"no URL":               {JWKSURL: "jwks.json"},
		"a private key":        {Keys: map[string]any{"k": weak}},
		"a short secret":       {Keys: map[string]any{"k": []byte("secret")}},
		"a text":               {Keys: map[string]any{"k": "0123456789abcdef0123456789abcdef"}},
		"nil":                  {Keys: map[string]any{"k": nil}},
		"a short Ed25519 key":  {Keys: map[string]any{"k": ed25519.PublicKey("short")}},
		"alg none":             {Keys: map[string]any{"k": bytes.Repeat([]byte("x"), 32)}, Algorithms: []string{"none"}},
		"an unknown algorithm": {Keys: map[string]any{"k": bytes.Repeat([]byte("x"), 32)}, Algorithms: []string{"RS257"}},
		"no file":              {JWKSFile: t.TempDir() + "/nowhere.json"},
		"another scheme":       {JWKSURL: "ftp://issuer.example/jwks.json"},
	} {
		if v, err := jwtverify.New(cfg); err == nil {
			_ = v.Close()
			t.Errorf("%s: taken", name)
		} else if !strings.HasPrefix(err.Error(), "jwtverify: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
