package jwtverify_test

import (
	"fmt"
	"log"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/core/jwtverify"
)

// Identities come from tokens that the issuer has signed for this API.
func Example() {
	verifier, err := jwtverify.New(jwtverify.Config{
		JWKS:     "https://issuer.example/.well-known/jwks.json",
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
	verifier, err := jwtverify.New(jwtverify.Config{
		Keys:          map[string]any{"": []byte("a secret of at least 32 bytes....")},
		AllowNoExpiry: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = verifier.Verify("eyJhbGciOiJub25lIn0.eyJzdWIiOiJldmlsIn0.")
	fmt.Println(err)
	// Output: jwtverify: token signature is invalid: signing method none is invalid
}
