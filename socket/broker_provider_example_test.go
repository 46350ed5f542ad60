package socket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/socket"
)

// A goroutine that only receives, and one for each request.
func ExampleProvider() {
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

	handleRequest := func(provider *socket.Provider, reqID uuid.UUID, r io.Reader) {
		if err := provider.Respond(reqID, upperCase(r), nil); err != nil {
			log.Print(err)
		}
	}
	go func() {
		for {
			reqID, r, ok := provider.Receive()
			if !ok {
				return // Provider closed
			}

			// Process in separate goroutine for concurrency
			go handleRequest(provider, reqID, r)
		}
	}()

	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	resp, err := consumer.Send(strings.NewReader("hello"), 5*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	printAll(resp)
	// Output: HELLO <nil>
}

// Serve does the receiving; the handler's context ends when the consumer gives up.
func ExampleProvider_Serve() {
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
	go provider.Serve(context.Background(), func(ctx context.Context, r *socket.Request) (io.Reader, error) {
		return io.MultiReader(strings.NewReader(r.Metadata["greeting"]+", "), r.Reader), ctx.Err()
	})

	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	resp, err := consumer.SendContext(context.Background(), strings.NewReader("world"), socket.WithMetadata(map[string]string{"greeting": "hello"}))
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Close()
	printAll(resp)
	// Output: hello, world <nil>
}

// A fixed number of workers: what they cannot take yet waits in the broker, and its deadline runs.
func ExampleProvider_workerPool() {
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
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() { answerAll(provider) })
	}

	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	var callers sync.WaitGroup
	var answered atomic.Int32
	for range 50 {
		callers.Go(func() {
			resp, err := consumer.Send(strings.NewReader("job"), 5*time.Second)
			if err != nil {
				log.Print(err)
				return
			}
			if answer, err := io.ReadAll(resp); err == nil && string(answer) == "JOB" {
				answered.Add(1)
			}
		})
	}
	callers.Wait()
	provider.Close() // ends the workers
	workers.Wait()
	fmt.Println(answered.Load(), "jobs done")
	// Output: 50 jobs done
}

// Several providers of one channel share its requests.
func ExampleNewProvider_loadBalancing() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr, channelID := "127.0.0.1:"+server.Port(), uuid.New()

	// Start 5 providers
	var counts [5]atomic.Int32
	var started, ended sync.WaitGroup
	stop := make(chan struct{})
	for i := 0; i < 5; i++ {
		started.Add(1)
		ended.Add(1)
		go func(id int) {
			defer ended.Done()
			provider, err := socket.NewProvider(addr, channelID)
			started.Done() // when it has returned, the provider gets requests
			if err != nil {
				log.Print(err)
				return
			}
			defer provider.Close()
			go func() {
				<-stop
				provider.Close()
			}()

			for {
				reqID, r, ok := provider.Receive()
				if !ok {
					return
				}
				// Process and respond
				counts[id].Add(1)
				provider.Respond(reqID, upperCase(r), nil)
			}
		}(i)
	}
	started.Wait()

	// Consumers automatically load balanced across providers
	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	for range 50 {
		resp, err := consumer.Send(strings.NewReader("job"), 5*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp); err != nil {
			log.Fatal(err)
		}
	}
	close(stop)
	ended.Wait()
	all, idle := 0, 0
	for i := range counts {
		all += int(counts[i].Load())
		if counts[i].Load() == 0 {
			idle++
		}
	}
	fmt.Println(all, "jobs done,", idle, "providers idle")
	// Output: 50 jobs done, 0 providers idle
}

// A channel for each service: no request crosses over.
func ExampleNewProvider_serviceIsolation() {
	server := socket.NewServer("0")
	if err := server.Start(); err != nil {
		log.Fatal(err)
	}
	defer server.Stop()
	addr := "127.0.0.1:" + server.Port()

	authChannel := uuid.MustParse("550e8400-e29b-41d4-a716-446655440000")
	dataChannel := uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")

	authProvider, _ := socket.NewProvider(addr, authChannel)
	defer authProvider.Close()
	dataProvider, _ := socket.NewProvider(addr, dataChannel)
	defer dataProvider.Close()

	// Isolated traffic, no cross-contamination
	answer := func(name string) socket.Handler {
		return func(_ context.Context, r *socket.Request) (io.Reader, error) {
			return io.MultiReader(strings.NewReader(name+" got "), r.Reader), nil
		}
	}
	go authProvider.Serve(context.Background(), answer("auth"))
	go dataProvider.Serve(context.Background(), answer("data"))
	for _, channel := range []uuid.UUID{authChannel, dataChannel} {
		consumer, err := socket.NewConsumer(addr, channel)
		if err != nil {
			log.Fatal(err)
		}
		defer consumer.Close()
		resp, err := consumer.Send(strings.NewReader("a question"), 5*time.Second)
		if err != nil {
			log.Fatal(err)
		}
		printAll(resp)
	}
	// Output:
	// auth got a question <nil>
	// data got a question <nil>
}

// An error that a provider responds with is a *RemoteError at the consumer.
func ExampleProvider_Respond() {
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
	processRequest := func(r io.Reader) ([]byte, error) {
		data, err := io.ReadAll(r)
		if err == nil && len(data) == 0 {
			err = errors.New("nothing to do")
		}
		return data, err
	}
	go func() {
		for {
			reqID, r, ok := provider.Receive()
			if !ok {
				return
			}

			data, err := processRequest(r)
			if err != nil {
				provider.Respond(reqID, nil, err) // Send error to consumer
				continue
			}
			provider.Respond(reqID, bytes.NewReader(data), nil)
		}
	}()

	consumer, err := socket.NewConsumer(addr, channelID)
	if err != nil {
		log.Fatal(err)
	}
	defer consumer.Close()
	for _, body := range []string{"work", ""} {
		resp, err := consumer.Send(strings.NewReader(body), 5*time.Second)
		if remote, ok := errors.AsType[*socket.RemoteError](err); ok {
			fmt.Println("the provider says:", remote.Message)
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		printAll(resp)
	}
	// Output:
	// work <nil>
	// the provider says: nothing to do
}
