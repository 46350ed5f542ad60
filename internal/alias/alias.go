// Package alias makes the names of ledgers. The client and the service share it, as both must give the same route the same name.
package alias

import (
	"strings"
	"unicode/utf8"
)

// Pattern is the one form of a route pattern whatever the router: /api/users/:id, /files/*.
// It reads gin's and echo's :id, *name and \: (a colon that begins no parameter, and is part of a name), chi's {id}, {id:regexp} and *, and
// net/http's {id}, {path...} and {$}.
func Pattern(pattern string) string {
	if !strings.ContainsAny(pattern, "{*\\") {
		return pattern
	}
	var out strings.Builder
	for i := 0; i < len(pattern); {
		switch b := pattern[i]; b {
		case '{':
			end := closingBrace(pattern, i)
			if end < 0 {
				out.WriteString(pattern[i:])
				return out.String()
			}
			out.WriteString(parameter(pattern[i+1 : end]))
			i = end + 1
		case '*':
			out.WriteByte('*')
			for i++; i < len(pattern) && pattern[i] != '/'; i++ {
			}
		default:
			// At the beginning of a segment the colon would look like that of a parameter.
			if b != '\\' || !strings.HasPrefix(pattern[i+1:], ":") || strings.HasSuffix(pattern[:i], "/") {
				out.WriteByte(b)
			}
			i++
		}
	}
	return out.String()
}

// closingBrace finds the brace that closes the one at open: a regular expression has braces of its own.
func closingBrace(pattern string, open int) int {
	depth := 0
	for i := open; i < len(pattern); i++ {
		switch pattern[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func parameter(inner string) string {
	name, _, _ := strings.Cut(inner, ":")
	switch {
	case name == "$":
		return ""
	case strings.HasSuffix(name, "..."):
		return "*"
	}
	return ":" + name
}

// Escape percent-encodes what would make an alias ambiguous in its method or pattern: a space, a
// control character, a literal %, and what is not UTF-8.
func Escape(s string) string {
	const hex = "0123456789ABCDEF"
	var out []byte
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		if r <= ' ' || r == '%' || r == 0x7f || (r >= 0x80 && r < 0xa0) || (r == utf8.RuneError && size == 1) {
			if out == nil {
				out = append(make([]byte, 0, len(s)+8), s[:i]...)
			}
			for _, b := range []byte(s[i : i+size]) {
				out = append(out, '%', hex[b>>4], hex[b&0xf])
			}
		} else if out != nil {
			out = append(out, s[i:i+size]...)
		}
		i += size
	}
	if out == nil {
		return s
	}
	return string(out)
}

// Ledger is the name of a ledger: the method, the canonical pattern and, where there is one, the
// identity, which is used unchanged. No two (method, pattern, identity) share an alias.
func Ledger(method, pattern, identity string) string {
	name := Escape(method) + " " + Escape(pattern)
	if identity == "" {
		return name
	}
	return name + " " + identity
}
