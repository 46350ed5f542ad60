// Package jwtverify checks the JWTs in which a policy finds identities, with github.com/golang-jwt/jwt/v5:
//
//	verifier, err := jwtverify.New(jwtverify.Config{JWKSURL: "https://issuer.example/.well-known/jwks.json", Audience: "my-api"})
//	if err != nil {
//		return err
//	}
//	defer verifier.Close()
//	flow, err := core.New(core.Config{APIKey: key, VerifyJWT: verifier.Verify})
//
// It is a package of its own, so that who verifies no tokens links no library for it.
package jwtverify

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	defaultRefreshInterval = time.Hour
	defaultFileInterval    = 10 * time.Second
	defaultTimeout         = 2 * time.Second
)

// Config says which tokens are valid. There must be Keys, a key set, or both.
type Config struct {
	// Keys by key id: *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, or a []byte secret of at least 32 bytes for HS256,
	// HS384 and HS512. The one with the id "" is for tokens for which there is no other key that fits.
	Keys map[string]any
	// JWKSURL is the https:// or http:// URL of a JSON Web Key Set (RFC 7517). Secret keys in it are not used. Who can answer in its
	// place can make tokens for anyone: http:// is for this machine.
	JWKSURL string
	// JWKSFile is the path of a file with a key set, in place of a URL. Its secret keys are used too.
	JWKSFile string
	// RefreshInterval is how often the set is read again. Default 1 h for a URL, 10 s for a file. A token with an unknown
	// key id makes it be read at once, at most every 10 s.
	RefreshInterval time.Duration
	// Timeout is the longest that Verify waits for keys that are being fetched. Default 2 s.
	Timeout time.Duration

	// Issuer and Audience, where they are set, must be those of the token.
	Issuer, Audience string
	// Algorithms are those that are accepted. Default: all that fit the keys; "none" never does.
	Algorithms []string
	// Leeway allows for clocks that differ. Default none.
	Leeway time.Duration
	// AllowNoExpiry accepts tokens without exp, which are valid for ever.
	AllowNoExpiry bool

	// Logger is told when keys can't be read, and when they can again. Default slog.Default().
	Logger *slog.Logger
	// Client fetches the JWKSURL, in at most 10 s. Default: one that follows no redirect from https to http.
	Client *http.Client
}

// Verifier verifies tokens. Safe for concurrent use.
type Verifier struct {
	// Static after construction.
	parser *jwt.Parser
	keys   map[string]key // Config.Keys
	set    *polledSet     // nil where there is none
}

var (
	errNoKeys  = errors.New("jwtverify: there are neither Keys nor a key set")
	errTwoSets = errors.New("jwtverify: JWKSURL and JWKSFile exclude each other")
	errNoKey   = errors.New("jwtverify: no key fits the token")
	// RFC 7515, section 4.1.11: who does not know an extension that is critical refuses the token. None is known here.
	errCritical = errors.New("jwtverify: the token has a critical extension")
)

// ErrKeysUnavailable is wrapped by Verify's error where the key set has never been read: the token may be valid. A flow takes
// such a request for one without an identity, which counts on the route's ledger for all of them.
var ErrKeysUnavailable = errors.New("the keys have not been read yet")

