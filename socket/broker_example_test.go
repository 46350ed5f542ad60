package socket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// upperCase is the work of the examples' providers.
func upperCase(r io.Reader) io.Reader {
	data, err := io.ReadAll(r)
	if err != nil {
		log.Print(err)
	}
	return bytes.NewReader(bytes.ToUpper(data))
}

// answerAll is the loop of an example's provider: it ends when the provider is closed.
func answerAll(provider *socket.Provider) {
	for {
		reqID, r, ok := provider.Receive()
		if !ok {
			return
		}
		provider.Respond(reqID, upperCase(r), nil)
	}
}

// printAll prints an answer.
func printAll(r io.Reader) {
	answer, err := io.ReadAll(r)
	fmt.Println(string(answer), err)
}

// A server runs until a signal comes.
func ExampleServer() {
	server := socket.NewServer("0") // "9090" where the clients need to know the port
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop() // Always stop server

	// Handle shutdown gracefully
	sigChan := make(chan os.Signal, 1)
	signal.Notify(sigChan, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(sigChan)
	sigChan <- os.Interrupt // here, in place of the one who presses Ctrl-C
	<-sigChan
	fmt.Println("stopped:", server.Stop())
	// Output: stopped: <nil>
}

// One consumer serves any number of requests, from any number of goroutines.
func ExampleConsumer() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	go answerAll(provider)

	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()

	for i := 0; i < 100; i++ {
		resp, err := consumer.Send(strings.NewReader("hello"), 5*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		if i == 99 {
			printAll(resp)
		}
	}
	// Output: HELLO <nil>
}

// A deadline that passes is context.DeadlineExceeded.
func ExampleConsumer_timeout() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID) // which never answers
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()

	resp, err := consumer.Send(strings.NewReader("hello"), 50*time.Millisecond)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			fmt.Println("Request timed out, retrying...")
		}
	}
	fmt.Println(resp)
	// Output:
	// Request timed out, retrying...
	// <nil>
}

// A request runs in a goroutine of its own, and the caller goes on when its own context ends.
func ExampleConsumer_cancellation() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	go answerAll(provider)
	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()

	request := func(data io.Reader) error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()

		// Send request in goroutine
		respCh := make(chan io.Reader, 1)
		errCh := make(chan error, 1)

		go func() {
			resp, err := consumer.Send(data, 10*time.Second)
			if err != nil {
				errCh <- err
				return
			}
			respCh <- resp
		}()

		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-errCh:
			return err
		case resp := <-respCh:
			printAll(resp)
			return nil
		}
	}
	fmt.Println(request(strings.NewReader("hello")))
	// Output:
	// HELLO <nil>
	// <nil>
}

// With SendContext the end of the caller's context is the end of the request, at the provider too.
func ExampleConsumer_SendContext() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()

	ctx, cancel := context.WithCancel(context.Background())
	given := make(chan error)
	go func() {
		request, err := provider.ReceiveContext(context.Background())
		if err != nil {
			log.Fatal(err)
		}
		cancel() // the caller loses its interest
		<-request.Context.Done()
		given <- request.Context.Err()
	}()

	_, err = consumer.SendContext(ctx, strings.NewReader("hello"))
	fmt.Println(errors.Is(err, context.Canceled), <-given)
	// Output: true context canceled
}

// A consumer that cannot connect waits longer each time.
func ExampleNewConsumer_retryWithBackoff() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	closed := socket.NewServer("0") // a port where nobody listens any more
	if err := closed.Start(); err != nil {
		log.Fatal(err)
	}
	nobody := "127.0.0.1:" + closed.Port()
	closed.Stop()

	connectWithRetry := func(addrs []string, channelID uuid.UUID) (*socket.Consumer, error) {
		backoff := 10 * time.Millisecond
		for _, addr := range addrs {
			consumer, err := socket.NewConsumer(addr, channelID)
			if err == nil {
				return consumer, nil
			}
			fmt.Printf("Connection failed, retrying in %v...\n", backoff)
			<-time.After(backoff)
			backoff *= 2
		}
		return nil, errors.New("max retries exceeded")
	}

	consumer, err := connectWithRetry([]string{nobody, nobody, "127.0.0.1:" + server.Port()}, uuid.New())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("closed:", consumer.Close())
	_, err = connectWithRetry([]string{nobody}, uuid.New())
	fmt.Println(err)
	// Output:
	// Connection failed, retrying in 10ms...
	// Connection failed, retrying in 20ms...
	// closed: <nil>
	// Connection failed, retrying in 10ms...
	// max retries exceeded
}

// A file is streamed: it is in no one's memory as a whole.
func ExampleConsumer_streamAFile() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	go provider.Serve(context.Background(), func(_ context.Context, r *socket.Request) (io.Reader, error) {
		n, err := io.Copy(io.Discard, r.Reader)
		return strings.NewReader(fmt.Sprint(n, " bytes")), err
	})
	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()

	dir, err := os.MkdirTemp("", "broker")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(dir+"/large_file.dat", make([]byte, 8<<20), 0o600); err != nil {
		log.Fatal(err)
	}

	file, _ := os.Open(dir + "/large_file.dat")
	defer file.Close()
	resp, err := consumer.Send(file, 60*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	printAll(resp)
	// Output: 8388608 bytes <nil>
}

// ConsumerPool spreads requests over several connections.
type ConsumerPool struct {
	consumers []*socket.Consumer
	mu        sync.Mutex
	idx       int
}

func (p *ConsumerPool) Get() *socket.Consumer {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.consumers[p.idx]
	p.idx = (p.idx + 1) % len(p.consumers)
	return c
}

// Several connections for those who need more than one carries.
func ExampleConsumer_pool() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	provider, err := socket.NewProvider(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer provider.Close()
	go answerAll(provider)

	// Create pool
	pool := &ConsumerPool{consumers: make([]*socket.Consumer, 10)}
	for i := 0; i < 10; i++ {
		pool.consumers[i], _ = socket.NewConsumer(addr, channelID)
		defer pool.consumers[i].Close()
	}

	var wg sync.WaitGroup
	var answers atomic.Int32
	for range 20 {
		wg.Go(func() {
			resp, err := pool.Get().Send(strings.NewReader("hello"), 5*time.Second)
			if err != nil {
				log.Print(err)
				return
			}
			if answer, err := io.ReadAll(resp); err == nil && string(answer) == "HELLO" {
				answers.Add(1)
			}
		})
	}
	wg.Wait()
	fmt.Println(answers.Load(), "answers over", server.Stats().Consumers, "connections")
	// Output: 20 answers over 10 connections
}
