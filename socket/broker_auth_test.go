package socket_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// connectBoth makes a consumer and a provider, closes them, and returns their errors by role.
func connectBoth(addr string, channel uuid.UUID, opts ...socket.ClientOption) map[socket.Role]error {
	opts = append([]socket.ClientOption{quietBroker()}, opts...)
	errs := make(map[socket.Role]error)
	c, err := socket.NewConsumer(addr, channel, opts...)
	if err == nil {
		_ = c.Close()
	}
	errs[socket.RoleConsumer] = err
	p, err := socket.NewProvider(addr, channel, opts...)
	if err == nil {
		_ = p.Close()
	}
	errs[socket.RoleProvider] = err
	return errs
}

func TestBrokerTokens(t *testing.T) {
	rig := newBrokerRig(t, socket.WithToken("the right token"))
	for name, test := range map[string]struct {
		opts    []socket.ClientOption
		refused bool
	}{
		"none":      {nil, true},
		"empty":     {[]socket.ClientOption{socket.WithToken("")}, true},
		"wrong":     {[]socket.ClientOption{socket.WithToken("the wrong token")}, true},
		"prefix":    {[]socket.ClientOption{socket.WithToken("the right toke")}, true},
		"longer":    {[]socket.ClientOption{socket.WithToken("the right token.")}, true},
		"very long": {[]socket.ClientOption{socket.WithToken(strings.Repeat("x", 1<<10))}, true},
		"right":     {[]socket.ClientOption{socket.WithToken("the right token")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			for role, err := range connectBoth(rig.addr, rig.channel, test.opts...) {
				if errors.Is(err, socket.ErrUnauthorized) != test.refused || (err != nil) != test.refused {
					t.Errorf("%v: got %v, want refused %v", role, err, test.refused)
				}
				if socket.Retryable(err) {
					t.Errorf("%v: %v is retryable", role, err)
				}
			}
		})
	}
	eventually(t, "nobody is left", func() bool {
		stats := rig.server.Stats()
		return stats.Consumers+stats.Providers+stats.Handshakes == 0
	})
}

func TestBrokerAuthorizer(t *testing.T) {
	own, foreign := uuid.New(), uuid.New()
	var mu sync.Mutex
	var peers []socket.Peer
	rig := newBrokerRig(t, socket.WithAuthorizer(func(p socket.Peer) error {
		mu.Lock()
		defer mu.Unlock()
		peers = append(peers, p)
		if p.Channel == own && (p.Token == "worker") == (p.Role == socket.RoleProvider) {
			return nil
		}
		return errors.New("a secret reason")
	}))
	for _, test := range []struct {
		channel            uuid.UUID
		token              string
		consumer, provider bool // let in
	}{
		{own, "worker", false, true},
		{own, "gateway", true, false},
		{own, "", true, false},
		{foreign, "worker", false, false},
		{foreign, "gateway", false, false},
	} {
		errs := connectBoth(rig.addr, test.channel, socket.WithToken(test.token))
		for role, in := range map[socket.Role]bool{socket.RoleConsumer: test.consumer, socket.RoleProvider: test.provider} {
			if err := errs[role]; in && err != nil || !in && !errors.Is(err, socket.ErrUnauthorized) {
				t.Errorf("%v with %q: got %v, want let in %v", role, test.token, err, in)
			} else if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%v: the reason has got out: %v", role, err)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(peers) != 10 {
		t.Errorf("the authorizer was asked %d times, want 10", len(peers))
	}
	for _, p := range peers {
		if p.RemoteAddr == nil || p.TLS != nil || p.Role.String() == "" {
			t.Errorf("got the peer %+v, want its address, its role and no TLS", p)
		}
	}
}

// An authorizer that panics lets nobody in, and takes nobody down.
func TestBrokerAuthorizerThatPanics(t *testing.T) {
	rig := newBrokerRig(t, socket.WithAuthorizer(func(p socket.Peer) error {
		if p.Token == "panic" {
			panic("the authorizer of a user panics")
		}
		return nil
	}))
	returnsWithin(t, 15*time.Second, "the constructors", func() {
		for role, err := range connectBoth(rig.addr, rig.channel, socket.WithToken("panic")) {
			if err == nil {
				t.Errorf("%v was let in", role)
			}
		}
	})
	rig.answering(echoHandler)
	echoes(t, rig.consumer(), "hello")
}

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "an authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = template, nil
	issued := a.issue(template)
	a.key = issued.PrivateKey.(*ecdsa.PrivateKey)
	a.cert = issued.Leaf
	a.pool.AddCert(a.cert)
	return a
}

