package load

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestEveryRequestIsAnswered(t *testing.T) {
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		_, _ = w.Write([]byte(r.Header.Get("X-User")))
	}))
	defer server.Close()
	client := Client{
		Addr: strings.TrimPrefix(server.URL, "http://"), Conns: 4,
		Requests: [][]byte{
			[]byte("GET / HTTP/1.1\r\nHost: x\r\nX-User: a\r\n\r\n"),
			[]byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"),
		},
	}
	g, err := dial(client)
	if err != nil {
		t.Fatal(err)
	}
	defer g.close()
	answered := 0
	for range 2 { // on the same connections
		result, err := g.run(20 * time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		answered += result.Requests
	}
	if int64(answered) != served.Load() || answered < 8 {
		t.Errorf("answered %d, served %d", answered, served.Load())
	}
	client.Requests = [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")} // no Host: 400
	if g, err = dial(client); err != nil {
		t.Fatal(err)
	}
	defer g.close()
	if _, err := g.run(time.Millisecond); err == nil {
		t.Error("an answer other than 200 passed")
	}
}

func TestResponseSize(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want int
		ok   bool
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", 39 + 12, true},
		{"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\nA: b\r\n\r\n", 53, true},
		{"HTTP/1.1 200 OK\r\nContent-Le", -1, true},
		{"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", 0, false},
		{"HTTP/1.1 200 OK\r\n\r\n", 0, false},
	} {
		got, err := responseSize([]byte(tt.in))
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("responseSize(%q) = %d, %v; want %d", tt.in, got, err, tt.want)
		}
	}
}
