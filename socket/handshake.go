package socket

import (
	"fmt"
	"io"

	"github.com/google/uuid"

	"github.com/usageflow/usageflow-go-middleware/internal/broker"
	"github.com/usageflow/usageflow-go-middleware/internal/frame"
)

// maxHandshake is the size of the largest payload of a HELLO or WELCOME, or of a GOAWAY in their place.
const maxHandshake = frame.MaxToken + 64

// readHandshake reads one frame, and nothing of what comes after it. Where the peer says GOAWAY instead
// of what is wanted, that is the error.
func readHandshake(r io.Reader, want frame.Type) ([]byte, error) {
	var header [frame.HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	h, err := frame.ParseHeader(header[:])
	if err != nil {
		return nil, err
	}
	if h.Length > maxHandshake || h.Type != want && h.Type != frame.GoAway {
		return nil, fmt.Errorf("%w: %v of %d bytes in place of %v", broker.ErrProtocol, h.Type, h.Length, want)
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return nil, err
	}
	if h.Type == frame.GoAway {
		code, reason, err := frame.ParseEnd(payload)
		if err != nil {
			return nil, err
		}
		return nil, &broker.Error{Code: code, Reason: reason}
	}
	return payload, nil
}

func writeHandshake(w io.Writer, t frame.Type, payload []byte) error {
	b := frame.Header{Length: uint32(len(payload)), Type: t}.Append(nil)
	_, err := w.Write(append(b, payload...))
	return err
}

// hello is what a client says first.
func hello(role Role, channel uuid.UUID, token string) []byte {
	return frame.HelloPayload{
		MinVersion: frame.ProtocolVersion, MaxVersion: frame.ProtocolVersion,
		Role: frame.Role(role), Channel: channel, Token: token,
	}.Append(nil)
}
