package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// SidecarChannel is the channel on which a sidecar passes messages on to a UsageFlow service: see
// NewBrokerTransport and ServeTransport. It is 75736167-6566-8c6f-b773-696465636172.
var SidecarChannel = uuid.UUID{0x75, 0x73, 0x61, 0x67, 0x65, 0x66, 0x8c, 0x6f, 0xb7, 0x73, 0x69, 0x64, 0x65, 0x63, 0x61, 0x72}

// A request on the SidecarChannel is a message to the service, as it goes over a WebSocket, and its answer
// the reply. What else is wanted stands in its metadata under sidecarKind.
const (
	sidecarKind   = "kind"
	sidecarNotify = "notify" // no reply is awaited: the answer is empty, once the message is queued
	sidecarStatus = "status" // there is no message: the answer is empty, if the service is connected
)

// maxSidecarMessage is the size in bytes of the largest message that a sidecar takes; the service ends the
// connection on which a larger one comes. maxSidecarReply is that of the largest reply.
const (
	maxSidecarMessage = 1 << 20
	maxSidecarReply   = 16 << 20
)

var errMessageTooLarge = fmt.Errorf("socket: a message of more than %d bytes", maxSidecarMessage)

// sidecarFailures are the words that a failed answer on the SidecarChannel begins with, separated by commas
// and ended by a colon, and what they say to the worker.
var sidecarFailures = []struct {
	word string
	is   error // of the sidecar's transport
	says error // to the worker
}{
	{"not_connected", ErrNotConnected, ErrNotConnected},
	{"closed", ErrClosed, ErrNotConnected}, // it is the sidecar's that is closed
	{"unauthorized", ErrUnauthorized, ErrUnauthorized},
	{"timeout", ErrTimeout, ErrTimeout},
	{"connection_lost", ErrConnectionLost, ErrConnectionLost},
	{"queue_full", ErrQueueFull, ErrQueueFull},
	{"duplicate_id", ErrDuplicateID, ErrDuplicateID},
	{"canceled", context.Canceled, context.Canceled},
}

// sidecarFailure is what a sidecar answers where its transport returned err.
func sidecarFailure(err error) error {
	var words []string
	for _, f := range sidecarFailures {
		if errors.Is(err, f.is) {
			words = append(words, f.word)
		}
	}
	return fmt.Errorf("%s: %w", strings.Join(words, ","), err)
}

// sidecarError is a sidecarFailure as the worker gets it.
type sidecarError struct {
	kinds []error
	text  string
}

func (e *sidecarError) Error() string   { return e.text }
func (e *sidecarError) Unwrap() []error { return e.kinds }

// transportError turns what a request on the SidecarChannel ended with into an error of a Transport.
func transportError(err error) error {
	var remote *RemoteError
	switch {
	case errors.As(err, &remote):
		return parseSidecarFailure(remote.Message)
	case errors.Is(err, ErrNoProvider), errors.Is(err, ErrDraining), errors.Is(err, errLostUnsent):
		return fmt.Errorf("%w: the sidecar: %w", ErrNotConnected, err)
	case errors.Is(err, ErrBusy):
		return fmt.Errorf("%w: the sidecar: %w", ErrQueueFull, err)
	case errors.Is(err, ErrProviderLost):
		return fmt.Errorf("%w: the sidecar: %w", ErrConnectionLost, err)
	}
	return timeoutOr(err)
}

func parseSidecarFailure(message string) error {
	words, text, ok := strings.Cut(message, ": ")
	if !ok {
		return fmt.Errorf("socket: the sidecar failed: %s", message)
	}
	e := &sidecarError{text: text}
	for word := range strings.SplitSeq(words, ",") {
		for _, f := range sidecarFailures {
			if f.word == word {
				e.kinds = append(e.kinds, f.says)
			}
		}
	}
	return e
}
