package jwtverify_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usageflow/usageflow-go-middleware/core"
	"github.com/usageflow/usageflow-go-middleware/core/jwtverify"
	"github.com/usageflow/usageflow-go-middleware/internal/logtest"
	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// issuer is a server with a key set, inside a synctest bubble where time goes as fast as it can.
type issuer struct {
	mu     sync.Mutex // guards set and answer
	set    []byte
	answer func(http.ResponseWriter) // in place of set
	reads  atomic.Int64
	logs   logtest.Buffer
	client *http.Client
}

// newIssuer serves a set through a transport of its own: no network is needed.
func newIssuer(set []byte) *issuer {
	i := &issuer{set: set}
	i.client = &http.Client{Transport: i}
	return i
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	i.reads.Add(1)
	i.mu.Lock()
	set, answer := i.set, i.answer
	i.mu.Unlock()
	if answer == nil {
		answer = func(w http.ResponseWriter) { _, _ = w.Write(set) }
	}
	w := httptest.NewRecorder()
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		answer(w)
	}()
	select {
	case failed := <-done:
		if failed != nil {
			return nil, fmt.Errorf("connection reset: %v", failed)
		}
		return w.Result(), nil
	case <-r.Context().Done():
		<-done
		return nil, r.Context().Err()
	}
}

func (i *issuer) change(set []byte, answer func(http.ResponseWriter)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.set, i.answer = set, answer
}

func (i *issuer) config() jwtverify.Config {
	return jwtverify.Config{JWKSURL: "https://user:secret@issuer.example/jwks.json", Client: i.client, Logger: slog.New(slog.NewTextHandler(&i.logs, nil))}
}

// A new key is found when the first token comes that is signed with it, and the old one goes with the next read.
func TestRotation(t *testing.T) {
	old, fresh := newEC(t, "old"), newRSA(t, "fresh")
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(keySet(t, old))
		v := newVerifier(t, i.config())
		claims := valid("exp", time.Now().Add(1000*time.Hour).Unix())
		check := func(s signer, ok bool, reads int64) {
			t.Helper()
			if _, err := v.Verify(s.sign(t, claims)); (err == nil) != ok || i.reads.Load() != reads {
				t.Errorf("%s: %v after %d reads, want %d", s.id, err, i.reads.Load(), reads)
			}
		}
		check(old, true, 1)
		check(fresh, false, 2) // it looks whether there is such a key now
		i.change(keySet(t, old, fresh), nil)
		check(fresh, false, 2) // too early to look again
		pass(11 * time.Second)
		check(fresh, true, 3)
		check(old, true, 3)
		i.change(keySet(t, fresh), nil)
		check(old, true, 3)
		pass(61 * time.Minute)
		check(old, false, 5) // the hourly read, and one for it
		check(fresh, true, 5)
		// A token need not say which key it is signed with.
		last := newEd(t, "")
		i.change(keySet(t, fresh, last), nil)
		pass(11 * time.Second)
		check(last, true, 6)
		check(newEd(t, ""), false, 6)
	})
}

// However many tokens with unknown ids come, the issuer is asked once in 10 s.
func TestUnknownKeysDoNotFlood(t *testing.T) {
	known, unknown := newEC(t, "known"), newEC(t, "")
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(keySet(t, known))
		v := newVerifier(t, i.config())
		start := time.Now()
		var all sync.WaitGroup
		for n := range 200 {
			s := unknown
			s.id = fmt.Sprint("unknown-", n)
			token := s.sign(t, valid())
			all.Go(func() {
				if _, err := v.Verify(token); err == nil {
					t.Error("it is valid")
				}
			})
		}
		all.Wait()
		if n := i.reads.Load(); n > 2 || time.Since(start) > 0 {
			t.Errorf("%d reads in %v", n, time.Since(start))
		}
	})
}

