package core

import (
	"strings"
)

const masked = "****"

// secretNames decides by its name whether a header, parameter or field holds a secret. It errs on the safe side.
type secretNames map[string]struct{} // further names, in lower case

func newSecretNames(names []string) secretNames {
	s := make(secretNames, len(names))
	for _, name := range names {
		s[strings.ToLower(name)] = struct{}{}
	}
	return s
}

func (s secretNames) has(name string) bool {
	name = strings.ToLower(name)
	if _, ok := s[name]; ok {
		return true
	}
	for _, part := range []string{"authorization", "cookie", "token", "secret", "passw", "passphrase", "credential", "private", "signature", "session", "jwt"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	if strings.HasPrefix(name, "x-") && strings.HasSuffix(name, "key") {
		return true
	}
	plain := strings.NewReplacer("-", "", "_", "", ".", "").Replace(name)
	switch plain {
	case "key", "pin", "cvv", "cvc", "pwd", "auth", "sig", "ssn":
		return true
	}
	return strings.HasSuffix(plain, "apikey") || strings.HasSuffix(plain, "accesskey") || strings.HasSuffix(plain, "authkey") || strings.HasSuffix(plain, "signingkey")
}
