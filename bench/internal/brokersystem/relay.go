package brokersystem

import (
	"io"
	"net"
)

// startRelay pairs each connection of a client with one of the provider and copies bytes between them. The
// provider dials too, so that it needs no address of its own.
func startRelay(Config) (Endpoint, error) {
	clients, err := listen()
	if err != nil {
		return Endpoint{}, err
	}
	providers, err := listen()
	if err != nil {
		return Endpoint{}, err
	}
	go func() { complain("relay", pair(clients, providers)) }()
	return Endpoint{Clients: clients.Addr().String(), Providers: providers.Addr().String()}, nil
}

func pair(clients, providers net.Listener) error {
	for {
		client, err := clients.Accept()
		if err != nil {
			return err
		}
		provider, err := providers.Accept()
		if err != nil {
			return err
		}
		go copyBytes(client, provider)
		go copyBytes(provider, client)
	}
}

// copyBytes ends with either connection, and closes both: the other direction ends with it, and who waits for an answer
// fails.
func copyBytes(to, from net.Conn) {
	_, _ = io.Copy(to, from) // splice(2) on Linux
	_ = to.Close()
	_ = from.Close()
}
