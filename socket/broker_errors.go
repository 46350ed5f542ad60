package socket

import (
	"errors"
	"fmt"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// Errors of requests over a broker. docs/protocol.md says of each whether a provider may have seen the request.
var (
	// ErrNoProvider: the channel has no provider. The request was sent to nobody.
	ErrNoProvider = errors.New("socket: no provider")
	// ErrProviderLost: the provider that had the request was lost, or was closed, before its answer was complete.
	ErrProviderLost = errors.New("socket: provider lost")
	// ErrBusy: a limit of the broker is reached. The request was sent to nobody.
	ErrBusy = errors.New("socket: broker busy")
	// ErrDraining: the broker is stopping, or the provider was about to leave. Nobody has begun with the request.
	ErrDraining = errors.New("socket: broker draining")
	// errLostUnsent is an ErrProviderLost after which the request is known not to have been sent.
	errLostUnsent = fmt.Errorf("%w before the request was sent to it", ErrProviderLost)
	// ErrUnknownRequest: Respond was called for a request that the provider does not have: it was answered
	// already, its consumer gave up, its time is over, or it never was.
	ErrUnknownRequest = errors.New("socket: no such request")

	errNilReader   = errors.New("socket: nil reader")
	errNilContext  = errors.New("socket: nil context")
	errStarted     = errors.New("socket: server was started already")
	errBadProtocol = errors.New("socket: the peer broke the protocol")
)

// RemoteError is what a provider answered with in place of an answer. It is returned as *RemoteError.
type RemoteError struct {
	// Message is err.Error() of what the provider passed to Respond, or of what reading its answer
	// returned. Of a message over 1 MiB it is the first 1 MiB.
	Message string
}

// Error returns Message.
func (e RemoteError) Error() string { return e.Message }

// As lets errors.As find a RemoteError where the error is a *RemoteError.
func (e *RemoteError) As(target any) bool {
	t, ok := target.(*RemoteError)
	if ok {
		*t = *e
	}
	return ok
}

// Retryable says whether no provider has begun with a request that failed with err, so that it may be sent
// again, after a pause. It is true for ErrBusy, ErrDraining, ErrNoProvider and ErrNotConnected, and for an
// ErrProviderLost that came before the request was sent to the provider.
func Retryable(err error) bool {
	for _, e := range []error{ErrBusy, ErrDraining, ErrNoProvider, ErrNotConnected, errLostUnsent} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// brokerError turns an error of internal/broker into one of this package; others it leaves alone.
func brokerError(err error) error {
	switch e := err.(type) { //nolint:errorlint // internal/broker wraps none
	case *broker.Failure:
		return &RemoteError{Message: e.Message}
	case *broker.Error:
		return codeError(e)
	}
	switch {
	case err == broker.ErrLost: //nolint:errorlint // as above
		return ErrConnectionLost
	case brokeProtocol(err):
		return fmt.Errorf("%w: %w", errBadProtocol, err)
	}
	return err
}

// brokeProtocol says whether err is one of what the peer sent.
func brokeProtocol(err error) bool {
	return errors.Is(err, broker.ErrProtocol) || errors.Is(err, frame.ErrInvalid) || errors.Is(err, frame.ErrTooLarge)
}

func codeError(e *broker.Error) error {
	var err error
	switch e.Code {
	case frame.NoProvider:
		err = ErrNoProvider
	case frame.Busy:
		err = ErrBusy
	case frame.Draining:
		err = ErrDraining
	case frame.Unsent:
		err = errLostUnsent
	case frame.ProviderLost:
		err = ErrProviderLost
	case frame.Deadline:
		err = ErrTimeout
	case frame.Unauthorized:
		err = ErrUnauthorized
	case frame.Stopped, frame.Unresponsive:
		err = ErrConnectionLost
	case frame.Protocol:
		err = errBadProtocol
	default:
		return e
	}
	if e.Reason != "" {
		return fmt.Errorf("%w: %s", err, e.Reason)
	}
	return err
}