// While an issuer can't be reached the last keys stay. One that never could be, or that hangs, costs one wait and no more.
func TestIssuerOutage(t *testing.T) {
	key, other := newEC(t, "k"), newEC(t, "other")
	for name, answer := range map[string]func(http.ResponseWriter){
		"an error":       func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
		"a reset":        func(http.ResponseWriter) { panic("reset") },
		"no JSON":        func(w http.ResponseWriter) { _, _ = w.Write([]byte("<html>")) },
		"no keys":        func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"another object": func(w http.ResponseWriter) { _, _ = w.Write([]byte(`{"error":"x"}`)) },
		"too much":       func(w http.ResponseWriter) { _, _ = w.Write(bytes.Repeat([]byte(" "), 2<<20)) },
		"silence":        func(http.ResponseWriter) { pass(20 * time.Second) },
	} {
		synctest.Test(t, func(t *testing.T) {
			i := newIssuer(keySet(t, key))
			i.change(nil, answer)
			v := newVerifier(t, i.config())
			token := key.sign(t, valid("exp", time.Now().Add(1000*time.Hour).Unix()))
			start := time.Now()
			for range 100 {
				if _, err := v.Verify(token); err == nil {
					t.Errorf("%s: it is valid", name)
				}
			}
			if waited := time.Since(start); waited > 2*time.Second {
				t.Errorf("%s: 100 tokens waited %v", name, waited)
			}
			start = time.Now()
			for range 20 {
				pass(5 * time.Second)
				if _, err := v.Verify(token); !errors.Is(err, jwtverify.ErrKeysUnavailable) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if waited := time.Since(start); waited > 100*time.Second {
				t.Errorf("%s: later tokens waited %v", name, waited-100*time.Second)
			}
			i.change(keySet(t, key), nil)
			pass(90 * time.Second)
			if _, err := v.Verify(token); err != nil {
				t.Errorf("%s: afterwards: %v", name, err)
			}
			i.change(nil, answer)
			pass(3 * time.Hour)
			start = time.Now()
			if _, err := v.Verify(token); err != nil || time.Since(start) > 0 {
				t.Errorf("%s: with the last keys: %v after %v", name, err, time.Since(start))
			}
			if _, err := v.Verify(other.sign(t, valid())); err == nil {
				t.Errorf("%s: a stranger's token is valid", name)
			}
			if logs := i.logs.String(); strings.Count(logs, "can't be read") != 2 || strings.Contains(logs, "%!") || strings.Count(logs, "read again") != 1 || strings.Contains(logs, "secret") {
				t.Errorf("%s: log:\n%s", name, logs)
			}
		})
	}
}

// Of a set, what can verify a signature is used, and secrets only from a file.
func TestSets(t *testing.T) {
	key, secret := newEd(t, "k"), newSecret("s")
	set := []byte(strings.Replace(string(keySet(t, key, secret)), `{"keys":[`,
		`{"keys":[{"kty":"XYZ","kid":"x"},{"kty":"RSA","kid":"broken","n":"!"},{"kty":"RSA","use":"enc","kid":"k","n":"AQAB","e":"AQAB"},{"kty":"RSA","key_ops":["encrypt"],"kid":"k","n":"AQAB","e":"AQAB"},{"kty":"EC","crv":"P-256","x":"AA","y":"AA"},`, 1))
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, newIssuer(set).config())
		if _, err := v.Verify(key.sign(t, valid())); err != nil {
			t.Error(err)
		}
		if _, err := v.Verify(secret.sign(t, valid())); err == nil {
			t.Error("a secret from a URL is used")
		}
		anonymous := key
		anonymous.id = ""
		if _, err := v.Verify(anonymous.sign(t, valid())); err != nil {
			t.Errorf("without an id: %v", err)
		}
	})
	file := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(file, set, 0o600); err != nil {
		t.Fatal(err)
	}
	v := newVerifier(t, jwtverify.Config{JWKSFile: file})
	for _, s := range []signer{key, secret} {
		if _, err := v.Verify(s.sign(t, valid())); err != nil {
			t.Errorf("%s: %v", s.id, err)
		}
	}
}

