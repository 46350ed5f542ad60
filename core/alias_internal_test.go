package core

import (
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/usageflow/usageflow-go-middleware/internal/alias"
)

func FuzzCookieSpec(f *testing.F) {
	for _, s := range []string{"sid", "cookie.sid", "cookie.", "[technique=jwt]a[pick=b]", "[technique=jwt]", "[technique=jwt][pick=]", "[pick=x]", "[technique=jwt]a[pick=", "Cookie.a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, spec string) {
		name, claim := cookieSpec(spec)
		if len(name) > len(spec) || (claim != "" && !strings.HasPrefix(spec, "[technique=jwt]")) {
			t.Errorf("%q: name %q, claim %q", spec, name, claim)
		}
	})
}

// No two (method, route, identity) share an alias, and an alias holds nothing that would break it.
func FuzzLedgerAlias(f *testing.F) {
	f.Add("GET", "/a b", "c", "GET", "/a", "b c")
	f.Add("GET", "/a%20b", "", "GET", "/a b", "")
	f.Add("GET /a", "", "", "GET", "/a", "")
	f.Add("G", "\x00", "\xff", "G", "\x01", "\xfe")
	f.Add("G", "/", hashPrefix+strings.Repeat("0", 24), "G", "/", strings.Repeat("x", 600))
	f.Fuzz(func(t *testing.T, m1, p1, i1, m2, p2, i2 string) {
		name := func(m, p, i string) string { return alias.Ledger(m, p, safeIdentity(i)) }
		a, b := name(m1, p1, i1), name(m2, p2, i2)
		if same := m1 == m2 && p1 == p2 && i1 == i2; same != (a == b) {
			t.Fatalf("(%q, %q, %q) and (%q, %q, %q): %q and %q", m1, p1, i1, m2, p2, i2, a, b)
		}
		if !utf8.ValidString(a) || len(safeIdentity(i1)) > maxIdentityBytes {
			t.Fatalf("alias %q", a)
		}
		method, rest, _ := strings.Cut(a, " ")
		pattern, identity, _ := strings.Cut(rest, " ")
		if strings.ContainsFunc(method+pattern, unicode.IsControl) || identity != safeIdentity(i1) {
			t.Fatalf("alias %q of (%q, %q, %q)", a, m1, p1, i1)
		}
	})
}

// A configuration remembers a bounded number of routes, and answers for all.
func TestRulesAreBounded(t *testing.T) {
	c := newConfiguration([]policy{{Method: "GET", URL: "*", HasRateLimit: true}}, nil, nil, nil, nil)
	for i := range maxRules + 500 {
		if r := c.rule("GET", fmt.Sprintf("/%d", i)); !r.limited || r.alias != fmt.Sprintf("GET /%d", i) {
			t.Fatalf("rule %+v", r)
		}
	}
	if n := len(*c.rules.Load()); n != maxRules {
		t.Errorf("%d rules", n)
	}
	next := newConfiguration(nil, nil, nil, nil, nil)
	next.learnRoutes(c)
	if n := len(*next.rules.Load()); n != maxRules || next.rule("GET", "/1").limited {
		t.Errorf("%d rules", n)
	}
}

// A call that lasts does not hold on to those that came after it.
func TestInboxCutsItsNodesOff(t *testing.T) {
	q := inbox{wake: make(chan struct{}, 1)}
	var calls [3]Call
	for i := range calls {
		calls[i].begun.call = &calls[i]
		q.push(&calls[i].begun)
	}
	i := 0
	for n := q.take(); n != nil; i++ {
		if n.call != &calls[i] {
			t.Errorf("call %d is out of order", i)
		}
		n = n.pop()
	}
	for i := range calls {
		if calls[i].begun.next != nil {
			t.Errorf("call %d holds on to the next", i)
		}
	}
}
