package socket

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
)

// Golden bytes: RFC 6455 section 5.7, whose mask is put back in place of the random one.
func TestAppendFrameGolden(t *testing.T) {
	for _, tc := range []struct {
		opcode  byte
		payload string
		want    string // header and masked payload, with the mask 37fa213d
	}{
		{opText, "Hello", "8185" + "37fa213d" + "7f9f4d5158"},
		{opPing, "Hello", "8985" + "37fa213d" + "7f9f4d5158"},
		{opPong, "", "8a80" + "37fa213d"},
		{opClose, "\x03\xe8", "8882" + "37fa213d" + "3412"},
	} {
		got := appendFrame([]byte("before"), tc.opcode, []byte(tc.payload))
		got, ok := bytes.CutPrefix(got, []byte("before"))
		if !ok || len(got) != 6+len(tc.payload) {
			t.Fatalf("appendFrame(%q) = %x", tc.payload, got)
		}
		mask(got[6:], binary.LittleEndian.Uint32(got[2:6])) // undone
		copy(got[2:6], "\x37\xfa\x21\x3d")
		mask(got[6:], binary.LittleEndian.Uint32(got[2:6]))
		if hex.EncodeToString(got) != tc.want {
			t.Errorf("appendFrame(%q) = %x, want %s", tc.payload, got, tc.want)
		}
	}
}

func TestMasksDiffer(t *testing.T) {
	a, b := appendFrame(nil, opText, []byte("x")), appendFrame(nil, opText, []byte("x"))
	c := appendFrame(nil, opText, []byte("x"))
	if bytes.Equal(a[2:6], b[2:6]) && bytes.Equal(b[2:6], c[2:6]) {
		t.Errorf("three frames with the mask %x", a[2:6])
	}
}

// What appendFrame writes, a server that we did not write reads.
func FuzzAppendFrame(f *testing.F) {
	for _, n := range []int{0, 1, 7, 8, 9, 125, 126, 127, 65535, 65536} {
		f.Add(strings.Repeat("é", n/2))
	}
	server := frameReader(f)
	f.Fuzz(func(t *testing.T, payload string) {
		got, err := server(appendFrame(nil, opText, []byte(payload)))
		if err != nil || got != payload {
			t.Fatalf("the server read %q, %v; want %q", got, err, payload)
		}
	})
}

// frameReader returns a function that gives frames to a WebSocket server and returns what it read.
func frameReader(t testing.TB) func(frames []byte) (string, error) {
	type message struct {
		text string
		err  error
	}
	messages := make(chan message, 1)
	var upgrader websocket.Upgrader
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer ws.Close()
		for err == nil {
			var text []byte
			_, text, err = ws.ReadMessage()
			messages <- message{string(text), err}
		}
	}))
	ws, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(srv.URL, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ws.Close(); srv.Close() })
	return func(frames []byte) (string, error) {
		if _, err := ws.NetConn().Write(frames); err != nil {
			return "", err
		}
		m := <-messages
		return m.text, m.err
	}
}
