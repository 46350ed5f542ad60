package socket_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/usageflow/usageflow-go-middleware/socket"
	"github.com/usageflow/usageflow-go-middleware/socket/sockettest"
)

func ExampleNewUsageFlowSocketManager() {
	// Create manager
	manager := socket.NewUsageFlowSocketManager("api-key", 5)
	defer manager.Close()

	// Send async request
	response, err := manager.SendAsync(&socket.UsageFlowSocketMessage{
		Type:    "get_application_policies",
		Payload: nil,
	})
	if err != nil {
		// Handle error
		return
	}

	// Process response
	if response.Error != "" {
		// Handle error response
		return
	}

	// Use response.Payload
	fmt.Println(response.Payload)
}

// A reservation, against the fake service that stands in for a real one in tests.
func ExampleUsageFlowSocketManager_SendAsync() {
	service, err := sockettest.NewServer()
	if err != nil {
		log.Fatal(err)
	}
	defer service.Close()
	service.Limit("GET /api/reports acme", 1)

	manager, err := socket.NewManager(socket.ManagerConfig{APIKey: "api-key", URL: service.URL, PoolSize: 2})
	if err != nil {
		log.Fatal(err)
	}
	defer manager.Close()

	for range 2 {
		response, err := manager.SendAsync(&socket.UsageFlowSocketMessage{
			Type: socket.TypeRequestForAllocation,
			Payload: &socket.RequestForAllocation{
				Alias:  "GET /api/reports acme",
				Amount: 1,
			},
		})
		switch {
		case err != nil:
			fmt.Println("no answer:", err)
		case response.Refused():
			fmt.Println("refused:", response.Error)
		default:
			fmt.Println("allowed")
		}
	}
	// Output:
	// allowed
	// refused: rate_limit_exceeded
}

// What the errors of a call say about the message.
func ExampleUsageFlowSocketManager_Call() {
	manager, err := socket.NewManager(socket.ManagerConfig{APIKey: "api-key", URL: "ws://127.0.0.1:1/ws", PoolSize: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer manager.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err = manager.Call(ctx, &socket.UsageFlowSocketMessage{Type: socket.TypeGetPolicies})
	switch {
	case errors.Is(err, socket.ErrNotConnected), errors.Is(err, socket.ErrQueueFull):
		fmt.Println("it was not sent")
	case errors.Is(err, socket.ErrTimeout), errors.Is(err, socket.ErrConnectionLost):
		fmt.Println("it may have been acted on")
	}
	// Output:
	// it was not sent
}