// A file is read again, and what is broken in it harms nothing.
func TestFile(t *testing.T) {
	old, fresh := newEC(t, "old"), newEC(t, "fresh")
	file := filepath.Join(t.TempDir(), "jwks.json")
	write := func(text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write([]byte("{"))
	if _, err := jwtverify.New(jwtverify.Config{JWKSFile: file}); err == nil {
		t.Error("a broken file is taken")
	}
	write(keySet(t, old))
	synctest.Test(t, func(t *testing.T) {
		v := newVerifier(t, jwtverify.Config{JWKSFile: file, Logger: slog.New(slog.DiscardHandler)})
		claims := valid("exp", time.Now().Add(time.Hour).Unix())
		write(keySet(t, fresh))
		pass(11 * time.Second)
		if _, err := v.Verify(fresh.sign(t, claims)); err != nil {
			t.Error(err)
		}
		write([]byte("{"))
		pass(time.Minute)
		if _, err := v.Verify(fresh.sign(t, claims)); err != nil {
			t.Error(err)
		}
	})
}

// Close ends a read that is going on, and does not wait for the issuer.
func TestCloseDuringARead(t *testing.T) {
	key := newEC(t, "k")
	asked := make(chan struct{}, 1)
	ts := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer ts.Close()
	v, err := jwtverify.New(jwtverify.Config{JWKSURL: ts.URL, Timeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	<-asked
	failed := make(chan error)
	go func() {
		_, err := v.Verify(key.sign(t, valid()))
		failed <- err
	}()
	_ = v.Close()
	_ = v.Close()
	if err := <-failed; !errors.Is(err, jwtverify.ErrKeysUnavailable) {
		t.Errorf("got %v", err)
	}
	if _, err := v.Verify(key.sign(t, valid())); !errors.Is(err, jwtverify.ErrKeysUnavailable) {
		t.Errorf("got %v", err)
	}
}

// After Close, Verify goes on with the keys that were read last, and asks for no others.
func TestVerifyAfterClose(t *testing.T) {
	known, unknown := newEC(t, "known"), newEC(t, "unknown")
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(keySet(t, known))
		v := newVerifier(t, i.config())
		for range 2 {
			if _, err := v.Verify(known.sign(t, valid())); err != nil {
				t.Error(err)
			}
			_ = v.Close()
		}
		if _, err := v.Verify(unknown.sign(t, valid())); err == nil || i.reads.Load() != 1 {
			t.Errorf("%v after %d reads", err, i.reads.Load())
		}
	})
}

// A redirect may lead elsewhere, but not out of TLS.
func TestRedirects(t *testing.T) {
	key := newEC(t, "k")
	open := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keySet(t, key)) }))
	defer open.Close()
	target := open.URL
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target, http.StatusFound)
	}))
	defer secure.Close()
	client := secure.Client()
	trust := client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	old := http.DefaultTransport
	http.DefaultTransport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust}}
	defer func() { http.DefaultTransport = old }()
	var logs logtest.Buffer
	v := newVerifier(t, jwtverify.Config{JWKSURL: secure.URL, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	if _, err := v.Verify(key.sign(t, valid())); !errors.Is(err, jwtverify.ErrKeysUnavailable) || !strings.Contains(logs.String(), "from https to http") {
		t.Errorf("got %v, log:\n%s", err, &logs)
	}
	within := httptest.NewServer(http.RedirectHandler(open.URL, http.StatusFound))
	defer within.Close()
	if _, err := newVerifier(t, jwtverify.Config{JWKSURL: within.URL}).Verify(key.sign(t, valid())); err != nil {
		t.Error(err)
	}
}

// Over a real network, and in a flow: a verified claim is the identity, a forged one is none.
func TestInAFlow(t *testing.T) {
	key, forger := newRSA(t, "k"), newRSA(t, "k")
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keySet(t, key)) }))
	defer ts.Close()
	v := newVerifier(t, jwtverify.Config{JWKSURL: ts.URL})
	srv := sockettest.New(t)
	srv.SetPolicies(sockettest.Policy{Method: "GET", URL: "/x", IdentityFieldLocation: "bearer_token", IdentityFieldName: "customer"})
	var logs logtest.Buffer
	flow, err := core.New(core.Config{APIKey: "key", URL: srv.URL, VerifyJWT: v.Verify, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{key.sign(t, valid("customer", 77)), forger.sign(t, valid("customer", 78))} {
		r := httptest.NewRequest("GET", "/x", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		flow.Serve(httptest.NewRecorder(), &core.Request{Request: r, Route: "/x"}, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	}
	if err := flow.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	var aliases []string
	for _, m := range srv.Messages(socket.TypeUseAllocation) {
		aliases = append(aliases, m.Use().Alias)
	}
	if strings.Join(aliases, ", ") != "GET /x 77, GET /x" || flow.Stats().InvalidTokens != 1 || strings.Contains(logs.String(), "anyone can claim") {
		t.Errorf("aliases %q, stats %+v, log:\n%s", aliases, flow.Stats(), &logs)
	}
}

// Nothing listens: the first tokens are refused, at once.
func TestNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	v := newVerifier(t, jwtverify.Config{JWKSURL: "http://" + l.Addr().String(), Logger: slog.New(slog.DiscardHandler)})
	if _, err := v.Verify(newEC(t, "k").sign(t, valid())); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// pass lets time go by in a bubble, which takes none.
func pass(d time.Duration) { <-time.After(d) }
