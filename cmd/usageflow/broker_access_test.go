package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

// A client must show the token, also another one after SIGHUP. The sidecar stays, whatever the token is.
func TestBrokerToken(t *testing.T) {
	srv := sockettest.New(t)
	p := newProgram(t, "USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL="+srv.URL)
	p.write("token", "first_token\n")
	b := p.broker("--token-file", "token")
	knock := func(token string) error {
		c, err := socket.NewConsumer(b.addr, socket.SidecarChannel, socket.WithToken(token), silent)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = ask(socket.NewBrokerTransport(c), "GET /x", "")
		return err
	}
	admits := func(right string, wrong ...string) {
		t.Helper()
		if err := knock(right); err != nil {
			t.Errorf("%s: %v", right, err)
		}
		for _, token := range wrong {
			if err := knock(token); !errors.Is(err, socket.ErrUnauthorized) {
				t.Errorf("%q: %v", token, err)
			}
		}
	}
	admits("first_token", "", "first_toke", "first_token ", "second_token")
	p.write("token", "second_token")
	b.signal(syscall.SIGHUP)
	b.logged("the token was read again")
	admits("second_token", "", "first_token")
	p.write("token", "")
	b.signal(syscall.SIGHUP)
	b.logged("the last one stays in force")
	admits("second_token", "")
	b.metric(`usageflow_broker_refused_clients_total{reason="unauthorized"} 7`)
	if err := b.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if b.log.Count("first_token")+b.log.Count("second_token") > 0 {
		t.Errorf("a token is in the log:\n%s", b.log)
	}
}

