package jwtverify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// key is a key that tokens may be signed with.
type key struct {
	public any
	id     string
	alg    string // that it is for; "": all of its kind
}

// fits reports whether a token that says it is signed by method may be signed with the key. No key fits two kinds of methods: a
// public key is never taken for a secret.
func (k key) fits(method jwt.SigningMethod) bool {
	if k.alg != "" && k.alg != method.Alg() {
		return false
	}
	switch method := method.(type) {
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		_, ok := k.public.(*rsa.PublicKey)
		return ok
	case *jwt.SigningMethodECDSA:
		public, ok := k.public.(*ecdsa.PublicKey)
		return ok && public.Curve.Params().BitSize == method.CurveBits
	case *jwt.SigningMethodEd25519:
		_, ok := k.public.(ed25519.PublicKey)
		return ok
	case *jwt.SigningMethodHMAC:
		_, ok := k.public.([]byte)
		return ok
	}
	return false
}

// parseSet reads a JSON Web Key Set. Keys that are not for signatures, or of unknown kinds, are left out; secret ones too, unless
// secrets says otherwise. A set without a usable key is an error.
func parseSet(text []byte, secrets bool) ([]key, error) {
	var set jwkset.JWKSMarshal
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	var list []key
	var problems []error
	for _, m := range set.Keys {
		forOthers := len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify)
		if m.USE == jwkset.UseEnc || forOthers || (m.KTY == jwkset.KtyOct && !secrets) {
			continue
		}
		m.X5U = "" // it would be another thing to fetch
		// Of a private key that is there by mistake, the public half is enough.
		jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{Private: m.KTY == jwkset.KtyOct}, jwkset.JWKValidateOptions{})
		if err == nil {
			err = checkKey(jwk.Key())
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("key %q: %w", m.KID, err))
			continue
		}
		list = append(list, key{public: jwk.Key(), id: m.KID, alg: string(m.ALG)})
	}
	if len(list) == 0 {
		return nil, errors.Join(append([]error{fmt.Errorf("there is no usable key in the set of %d", len(set.Keys))}, problems...)...)
	}
	return list, nil
}

// choose returns the keys of a list that fit a token: those of its id, or all where it has none.
func choose(list []key, id string, method jwt.SigningMethod) (fitting jwt.VerificationKeySet) {
	for _, k := range list {
		if (id == "" || k.id == id) && k.fits(method) {
			fitting.Keys = append(fitting.Keys, crypto.PublicKey(k.public))
		}
	}
	return fitting
}