// issue signs template; without a key of its own the authority lets it sign itself.
func (a *authority) issue(template *x509.Certificate) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	signer := a.key
	if signer == nil {
		signer = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) server() tls.Certificate {
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "the broker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

func (a *authority) client(name string) tls.Certificate {
	return a.issue(&x509.Certificate{
		Subject:  pkix.Name{CommonName: name},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func TestBrokerTLS(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	one := &tls.Config{Certificates: []tls.Certificate{a.server()}}
	mutual := &tls.Config{Certificates: []tls.Certificate{a.server()}, ClientCAs: a.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	alice := &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.client("alice")}}
	bob := &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{a.client("bob")}}
	forged := &tls.Config{RootCAs: a.pool, Certificates: []tls.Certificate{stranger.client("alice")}}
	nobody := &tls.Config{RootCAs: a.pool}
	onlyAlice := socket.WithAuthorizer(func(p socket.Peer) error {
		if p.TLS == nil || len(p.TLS.PeerCertificates) == 0 || p.TLS.PeerCertificates[0].Subject.CommonName != "alice" {
			return errors.New("not alice")
		}
		return nil
	})
	for _, test := range []struct {
		name   string
		server []socket.ServerOption
		client *tls.Config // nil: a plain one
		let    bool
		want   error // where it is not let in; nil: any
	}{
		{"TLS", []socket.ServerOption{socket.WithTLS(one)}, nobody, true, nil},
		{"TLS, and the client knows another authority", []socket.ServerOption{socket.WithTLS(one)}, &tls.Config{RootCAs: stranger.pool}, false, nil},
		{"TLS, and the client expects another name", []socket.ServerOption{socket.WithTLS(one)}, &tls.Config{RootCAs: a.pool, ServerName: "example.com"}, false, nil},
		{"TLS, and a plain client", []socket.ServerOption{socket.WithTLS(one)}, nil, false, nil},
		{"no TLS, and a client that wants it", nil, nobody, false, nil},
		{"mutual TLS", []socket.ServerOption{socket.WithTLS(mutual)}, alice, true, nil},
		{"mutual TLS without a certificate", []socket.ServerOption{socket.WithTLS(mutual)}, nobody, false, nil},
		{"mutual TLS with a stranger's certificate", []socket.ServerOption{socket.WithTLS(mutual)}, forged, false, nil},
		{"mutual TLS for alice", []socket.ServerOption{socket.WithTLS(mutual), onlyAlice}, alice, true, nil},
		{"mutual TLS for alice, not bob", []socket.ServerOption{socket.WithTLS(mutual), onlyAlice}, bob, false, socket.ErrUnauthorized},
	} {
		t.Run(test.name, func(t *testing.T) {
			rig := newBrokerRig(t, append(test.server, socket.WithLimits(socket.Limits{HandshakeTimeout: time.Second}))...)
			option := socket.WithTLS(test.client)
			if test.let {
				rig.serve(rig.provider(option), echoHandler)
				consumer := rig.consumer(option)
				echoes(t, consumer, "hello")
				const size = 4 << 20
				resp, err := consumer.Send(stamp(1, size), 20*time.Second)
				if err == nil {
					err = isStamp(resp, 1, size)
				}
				if err != nil {
					t.Errorf("much data: %v", err)
				}
				rig.atRest()
				return
			}
			returnsWithin(t, 12*time.Second, "the constructors", func() {
				for role, err := range connectBoth(rig.addr, rig.channel, option) {
					if err == nil || test.want != nil && !errors.Is(err, test.want) {
						t.Errorf("%v: got %v, want %v", role, err, test.want)
					}
				}
			})
		})
	}
}