// Others than this machine are let in with a token; that it goes over the network as it is, is said.
func TestBrokerOnTheNetwork(t *testing.T) {
	p := newProgram(t, "USAGEFLOW_BROKER_TOKEN=secret")
	b := p.broker("--listen", "0.0.0.0:0")
	b.logged("level=WARN msg=\"the broker listens without TLS where others reach it")
	if _, err := socket.NewConsumer(b.addr, socket.SidecarChannel, silent); !errors.Is(err, socket.ErrUnauthorized) {
		t.Errorf("without the token: %v", err)
	}
	if err := b.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	p.pair(1)
	for _, listen := range []string{"0.0.0.0:0", ":0"} {
		srv := sockettest.New(t)
		p.env = []string{"USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL=" + srv.URL}
		b = p.broker("--listen", listen, "--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "cert.pem")
		b.becomesReady(200, "ready")
		if err := b.stop(syscall.SIGTERM); err != nil || b.log.Count("level=WARN") > 0 {
			t.Errorf("%v\n%s", err, b.log)
		}
	}
}

// Over TLS a worker reaches the service; a new certificate is used after SIGHUP, for new connections.
func TestBrokerTLS(t *testing.T) {
	srv := sockettest.New(t)
	p := newProgram(t, "USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL="+srv.URL, "USAGEFLOW_BROKER_TOKEN=secret")
	trusted := p.pair(1)
	b := p.broker("--tls-cert", "cert.pem", "--tls-key", "key.pem")
	b.becomesReady(200, "ready")
	call := func(roots *x509.CertPool, name string) error {
		c, err := socket.NewConsumer(b.addr, socket.SidecarChannel, socket.WithTLS(&tls.Config{RootCAs: roots, ServerName: name}), socket.WithToken("secret"), silent)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = ask(socket.NewBrokerTransport(c), "GET /x", "")
		return err
	}
	if err := call(trusted, "localhost"); err != nil {
		t.Error(err)
	}
	if err := call(trusted, sidecarName); err == nil {
		t.Error("a client with the name of the sidecar is let in")
	}
	if _, err := socket.NewConsumer(b.addr, socket.SidecarChannel, socket.WithToken("secret"), silent); err == nil {
		t.Error("a client without TLS is let in")
	}
	renewed := p.pair(2)
	b.signal(syscall.SIGHUP)
	b.logged("the certificate was read again")
	if err := call(renewed, "localhost"); err != nil {
		t.Errorf("the new certificate is not used: %v", err)
	}
	if err := call(trusted, "localhost"); err == nil {
		t.Error("the old certificate is used")
	}
	p.write("key.pem", "no key")
	b.signal(syscall.SIGHUP)
	b.logged("the last one stays in use")
	if err := call(renewed, "localhost"); err != nil {
		t.Errorf("after a certificate that is none: %v", err)
	}
	if err := b.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// With --tls-client-ca a client must show a certificate of those authorities; the sidecar needs none.
func TestBrokerMutualTLS(t *testing.T) {
	srv := sockettest.New(t)
	p := newProgram(t, "USAGEFLOW_API_KEY=uf_key", "USAGEFLOW_URL="+srv.URL)
	own := func(files *program) tls.Certificate {
		pair, err := tls.LoadX509KeyPair(filepath.Join(files.dir, "cert.pem"), filepath.Join(files.dir, "key.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	clients, strangers := newProgram(t), newProgram(t)
	clients.pair(2)
	strangers.pair(3)
	trusted := p.pair(1)
	authorities, err := os.ReadFile(filepath.Join(clients.dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	p.write("clients.pem", string(authorities))
	b := p.broker("--tls-cert", "cert.pem", "--tls-key", "key.pem", "--tls-client-ca", "clients.pem")
	b.becomesReady(200, "ready")
	call := func(name string, certificates ...tls.Certificate) error {
		config := &tls.Config{RootCAs: trusted, ServerName: name, Certificates: certificates}
		if name == sidecarName {
			config.InsecureSkipVerify = true // it is the server that must say no
		}
		c, err := socket.NewConsumer(b.addr, socket.SidecarChannel, socket.WithTLS(config), silent)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = ask(socket.NewBrokerTransport(c), "GET /x", "")
		return err
	}
	if err := call("localhost", own(clients)); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"localhost", sidecarName} {
		if call(name) == nil {
			t.Errorf("%s: a client without a certificate is let in", name)
		}
		if call(name, own(strangers)) == nil {
			t.Errorf("%s: a client with another's certificate is let in", name)
		}
	}
	if call(sidecarName, own(clients)) == nil {
		t.Error("a client is let in as the sidecar")
	}
	authorities, err = os.ReadFile(filepath.Join(strangers.dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	p.write("clients.pem", string(authorities))
	b.signal(syscall.SIGHUP)
	b.logged("the certificate was read again")
	if err := call("localhost", own(strangers)); err != nil {
		t.Errorf("after other authorities were read: %v", err)
	}
	if call("localhost", own(clients)) == nil {
		t.Error("the authorities of before are in force")
	}
	if err := b.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

// The sidecar can connect again after everything was read again.
func TestSidecarConnectsAfterAReload(t *testing.T) {
	p := newProgram(t)
	p.pair(1)
	path := func(name string) string { return filepath.Join(p.dir, name) }
	secure, err := newBrokerTLS(path("cert.pem"), path("key.pem"), path("cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	p.write("token", "first")
	access, err := newBrokerAccess(path("token"), "", true)
	if err != nil {
		t.Fatal(err)
	}
	for _, token := range []string{"first", "second"} {
		here, there := net.Pipe()
		server, client := tls.Server(here, secure.server()), tls.Client(there, secure.sidecar)
		ended := make(chan error, 1)
		go func() {
			err := server.HandshakeContext(t.Context())
			if err == nil {
				_, err = server.Write([]byte("!"))
			}
			ended <- err
		}()
		if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
			t.Errorf("%s: %v", token, err)
		}
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", token, err)
		}
		_, _ = here.Close(), there.Close()
		provider := socket.Peer{Role: socket.RoleProvider, Channel: socket.SidecarChannel, Token: access.sidecar}
		if err := access.authorize(provider); err != nil {
			t.Errorf("%s: %v", token, err)
		}
		provider.Token = token
		consumer := socket.Peer{Role: socket.RoleConsumer, Channel: socket.SidecarChannel, Token: access.sidecar}
		if access.authorize(provider) == nil || access.authorize(consumer) == nil {
			t.Errorf("%s: what the sidecar shows is good for others", token)
		}
		p.pair(2)
		p.write("token", "second")
		if err := errors.Join(secure.reload(), access.reload()); err != nil {
			t.Fatal(err)
		}
	}
}
