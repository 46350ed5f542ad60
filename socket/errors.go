package socket

import (
	"context"
	"errors"
)

var (
	// ErrNotConnected: no connection to the service, or to the broker, is up. Nothing was sent.
	ErrNotConnected = errors.New("socket: not connected")
	// ErrClosed: the manager, consumer, provider or server was closed.
	ErrClosed = errors.New("socket: closed")
	// ErrUnauthorized: the service refused the key in the handshake (401 or 403), or the broker the token or the client.
	ErrUnauthorized = errors.New("socket: unauthorized")
	// ErrTimeout: no reply came in time, or the request's time is over; it may have been acted on.
	// errors.Is(err, context.DeadlineExceeded) holds too.
	ErrTimeout error = timeoutError{}
	// ErrConnectionLost: the connection ended after the message or request was written and before its reply came;
	// the message may have been acted on.
	ErrConnectionLost = errors.New("socket: connection lost before the reply")
	// ErrQueueFull: the connection's queue of unsent bytes is full. The message was not sent.
	ErrQueueFull = errors.New("socket: send queue full")
	// ErrDuplicateID: a message with the same ID is still waiting for its reply on that connection. The
	// message was not sent.
	ErrDuplicateID = errors.New("socket: message id already in flight")
)

type timeoutError struct{}

func (timeoutError) Error() string        { return "socket: no reply in time" }
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Temporary() bool      { return true }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }
