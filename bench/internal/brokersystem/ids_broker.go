package brokersystem

import (
	"bufio"
	"fmt"
	"net"
	"sync"
)

// switchboard gives every request an id of its own on the provider's connection, and keeps whose it is until the end of
// the answer.
type switchboard struct {
	provider *idsPeer

	mu     sync.Mutex
	last   uint64
	routes map[uint64]route // by the id on the provider's connection
}

type route struct {
	client *idsPeer
	stream uint64 // the client's
}

// idsPeer is a connection of which one goroutine reads, and any write.
type idsPeer struct {
	nc net.Conn
	in *bufio.Reader

	mu  sync.Mutex
	out *bufio.Writer
}

func newIDsPeer(nc net.Conn) *idsPeer {
	return &idsPeer{nc: nc, in: bufio.NewReaderSize(nc, bufferSize), out: bufio.NewWriterSize(nc, bufferSize)}
}

func (p *idsPeer) send(frame []byte, flush bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.out.Write(frame); err != nil || !flush {
		return err
	}
	return p.out.Flush()
}

func (p *idsPeer) flush() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Flush()
}

func startSwitch(Config) (Endpoint, error) {
	clients, err := listen()
	if err != nil {
		return Endpoint{}, err
	}
	providers, err := listen()
	if err != nil {
		return Endpoint{}, err
	}
	go func() { complain("ids", serveSwitch(clients, providers)) }()
	return Endpoint{Clients: clients.Addr().String(), Providers: providers.Addr().String()}, nil
}

// serveSwitch takes one provider, and then any number of clients.
func serveSwitch(clients, providers net.Listener) error {
	nc, err := providers.Accept()
	if err != nil {
		return err
	}
	s := &switchboard{provider: newIDsPeer(nc), routes: make(map[uint64]route)}
	go func() {
		complain("ids: provider", s.serveProvider())
		s.abandon()
	}()
	for {
		nc, err := clients.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer nc.Close()
			complain("ids: client", untilEOF(s.serveClient(newIDsPeer(nc))))
		}()
	}
}

func (s *switchboard) serveClient(client *idsPeer) error {
	unfinished := make(map[uint64]uint64) // ids of requests of which more frames come, by the client's
	for {
		h, frame, err := peekFrame(client.in)
		if err != nil {
			return err
		}
		id, known := unfinished[h.stream]
		if !known {
			id = s.open(route{client, h.stream})
		}
		switch {
		case known && h.end():
			delete(unfinished, h.stream)
		case !known && !h.end():
			unfinished[h.stream] = id
		}
		setStream(frame, id)
		if err := s.provider.send(frame, client.in.Buffered() == len(frame)); err != nil {
			return err
		}
		if _, err := client.in.Discard(len(frame)); err != nil {
			return err
		}
	}
}

// serveProvider flushes the clients that have got something when there is nothing more to read at once.
func (s *switchboard) serveProvider() error {
	in := s.provider.in
	waiting := make(map[*idsPeer]struct{})
	for {
		h, frame, err := peekFrame(in)
		if err != nil {
			return err
		}
		to, ok := s.find(h)
		if !ok {
			return fmt.Errorf("a frame of the unknown request %d", h.stream)
		}
		setStream(frame, to.stream)
		if err := to.client.send(frame, false); err != nil {
			return err
		}
		waiting[to.client] = struct{}{}
		if _, err := in.Discard(len(frame)); err != nil {
			return err
		}
		if in.Buffered() > 0 {
			continue
		}
		for client := range waiting {
			if err := client.flush(); err != nil {
				return err
			}
		}
		clear(waiting)
	}
}

// abandon closes the connections of the clients that wait for an answer.
func (s *switchboard) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.routes {
		_ = r.client.nc.Close()
	}
}

func (s *switchboard) open(r route) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.routes[s.last] = r
	return s.last
}

// find forgets the route with the end of its answer.
func (s *switchboard) find(h header) (route, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.routes[h.stream]
	if h.end() {
		delete(s.routes, h.stream)
	}
	return r, ok
}