// asymmetric are the algorithms whose keys are public.
var asymmetric = [...]string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// New makes a verifier. A key set in a file is read now, one at a URL by the verifier's own goroutine: New does not wait for it.
func New(cfg Config) (*Verifier, error) {
	switch {
	case len(cfg.Keys) == 0 && cfg.JWKSURL == "" && cfg.JWKSFile == "":
		return nil, errNoKeys
	case cfg.JWKSURL != "" && cfg.JWKSFile != "":
		return nil, errTwoSets
	}
	v := &Verifier{keys: make(map[string]key, len(cfg.Keys))}
	for id, k := range cfg.Keys {
		if err := checkKey(k); err != nil {
			return nil, fmt.Errorf("jwtverify: key %q: %w", id, err)
		}
		v.keys[id] = key{public: k}
	}
	algorithms := cfg.Algorithms
	if len(algorithms) == 0 {
		algorithms = append(asymmetric[:len(asymmetric):len(asymmetric)], "HS256", "HS384", "HS512")
	}
	for _, name := range algorithms {
		if jwt.GetSigningMethod(name) == nil || name == "none" {
			return nil, fmt.Errorf("jwtverify: algorithm %q is not known", name)
		}
	}
	opts := []jwt.ParserOption{
		jwt.WithValidMethods(algorithms),
		jwt.WithJSONNumber(), // a long customer number must not become a float64
		jwt.WithLeeway(cfg.Leeway),
	}
	if cfg.Issuer != "" {
		opts = append(opts, jwt.WithIssuer(cfg.Issuer))
	}
	if cfg.Audience != "" {
		opts = append(opts, jwt.WithAudience(cfg.Audience))
	}
	if !cfg.AllowNoExpiry {
		opts = append(opts, jwt.WithExpirationRequired())
	}
	v.parser = jwt.NewParser(opts...)
	if cfg.JWKSURL != "" || cfg.JWKSFile != "" {
		set, err := newPolledSet(cfg)
		if err != nil {
			return nil, err
		}
		v.set = set
	}
	return v, nil
}

// checkKey says what is wrong with a key.
func checkKey(k any) error {
	switch k := k.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey:
		return nil
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return fmt.Errorf("an Ed25519 key of %d bytes", len(k))
		}
		return nil
	case []byte:
		if len(k) < 32 {
			return fmt.Errorf("a secret of %d bytes, which is less than 32", len(k))
		}
		return nil
	}
	return fmt.Errorf("%T is no public key, nor a secret", k)
}

// Verify checks a token's signature and times, and returns its claims; numbers are json.Number. It is core.Config.VerifyJWT.
// It waits only for keys that are being fetched, at most Config.Timeout. An error says why the token is not valid.
func (v *Verifier) Verify(token string) (map[string]any, error) {
	claims, parsed, err := v.parse(token)
	if errors.Is(err, jwt.ErrTokenSignatureInvalid) && v.set != nil && keyID(parsed) == "" && v.set.renew() {
		claims, _, err = v.parse(token) // it does not say which key it is signed with: the issuer may have a new one
	}
	if err != nil {
		return nil, fmt.Errorf("jwtverify: %w", err)
	}
	return claims, nil
}

func (v *Verifier) parse(text string) (jwt.MapClaims, *jwt.Token, error) {
	claims := jwt.MapClaims{}
	token, err := v.parser.ParseWithClaims(text, claims, v.keyFor)
	return claims, token, err
}

// keyID is the id of the key that a token says it is signed with; "" if it says none.
func keyID(token *jwt.Token) string {
	if token == nil {
		return ""
	}
	id, _ := token.Header["kid"].(string)
	return id
}

// keyFor chooses the keys that may have signed a token.
func (v *Verifier) keyFor(token *jwt.Token) (any, error) {
	if _, ok := token.Header["crit"]; ok {
		return nil, errCritical
	}
	id := keyID(token)
	if k, ok := v.keys[id]; ok && k.fits(token.Method) {
		return k.public, nil
	}
	if v.set != nil {
		found, err := v.set.find(id, token.Method)
		if len(found.Keys) > 0 {
			return found, nil
		}
		if err != nil && v.keys[""].public == nil {
			return nil, err
		}
	}
	if k := v.keys[""]; k.fits(token.Method) {
		return k.public, nil
	}
	return nil, errNoKey
}

// Close ends the verifier's goroutine, and waits for it. It is idempotent. Verify goes on with the keys that were read last.
func (v *Verifier) Close() error {
	if v.set != nil {
		v.set.close()
	}
	return nil
}
