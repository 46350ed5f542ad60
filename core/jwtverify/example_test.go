package jwtverify_test

import (
	"fmt"
	"log"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/core/jwtverify"
)

// Identities come from tokens that the issuer has signed for this API.
func Example() {
	verifier, err := jwtverify.New(jwtverify.Config{
		JWKSURL:  "https://issuer.example/.well-known/jwks.json",
		Issuer:   "https://issuer.example",
		Audience: "my-api",
	})
	if err != nil {
		log.Fatal(err)
	}
	defer verifier.Close()
	flow, err := core.New(core.Config{APIKey: "key", VerifyJWT: verifier.Verify})
	if err != nil {
		log.Fatal(err)
	}
	_ = flow // give it to a router's middleware
}

// A token that is signed with a secret which both sides know.
func ExampleVerifier_Verify() {
	secret := []byte("a secret of at least 32 bytes....")
	verifier, err := jwtverify.New(jwtverify.Config{Keys: map[string]any{"": secret}, Leeway: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	claims := jwt.MapClaims{"sub": "acme", "exp": time.Now().Add(time.Hour).Unix()}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(secret)
	if err != nil {
		log.Fatal(err)
	}
	verified, err := verifier.Verify(token)
	fmt.Println(verified["sub"], err)
	_, err = verifier.Verify("eyJhbGciOiJub25lIn0.eyJzdWIiOiJldmlsIn0.")
	fmt.Println(err)
	// Output:
	// acme <nil>
	// jwtverify: token signature is invalid: signing method none is invalid
}
