package socket

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/gorilla/websocket"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opText  = byte(websocket.TextMessage)
	opClose = byte(websocket.CloseMessage)
	opPing  = byte(websocket.PingMessage)
	opPong  = byte(websocket.PongMessage)
)

// appendFrame appends a client's frame: final, masked, whatever its size (RFC 6455, sections 5.2 and
// 5.3). The WebSocket library would do the same in its own buffer, with an allocation and two locks for
// each message; here any number of messages becomes one write.
func appendFrame(dst []byte, opcode byte, payload []byte) []byte {
	const final, masked = 0x80, 0x80
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, final|opcode, masked|byte(n))
	case n <= 0xffff:
		dst = append(dst, final|opcode, masked|126, byte(n>>8), byte(n))
	default:
		dst = append(dst, final|opcode, masked|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	// The runtime's generator is ChaCha8 with a secret seed: nobody who chooses a payload can foresee
	// its mask, which is what the mask is for.
	key := rand.Uint32()
	dst = binary.LittleEndian.AppendUint32(dst, key)
	start := len(dst)
	dst = append(dst, payload...)
	mask(dst[start:], key)
	return dst
}

func mask(b []byte, key uint32) {
	wide := uint64(key)<<32 | uint64(key)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(wide >> (8 * i))
	}
}

// closePayload is the payload of a close frame that says code, or echoes it.
func closePayload(code int) []byte {
	return websocket.FormatCloseMessage(code, "")
}
