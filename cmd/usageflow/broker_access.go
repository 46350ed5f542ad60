package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// brokerAccess says who may use a broker: who shows its token, which may be read again, and on the sidecar's channel no provider
// but its own. Safe for concurrent use.
type brokerAccess struct {
	tokenFile string
	token     atomic.Pointer[string] // "" where none is wanted
	// sidecar is what the broker's own sidecar shows in place of the token, which may change before it connects again. "" without one.
	sidecar string
}

// newBrokerAccess reads the token. withSidecar says that the broker has a sidecar.
func newBrokerAccess(tokenFile, token string, withSidecar bool) (*brokerAccess, error) {
	a := &brokerAccess{tokenFile: tokenFile}
	if withSidecar {
		a.sidecar = rand.Text()
	}
	a.token.Store(&token)
	return a, a.reload()
}

// reload reads the token's file again, if there is one.
func (a *brokerAccess) reload() error {
	if a.tokenFile == "" {
		return nil
	}
	text, err := os.ReadFile(a.tokenFile)
	if err != nil {
		return fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	switch {
	case token == "":
		return fmt.Errorf("--token-file: %s holds no token", a.tokenFile)
	case strings.ContainsAny(token, "\r\n"):
		return fmt.Errorf("--token-file: %s holds more than one line", a.tokenFile)
	case len(token) > maxBrokerToken:
		return fmt.Errorf("--token-file: the token has %d bytes: %d are allowed", len(token), maxBrokerToken)
	}
	a.token.Store(&token)
	return nil
}

// wanted says whether clients must show a token.
func (a *brokerAccess) wanted() bool { return *a.token.Load() != "" }

// authorize is the server's authorizer.
func (a *brokerAccess) authorize(p socket.Peer) error {
	if a.sidecar != "" && p.Channel == socket.SidecarChannel && p.Role == socket.RoleProvider {
		if !sameToken(a.sidecar, p.Token) {
			return errors.New("the channel to the service has no provider but the broker's own")
		}
		return nil
	}
	if token := *a.token.Load(); token != "" && !sameToken(token, p.Token) {
		return errors.New("wrong token")
	}
	return nil
}

// sameToken compares in a time that says nothing of where two tokens differ.
func sameToken(want, got string) bool {
	w, g := sha256.Sum256([]byte(want)), sha256.Sum256([]byte(got))
	return subtle.ConstantTimeCompare(w[:], g[:]) == 1
}

// sidecarName is the name of the server that the broker's own sidecar asks for. Nobody has a certificate for a name that ends so.
const sidecarName = "sidecar.usageflow.invalid"

// brokerTLS is the TLS of a broker: its certificate, which clients must show one, and a way in for its own sidecar. That has a pair
// of keys that never leaves the process, and is certified by it for both sides: so it needs no certificate of the clients'
// authorities, and it does not matter for which names the broker's is, or when it is read again. Safe for concurrent use.
type brokerTLS struct {
	certificate *certificate
	clientCA    string // a file; "" where clients need no certificate
	clients     atomic.Pointer[tls.Config]
	inside      *tls.Config // of the server, for the sidecar
	sidecar     *tls.Config // of the sidecar
}

func newBrokerTLS(certFile, keyFile, clientCA string) (*brokerTLS, error) {
	own, err := newOwnCertificate()
	if err != nil {
		return nil, fmt.Errorf("make the sidecar's certificate: %w", err)
	}
	trusted := x509.NewCertPool()
	trusted.AddCert(own.Leaf)
	t := &brokerTLS{
		certificate: &certificate{certFile: certFile, keyFile: keyFile}, clientCA: clientCA,
		inside: &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, ClientCAs: trusted, ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true,
		},
		sidecar: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, RootCAs: trusted, ServerName: sidecarName},
	}
	return t, t.reload()
}

// reload reads the certificate and the clients' authorities again, for new connections. After an error both are as they were.
func (t *brokerTLS) reload() error {
	var authorities *x509.CertPool
	if t.clientCA != "" {
		text, err := os.ReadFile(t.clientCA)
		if err != nil {
			return fmt.Errorf("--tls-client-ca: %w", err)
		}
		authorities = x509.NewCertPool()
		if !authorities.AppendCertsFromPEM(text) {
			return fmt.Errorf("--tls-client-ca: %s holds no certificate in PEM form", t.clientCA)
		}
	}
	if err := t.certificate.reload(); err != nil {
		return err
	}
	// A resumed session would be one that the authorities of its time have let in.
	clients := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*t.certificate.current.Load()}, SessionTicketsDisabled: true}
	if authorities != nil {
		clients.ClientCAs, clients.ClientAuth = authorities, tls.RequireAndVerifyClientCert
	}
	t.clients.Store(clients)
	return nil
}

// server is the configuration of the server.
func (t *brokerTLS) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if hello.ServerName == sidecarName {
				return t.inside, nil
			}
			return t.clients.Load(), nil
		},
	}
}

// newOwnCertificate makes a pair of keys and certifies it by itself, for as long as the process lives.
func newOwnCertificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: sidecarName}, DNSNames: []string{sidecarName},
		// A clock that is set right later must not end it.
		NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, err
}
