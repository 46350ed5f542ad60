//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// peakMemory is the most that a process has had in memory, in MiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kib, err := strconv.Atoi(strings.Fields(after)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib >> 10
}

// TestHostileClients has clients do what no agent does, and an agent beside them that must not notice. The service's memory stays
// bounded, and those who are cut off are told why.
func TestHostileClients(t *testing.T) {
	aliases := 100_000
	if os.Getenv("SOAK") != "" {
		aliases = 1_000_000
	}
	p := newProgram(t)
	p.write("usageflow.yaml", fmt.Sprintf(loadConfiguration, 1_000_000))
	s := p.serve("--listen", "127.0.0.1:0")

	dial := func(key string) (*websocket.Conn, int) {
		t.Helper()
		ws, resp, err := websocket.DefaultDialer.Dial(s.agent, http.Header{"x-usage-key": {key}})
		if resp != nil {
			_ = resp.Body.Close()
		}
		switch {
		case err == nil:
			t.Cleanup(func() { _ = ws.Close() })
			return ws, resp.StatusCode
		case resp == nil:
			t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	for _, key := range []string{"", "wrong", strings.Repeat("x", 10_000)} {
		if _, status := dial(key); status != http.StatusUnauthorized {
			t.Errorf("a key of %d bytes: %d", len(key), status)
		}
	}

	// The agent that must not notice.
	stop := make(chan struct{})
	var slowest time.Duration
	var agents sync.WaitGroup
	agents.Go(func() {
		a := &agent{urls: []string{s.agent}}
		defer a.close()
		untilClosed(stop, func(i int) bool {
			start := time.Now()
			if reply, err := a.ask(t.Context(), "request_for_allocation", "GET /hot", "good-"+strconv.Itoa(i), 1); err != nil || reply.Error != "" {
				t.Errorf("the agent beside them: %+v, %v", reply, err)
				return false
			}
			slowest = max(slowest, time.Since(start))
			return true
		})
	})

	// Messages that are wrong are refused; the connection goes on.
	ws, _ := dial("uf_key_for_tests")
	for text, want := range map[string]string{
		`{"type":"request_for_allocation","id":"1","payload":{"alias":"GET /x","amount":-1}}`:                                              "invalid_amount",
		`{"type":"request_for_allocation","id":"1","payload":{"alias":"GET /x","amount":NaN}}`:                                             "invalid_message",
		`{"type":"request_for_allocation","id":"1","payload":{"alias":"GET /x","amount":1e400}}`:                                           "invalid_message",
		`{"type":"request_for_allocation","id":"1","payload":{"alias":"GET /x","amount":1e300}}`:                                           "invalid_amount",
		`{"type":"request_for_allocation","id":"1","payload":{"amount":1}}`:                                                                "invalid_alias",
		`{"type":"use_allocation","id":"1","payload":{"alias":"GET /x","amount":1}}`:                                                       "invalid_allocation_id",
		`{"type":"drop_tables","id":"1"}`:                                                                                                  "unknown_type",
		`{"type":"request_for_allocation","id":"1","payload":` + strings.Repeat(`{"a":`, 20_000) + `1` + strings.Repeat("}", 20_000) + `}`: "invalid_message",
		strings.Repeat("[", 500_000): "invalid_message",
	} {
		if err := ws.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			t.Fatal(err)
		}
		var reply agentReply
		if err := ws.ReadJSON(&reply); err != nil || reply.Error != want {
			t.Errorf("%.60s: %+v, %v, want %s", text, reply, err, want)
		}
	}

	// 10 MiB: closed, with the reason.
	_ = ws.WriteMessage(websocket.TextMessage, bytes.Repeat([]byte("x"), 10<<20)) // it may be cut off
	if _, _, err := ws.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseMessageTooBig) {
		t.Errorf("10 MiB: %v", err)
	}

	// Sockets that ask and never read: closed, at last without a word.
	for range 5 {
		deaf, _ := dial("uf_key_for_tests")
		agents.Go(func() {
			text := []byte(`{"type":"get_application_policies","id":"` + strings.Repeat("i", 200) + `"}`)
			for {
				if err := deaf.SetWriteDeadline(time.Now().Add(2 * time.Second)); err != nil {
					return
				}
				if deaf.WriteMessage(websocket.TextMessage, text) != nil {
					return // the service reads no more, or has closed
				}
			}
		})
	}

	// Ledgers without end.
	many, _ := dial("uf_key_for_tests")
	agents.Go(func() {
		for i := range aliases {
			text, err := json.Marshal(map[string]any{"type": "request_for_allocation", "id": "m", "payload": map[string]any{"alias": "GET /many " + strconv.Itoa(i), "amount": 1}})
			if err != nil {
				t.Error(err)
				return
			}
			if err := many.WriteMessage(websocket.TextMessage, text); err != nil {
				t.Errorf("alias %d: %v", i, err)
				return
			}
		}
	})
	for i := range aliases {
		if err := many.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := many.ReadMessage(); err != nil {
			t.Fatalf("alias %d: %v", i, err)
		}
	}
	close(stop)
	agents.Wait()
	peak := peakMemory(t, s.cmd.Process.Pid)
	t.Logf("%d aliases: a peak of %d MiB; the slowest answer beside them took %v", aliases, peak, slowest)
	if peak > 1024 {
		t.Errorf("the service has used %d MiB", peak)
	}
	// It starts again with all of them.
	if err := s.stop(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	start := time.Now()
	s = p.serve("--listen", "127.0.0.1:0")
	t.Logf("it starts with them in %v, and has %d MiB", time.Since(start), peakMemory(t, s.cmd.Process.Pid))
}
